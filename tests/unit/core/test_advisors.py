"""Advisor folders as people write them: complete, minimal, and wrong in one place at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.advisors import load_advisor, require_id
from services.core.dimensions import DIMENSIONS
from services.core.errors import ConfigurationError


def ninefold(form: str) -> str:
    """Eight lines, each of which refers nine times to the one before it."""
    return "".join(f"a{n}: &a{n} {form.format(','.join([f'*a{n - 1}'] * 9))}\n" for n in range(1, 9))


NINEFOLD = "a0: &a0 [x]\n" + ninefold("[{}]")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "ansel"
    (path / "references").mkdir(parents=True)
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg"):
        (path / "references" / name).write_bytes(b"x")
    (path / "references" / "deeper").mkdir()
    return path


def sentence(folder: Path, advisor_id: str | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_advisor(folder, advisor_id)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_reads_a_complete_folder(folder: Path) -> None:
    (folder / "advisor.yaml").write_text(
        "id: ansel\nname: Ansel\nbio: |\n  Two\n  lines.\nyears: 1902-1984\n"
        "focus_areas: [tone, depth]\nvoice: calm\nlink: https://example.org\n"
    )
    (folder / "metadata.yaml").write_text(
        "b.jpg:\n  title: 'Lake'\n  year: 1941\n  location: A valley\n  description: Still water\n"
        "  significance: Calm\n  tags: [lake, dawn]\n  best_for: [lighting, Depth perspective]\n"
    )
    advisor = load_advisor(folder)
    assert (advisor.id, advisor.name, advisor.bio, advisor.years) == ("ansel", "Ansel", "Two lines.", "1902-1984")
    assert advisor.focus_areas == ("tone", "depth")
    assert (advisor.voice, advisor.link) == ("calm", "https://example.org")
    first, second = advisor.photographs
    assert (first.about.file_name, first.about.title, first.about.year) == ("a.PNG", "a", None)
    assert first.path == folder / "references" / "a.PNG"
    assert (second.about.title, second.about.year, second.about.location) == ("Lake", 1941, "A valley")
    assert second.about.tags == ("lake", "dawn")
    assert second.about.best_for == ("lighting", "depth_perspective")
    assert advisor.notices == ("notes.txt is passed over: its name does not end like that of a photograph.",)


def test_a_folder_of_photographs_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "my-hero"
    path.mkdir()
    (path / "one.jpeg").write_bytes(b"x")
    advisor = load_advisor(path)
    assert (advisor.id, advisor.name) == ("my-hero", "my-hero")
    assert [photograph.about.title for photograph in advisor.photographs] == ["one"]
    assert advisor.notices == ()
    assert load_advisor(path, "other").id == "other"


def test_says_what_it_passes_over(folder: Path) -> None:
    (folder / "advisor.yaml").write_text("nmae: Ansel\n")
    (folder / "metadata.yaml").write_text("../../etc/passwd: {title: No}\nb.jpg: {titel: Lake}\n")
    advisor = load_advisor(folder)
    assert [photograph.about.title for photograph in advisor.photographs] == ["a", "b"]
    notices = " ".join(advisor.notices)
    for word in ("nmae", "titel", "'../../etc/passwd'", "notes.txt"):
        assert word in notices


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("advisor.yaml", "id: Ansel Adams", ("advisor.yaml", "Ansel Adams", "a-z")),
        ("advisor.yaml", "name: [a, b]", ("advisor.yaml", "'name'", "quotes")),
        ("advisor.yaml", "focus_areas: {a: b}", ("'focus_areas'", "list")),
        ("advisor.yaml", "- a\n- b", ("name: value",)),
        ("advisor.yaml", "name: 'open", ("not YAML", "line")),
        ("advisor.yaml", "!!python/object/apply:os.system ['true']", ("not YAML",)),
        ("advisor.yaml", "bio: " + "x" * 5_000, ("5,000 characters",)),
        ("advisor.yaml", "[" * 5_000, ("advisor.yaml",)),
        ("metadata.yaml", "b.jpg: Lake", ("'b.jpg'", "title")),
        ("metadata.yaml", "b.jpg: {year: soon}", ("b.jpg", "soon", "1800 to 2200")),
        ("metadata.yaml", "b.jpg: {year: 1066}", ("1066",)),
        ("metadata.yaml", "b.jpg: {year: true}", ("True",)),
        ("metadata.yaml", "b.jpg: {year: [1941, 1942]}", ("b.jpg", "a list", "1800 to 2200")),
        ("metadata.yaml", "b.jpg: {description: 2020-13-45}", ("metadata.yaml", "line 1", "quotes")),
        ("metadata.yaml", "b.jpg:\n  title: 2001-02-03 25:00:00\n", ("line 2", "quotes")),
        ("metadata.yaml", "b.jpg: {title: " + "9" * 5_000 + "}", ("line 1", "quotes")),
        ("metadata.yaml", "b.jpg: {year: 0x" + "9" * 5_000 + "}", ("line 1", "quotes")),
        ("metadata.yaml", "b.jpg: {title: !!float ''}", ("line 1", "quotes")),
        ("metadata.yaml", "b.jpg: {year: " + ":".join(["59"] * 300_000) + "}", ("line 1", "quotes")),
        ("metadata.yaml", "b.jpg:\n  title: Lake\n  title: Sea\n", ("'title' a second time in line 3",)),
        ("metadata.yaml", "b.jpg: {title: Lake}\nb.jpg: {year: 1941}\n", ("'b.jpg' a second time in line 2",)),
        ("advisor.yaml", NINEFOLD + "focus_areas: !!pairs [a: *a8]\n", ("line 10",)),
        ("advisor.yaml", NINEFOLD + "focus_areas: !!omap [a: *a8]\n", ("line 10",)),
        ("advisor.yaml", "name: !!set {a, b}\n", ("line 1",)),
        ("advisor.yaml", "a0: &a0 {k: v}\n" + ninefold("{{<<: [{}]}}"), ("not YAML in line",)),
        ("metadata.yaml", "b.jpg: {best_for: [sharpness]}", ("sharpness", "focus_sharpness")),
    ],
)
def test_names_the_file_and_what_to_write(folder: Path, file: str, text: str, words: tuple[str, ...]) -> None:
    (folder / file).write_text(text)
    message = sentence(folder)
    for word in words:
        assert word in message


def test_what_photographs_share_is_written_once(folder: Path) -> None:
    (folder / "metadata.yaml").write_text(
        "a.PNG: &both {title: Lake, year: 1941}\nb.jpg: &sea {<<: *both, title: Sea}\nc.jpg: {<<: *sea, title: Sky}\n"
    )
    described = [(each.about.title, each.about.year) for each in load_advisor(folder).photographs]
    assert described == [("Lake", 1941), ("Sea", 1941)]


def test_refuses_text_that_is_not_utf8(folder: Path) -> None:
    (folder / "advisor.yaml").write_bytes(b"name: \xff\xfe\xfa")
    assert "UTF-8" in sentence(folder)


def test_refuses_missing_and_empty_folders(tmp_path: Path) -> None:
    assert "does not exist" in sentence(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    assert "not a folder" in sentence(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "no photograph" in sentence(tmp_path / "empty")


def test_the_id_asked_for_and_the_id_written_must_agree(folder: Path) -> None:
    (folder / "advisor.yaml").write_text("id: ansel")
    assert load_advisor(folder, "ansel").id == "ansel"
    assert "'ansel'" in sentence(folder, "okeefe")


@given(st.text(min_size=0, max_size=80))
def test_ids_are_lower_case_words(text: str) -> None:
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-")
    if 1 <= len(text) <= 64 and set(text) <= allowed:
        assert require_id(text) == text
    else:
        with pytest.raises(ConfigurationError, match="a-z"):
            require_id(text)


def test_the_dimensions_are_the_contracts_eight() -> None:
    assert DIMENSIONS == (
        "composition",
        "lighting",
        "focus_sharpness",
        "color_harmony",
        "subject_isolation",
        "depth_perspective",
        "visual_balance",
        "emotional_impact",
    )


def test_passes_over_what_only_looks_like_a_photograph_and_says_why(folder: Path) -> None:
    photographs = folder / "references"
    os.mkfifo(photographs / "pipe.jpg")
    (photographs / "drawer.jpg").mkdir()
    (photographs / "gone.jpg").symlink_to("nowhere")
    (photographs / "ring.jpg").symlink_to("ring.jpg")
    advisor = load_advisor(folder)
    assert [each.about.file_name for each in advisor.photographs] == ["a.PNG", "b.jpg"]
    for name, why in (("drawer", "a folder"), ("gone", "leads to none"), ("pipe", "no file"), ("ring", "no file")):
        assert any(notice.startswith(f"{name}.jpg is passed over") and why in notice for notice in advisor.notices)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"caf\xe9.jpg", "caf\\xe9.jpg"),
        (b"two\nlines.jpg", "two\\nlines.jpg"),
        (b"red\x1b[31m.jpg", "red\\x1b[31m.jpg"),
    ],
)
def test_a_name_that_is_no_line_of_text_is_not_stored_and_is_shown_escaped(
    folder: Path, name: bytes, shown: str
) -> None:
    Path(os.fsdecode(os.fsencode(folder / "references") + b"/" + name)).write_bytes(b"x")
    advisor = load_advisor(folder)
    assert [each.about.file_name for each in advisor.photographs] == ["a.PNG", "b.jpg"]
    assert f"{shown} is passed over: its name is not plain UTF-8 text, so rename it." in advisor.notices


def test_a_name_that_turns_what_follows_it_around_is_shown_escaped(folder: Path) -> None:
    (folder / "references" / "a\u202egpj.jpg").write_bytes(b"")
    (folder / "advisor.yaml").write_text('name: "\\u202eyliM\\u2066 \\u0627\\u200f"\n')
    advisor = load_advisor(folder, "ansel")
    assert "a\\u202egpj.jpg is passed over: its name is not plain UTF-8 text, so rename it." in advisor.notices
    # A mark of direction belongs to scripts that are written from right to left.
    assert advisor.name == "yliM \u0627\u200f"


def test_names_of_other_scripts_and_typographic_spaces_stay(folder: Path) -> None:
    names = ["写真.jpg", "Bildschirm\u202ffoto.jpg", "👩\u200d🎨.jpg"]
    for name in names:
        (folder / "references" / name).write_bytes(b"x")
    assert {each.about.file_name for each in load_advisor(folder).photographs} == {*names, "a.PNG", "b.jpg"}


@pytest.mark.parametrize("file", ["advisor.yaml", "metadata.yaml"])
def test_a_pipe_in_a_files_place_is_refused_and_not_waited_for(folder: Path, file: str) -> None:
    os.mkfifo(folder / file)
    assert "is not a file" in sentence(folder)


def test_texts_lose_what_is_no_text(folder: Path) -> None:
    (folder / "advisor.yaml").write_text('name: "A\\e[31mB\\0 \\ud83d\\ude00 \\ud800"\nfocus_areas: ["a\\eb"]\n')
    advisor = load_advisor(folder)
    assert advisor.name == "A[31mB 😀 \N{REPLACEMENT CHARACTER}"
    assert advisor.focus_areas == ("ab",)
