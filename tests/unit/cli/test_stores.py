"""What was pre-computed, as `advisors --local`, `releases`, `doctor` and `precompute` tell it. The stores are real."""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from services.cli import precompute as command
from services.cli import up
from services.cli.checks import Verdict, releases
from services.cli.commands import app
from services.cli.holdings import holdings
from services.cli.roster import EMBEDDER, MALLOC, SCORER, plan_services
from services.core.releases import ReleaseStore, writing
from services.core.settings import CommonSettings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommonSettings:
    monkeypatch.setenv("MONDRIAN_DATA_DIR", str(tmp_path / "stored"))
    return CommonSettings.load()


def publish(settings: CommonSettings, service: str, skipped: list[str] | None = None, **counts: int) -> str:
    """Publishes a release and returns its id."""
    files = [{"file_name": name, "reason": "IMAGE_TRUNCATED", "sentence": "It is cut off."} for name in skipped or []]
    with writing(ReleaseStore(settings.data_dir / service)) as writer, writer.stage() as staged:
        (staged / "catalogue.sqlite").write_bytes(repr(counts).encode())
        extra = {"skipped": {name: files if place == 0 else [] for place, name in enumerate(counts)}}
        return writer.publish(staged, space_id="space", counts=counts, extra=extra).id


def damage(settings: CommonSettings, service: str) -> None:
    """Flips one byte of the current release."""
    path = settings.data_dir / service / "current" / "catalogue.sqlite"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(content))


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def flat(text: str) -> str:
    return " ".join(text.split())


def test_holdings_are_those_of_the_current_release(settings: CommonSettings) -> None:
    assert holdings(settings, EMBEDDER).release == ""
    publish(settings, "embedder", ansel=3)
    newest = publish(settings, "embedder", ["broken.jpg"], ansel=4, okeefe=2)
    held = holdings(settings, EMBEDDER)
    assert (held.release, dict(held.counts)) == (newest, {"ansel": 4, "okeefe": 2})
    assert [file["file_name"] for file in held.skipped["ansel"]] == ["broken.jpg"]


def test_the_state_of_precomputing_is_shown(settings: CommonSettings) -> None:
    assert "mondrian precompute --samples" in run("advisors", "--local").stdout
    release = publish(settings, "embedder", ["broken.jpg"], ansel=26)
    result = run("advisors", "--local")
    assert result.exit_code == 0
    rows = [flat(line) for line in result.stdout.splitlines()]
    assert any(f"ansel embedder 26 1 {release[:12]}" in row for row in rows)
    assert any("ansel scorer none" in row for row in rows)
    assert "ansel: broken.jpg is not in the embedder: It is cut off." in rows


@pytest.mark.parametrize("words", [("advisors", "--local"), ("releases", "list"), ("doctor",)])
def test_where_nothing_was_found_is_said_in_full(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MONDRIAN_DATA_DIR", raising=False)
    assert str(tmp_path / ".mondrian") in run(*words).stdout.replace("\n", "").replace(" ", "")


def test_releases_are_listed_rolled_back_and_collected(settings: CommonSettings) -> None:
    first = publish(settings, "embedder", ansel=3)
    second = publish(settings, "embedder", ansel=4)
    publish(settings, "scorer", ansel=4)
    listed = run("releases", "list")
    assert first[:12] in listed.stdout
    assert second[:12] in listed.stdout
    assert "scorer" in listed.stdout
    back = run("releases", "rollback", "embedder")
    assert back.exit_code == 0
    (published,) = [words[2:4] for line in listed.stdout.splitlines() if (words := line.split())[1:2] == [first[:12]]]
    assert f"release {first[:12]} of {' '.join(published)} UTC again" in back.stdout
    assert holdings(settings, EMBEDDER).release == first
    assert run("releases", "rollback", "embedder", second[:8]).exit_code == 0
    assert holdings(settings, EMBEDDER).release == second
    none = run("releases", "rollback", "scorer")
    assert none.exit_code == 2
    assert len(none.stderr.splitlines()) == 1
    assert "embedder: 1 release removed." in run("releases", "collect", "--keep", "0").stdout
    assert first[:12] not in run("releases", "list", "embedder").stdout


def test_a_flipped_byte_is_found_and_said(settings: CommonSettings) -> None:
    publish(settings, "embedder", ansel=3)
    publish(settings, "scorer", ansel=3)
    assert run("releases", "verify").exit_code == 0
    damage(settings, "embedder")
    for arguments in (("releases", "verify"), ("advisors", "--local")):
        result = run(*arguments)
        assert result.exit_code == 1
        assert "catalogue.sqlite differs from its sha256" in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_older_releases_are_verified_where_all_are_asked_for(settings: CommonSettings) -> None:
    first = publish(settings, "embedder", ansel=3)
    damage(settings, "embedder")
    second = publish(settings, "embedder", ansel=4)
    assert run("releases", "verify", "embedder").exit_code == 0
    result = run("releases", "verify", "embedder", "--all")
    assert result.exit_code == 1
    assert f"{second[:12]} is sound" in result.stdout
    assert len(result.stderr.splitlines()) == 1
    assert first[:12] in result.stderr


def test_the_demo_asks_a_sample_advisor_also_beside_an_advisor_of_ones_own(
    settings: CommonSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def precompute_samples(settings: CommonSettings) -> int:
        asked.append(settings.profile)
        return 0

    monkeypatch.setattr(up, "precompute_samples", precompute_samples)
    publish(settings, "embedder", jane=3)
    publish(settings, "scorer", jane=3)
    up.prepare(settings)
    up.prepare(settings, "jane")
    assert asked == []
    up.prepare(settings, "ansel")
    assert asked == ["mini"]


def test_up_names_an_advisor_that_is_there(settings: CommonSettings) -> None:
    plans = plan_services(settings, free_ports=True)
    file = io.StringIO()
    up.show_ready(Console(file=file, width=110), plans, settings)
    assert "Try: mondrian precompute --advisor-dir DIR\n" in file.getvalue()
    publish(settings, "embedder", jane=3)
    up.show_ready(Console(file=file, width=110), plans, settings)
    assert f"Try: mondrian analyze PHOTO --advisor jane --address {plans[0].address}\n" in file.getvalue()


def test_the_doctor_names_the_command_that_mends(settings: CommonSettings) -> None:
    missing = list(releases(settings))
    assert [(finding.verdict, finding.mend) for finding in missing] == [
        (Verdict.MEND, "mondrian precompute --samples")
    ] * 2
    publish(settings, "embedder", ["broken.jpg"], ansel=3, okeefe=2)
    publish(settings, "scorer", ansel=3)
    findings = list(releases(settings))
    assert [finding.verdict for finding in findings] == [Verdict.FINE, Verdict.NOTE, Verdict.FINE, Verdict.MEND]
    assert "okeefe" in findings[-1].sentence
    assert findings[-1].mend == "mondrian precompute --samples"
    publish(settings, "embedder", hero=1)
    assert list(releases(settings))[-1].mend == "mondrian precompute --advisor-dir DIR, for these advisors"
    publish(settings, "scorer", ansel=3, okeefe=2)
    damage(settings, "scorer")
    damaged = list(releases(settings))[-1]
    assert damaged.verdict is Verdict.MEND
    assert "releases rollback scorer" in damaged.mend
    assert damaged.mend.startswith("mondrian precompute --samples, which keeps what is intact")


# Pre-computing ------------------------------------------------------------------------------------------------


@pytest.fixture
def advisor(tmp_path: Path) -> Path:
    folder = tmp_path / "hero"
    (folder / "references").mkdir(parents=True)
    (folder / "references" / "one.jpg").write_bytes(b"x")
    return folder


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "weights.safetensors").write_bytes(b"x")
    monkeypatch.setenv("MONDRIAN_EMBEDDER_MODEL_PATH", str(tmp_path / "clip"))


class Recorder:
    """Stands where the two precompute processes would run: notes the calls, gives the exit codes it was given."""

    def __init__(self, settings: CommonSettings, *codes: int) -> None:
        self.calls: list[tuple[str, Path, str]] = []
        self.skipped = {"embedder": ["cut.jpg"], "scorer": ["cut.jpg"]}
        self._settings = settings
        self._codes = list(codes)

    def __call__(self, settings: CommonSettings, service: Any, folder: Path, advisor_id: str) -> int:
        self.calls.append((service.name, folder, advisor_id))
        code = self._codes.pop(0) if self._codes else 0
        if code == 0:
            publish(self._settings, service.name, self.skipped[service.name], **{advisor_id: 5})
        return code


@pytest.mark.usefixtures("models")
def test_both_services_precompute_and_the_result_is_summed_up(
    settings: CommonSettings, advisor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(settings)
    monkeypatch.setattr(command, "run_precompute", recorder)
    result = run("precompute", "--advisor-dir", str(advisor))
    assert result.exit_code == 0, result.output
    assert recorder.calls == [("embedder", advisor, "hero"), ("scorer", advisor, "hero")]
    releases_now = [holdings(settings, service).release[:12] for service in (EMBEDDER, SCORER)]
    assert flat(result.stdout).endswith(
        f"hero: embedder 5 references, 1 skipped (release {releases_now[0]});"
        f" scorer 5 references, 1 skipped (release {releases_now[1]})."
        " 1 file was skipped: cut.jpg (IMAGE_TRUNCATED): It is cut off."
    )


@pytest.mark.usefixtures("models")
def test_what_the_two_services_leave_out_is_named_once(
    settings: CommonSettings, advisor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (advisor / "references" / "notes.txt").write_text("x")
    recorder = Recorder(settings)
    recorder.skipped = {"embedder": ["a.jpg", "b.jpg"], "scorer": ["b.jpg", "c.jpg"]}
    monkeypatch.setattr(command, "run_precompute", recorder)
    result = run("precompute", "--advisor-dir", str(advisor))
    assert flat(result.stdout).endswith(
        "3 files were skipped: a.jpg (IMAGE_TRUNCATED): It is cut off. (by the embedder)"
        " b.jpg (IMAGE_TRUNCATED): It is cut off. c.jpg (IMAGE_TRUNCATED): It is cut off. (by the scorer)"
    )
    assert result.stderr == "notes.txt is passed over: its name does not end like that of a photograph.\n"


@pytest.mark.usefixtures("models")
def test_what_a_service_that_failed_left_out_before_is_not_told_as_new(
    settings: CommonSettings, advisor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(settings, "scorer", ["old.jpg"], hero=5)
    monkeypatch.setattr(command, "run_precompute", Recorder(settings, 0, 1))
    result = run("precompute", "--advisor-dir", str(advisor))
    assert "cut.jpg" in result.stdout
    assert "old.jpg" not in result.stdout


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize(("codes", "expected"), [((0, 1), 1), ((0, 2), 2), ((2,), 2), ((1,), 1), ((130,), 130)])
def test_the_first_fault_ends_an_advisor_and_is_the_exit_code(
    settings: CommonSettings,
    advisor: Path,
    monkeypatch: pytest.MonkeyPatch,
    codes: tuple[int, ...],
    expected: int,
) -> None:
    recorder = Recorder(settings, *codes)
    monkeypatch.setattr(command, "run_precompute", recorder)
    result = run("precompute", "--advisor-dir", str(advisor), "--advisor-id", "mine")
    assert result.exit_code == expected
    assert len(recorder.calls) == len(codes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--advisor-dir DIR"),
        (("--samples", "--advisor-dir", "x"), "--advisor-dir DIR"),
        (("--samples", "--advisor-id", "x"), "their own ids"),
        (("--advisor-dir", "/nowhere"), "does not exist"),
    ],
)
@pytest.mark.usefixtures("settings")
def test_wrong_use_is_one_sentence(arguments: tuple[str, ...], words: str) -> None:
    result = run("precompute", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_precompute_process_gets_folder_id_and_settings(
    settings: CommonSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    class Process:
        def __init__(self, arguments: list[str], env: dict[str, str]) -> None:
            started.append((arguments, env))

        def wait(self) -> int:
            return 0

    monkeypatch.setattr("services.cli.precompute.subprocess.Popen", Process)
    assert command.run_precompute(settings, SCORER, tmp_path, "hero") == 0
    [(arguments, environment)] = started
    assert arguments == [
        *(sys.executable, "-m", "services.cli.leash", str(os.getpid()), "services.scorer.precompute"),
        *("--advisor-dir", str(tmp_path)),
        *("--advisor-id", "hero"),
        *("--data-dir", str(settings.data_dir)),
        "--brief",
    ]
    assert environment["MONDRIAN_PROFILE"] == "mini"
    assert MALLOC.items() <= environment.items()


@pytest.mark.parametrize(("code", "sentences"), [(130, 0), (-2, 1), (0, 1)])
def test_ctrl_c_during_a_precompute_is_told_once(
    settings: CommonSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
    sentences: int,
) -> None:
    masks: list[set[int]] = []

    class Process:
        def __init__(self, arguments: list[str], env: dict[str, str]) -> None:
            masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
            self.waits = 0

        def wait(self) -> int:
            masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
            self.waits += 1
            if self.waits == 1:
                raise KeyboardInterrupt
            return code

    monkeypatch.setattr("services.cli.precompute.subprocess.Popen", Process)
    assert command.run_precompute(settings, SCORER, tmp_path, "hero") == 130
    assert len(capsys.readouterr().err.splitlines()) == sentences
    assert [signal.SIGINT in mask for mask in masks] == [True, False, False]


def test_a_stop_is_passed_on_to_the_process_that_computes(
    settings: CommonSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passed_on: list[int] = []

    class Process:
        def __init__(self, arguments: list[str], env: dict[str, str]) -> None:
            self.send_signal = passed_on.append

        def wait(self) -> int:
            if not passed_on:
                signal.raise_signal(signal.SIGTERM)
            return 130

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("services.cli.precompute.subprocess.Popen", Process)
    assert command.run_precompute(settings, SCORER, tmp_path, "hero") == 130
    assert passed_on == [signal.SIGTERM]
    assert capsys.readouterr().err == "", "the process that computes has told so"
    assert signal.getsignal(signal.SIGTERM) == before
