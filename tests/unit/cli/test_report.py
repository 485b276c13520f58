"""The report: complete, self-contained, closed to whatever a title or a critique brings along."""

from __future__ import annotations

import fcntl
import html.parser
import os
import re
from pathlib import Path

import pytest

from services.cli.calls import Outcome
from services.cli.radar import CENTRE_X, CENTRE_Y, RADIUS, WIDTH, radar
from services.cli.report import write_report
from services.core.errors import ConfigurationError
from tests.fakes import answers


class Page(html.parser.HTMLParser):
    """What a browser would see: elements, attributes, text; and whether every element is closed."""

    VOID = frozenset({"meta", "img", "link", "br", "rect", "path", "line", "circle"})

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "ridge.jpg"
    path.write_bytes(answers.picture(300, 200))
    return path


def written(tmp_path: Path, *outcomes: Outcome) -> tuple[str, Page]:
    path = tmp_path / "report.html"
    write_report(path, outcomes, "Ansel", "combined")
    content = path.read_text(encoding="utf-8")
    page = Page(content)
    assert page.open == []
    return content, page


def test_shows_every_part_of_an_answer(tmp_path: Path, photograph: Path) -> None:
    _, page = written(tmp_path, Outcome(photograph, answers.answer()))
    for words in (
        "A photograph beside the work of Ansel",
        "6.4",
        "Your photograph is nearest to “Moon over the ridge”",
        "similarity 0.83",
        "1941, A valley",
        "It holds every tone from black to white.",
        "Teaches lighting, depth perspective",
        "Focus sharpness",
        "−2.8 points from the references’ mean",
        "Expose for the highlights.",
        "Wait until the shadow reaches the trees.",
        "written by sample-vlm with the adapter ansel (0123456789ab)",
        "1.31 s",
        "encoder sample-clip@0, release aaaaaaaaaaaa",
    ):
        assert words in page.text, words
    pictures = page.all("img")
    assert len(pictures) >= 4
    assert all(str(picture["src"]).startswith("data:image/jpeg;base64,") for picture in pictures)
    assert all("alt" in picture for picture in pictures)


def test_a_gap_is_the_difference_of_the_numbers_beside_it(tmp_path: Path, photograph: Path) -> None:
    response = answers.answer()
    answers.set_score(response.scores.dimensions[1], 6.94, 7.36)
    _, page = written(tmp_path, Outcome(photograph, response))
    assert "6.9 7.4 ± 0.8 −0.5" in page.text


def test_a_divided_critique_is_shown_by_section(tmp_path: Path, photograph: Path) -> None:
    _, page = written(tmp_path, Outcome(photograph, answers.divided()))
    assert (
        "Critique The ridge leads to the moon. Strengths The snow keeps its texture. The <b>lines</b> are level. "
        "What to try Wait for the shadow. In the advisor’s voice Place the snow on Zone VII. written by"
    ) in page.text
    assert "overview" not in page.text
    assert not page.all("b")


def test_needs_nothing_but_itself(tmp_path: Path, photograph: Path) -> None:
    content, page = written(tmp_path, Outcome(photograph, answers.without_critique()))
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "style", "data"):
            value = attributes.get(name) or ""
            assert "//" not in value or value.startswith("data:")
    assert "url(" not in content
    assert "@import" not in content
    [policy] = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_what_failed_is_said(tmp_path: Path, photograph: Path) -> None:
    missing = Outcome(tmp_path / "none.jpg", None, f"{tmp_path}/none.jpg does not exist; check the name.")
    _, page = written(tmp_path, Outcome(photograph, answers.without_critique()), missing)
    assert "What failed Critique: The critic cannot be reached. BACKEND_UNAVAILABLE" in page.text
    assert "No answer" in page.text
    assert "does not exist" in page.text
    assert len(page.all("article")) == 2
    links = {str(link["href"]) for link in page.all("a")}
    assert links == {"#photograph-1", "#photograph-2"}
    assert {"photograph-1", "photograph-2"} <= {str(each.get("id")) for each in page.all("article")}


def test_markup_in_an_answer_stays_text(tmp_path: Path, photograph: Path) -> None:
    hostile = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    response = answers.answer()
    response.summary = response.critique.text = response.scores.note = hostile
    response.references.neighbors[0].reference.title = hostile
    response.references.neighbors[0].reference.thumbnail_jpeg = b"<svg onload=alert(1)>"
    response.scores.dimensions[0].evidence[0] = hostile
    response.critique.authorship.model = hostile
    path = tmp_path / (hostile.replace("/", "") + ".jpg")
    path.write_bytes(photograph.read_bytes())
    content, page = written(tmp_path, Outcome(path, response))
    assert page.all("script") == []
    assert all("onerror" not in attributes and "onload" not in attributes for _, attributes in page.elements)
    assert "<script>alert" not in content
    assert "<script>alert(1)</script>" in page.text


@pytest.mark.parametrize("part", ["references", "scores", "critique"])
def test_an_answer_of_one_part_is_a_page(tmp_path: Path, photograph: Path, part: str) -> None:
    response = answers.answer()
    for other in {"references", "scores", "critique"} - {part}:
        response.ClearField(other)  # type: ignore[arg-type]
    _, page = written(tmp_path, Outcome(photograph, response))
    headings = {"references": "Similar references", "scores": "Eight scores", "critique": "Critique"}
    for name, heading in headings.items():
        sections = [section for section in page.all("section") if section.get("class") == name]
        assert bool(sections) == (name == part), heading


def test_a_critique_that_is_the_whole_answer_stands_beside_the_photograph(tmp_path: Path, photograph: Path) -> None:
    response = answers.answer()
    response.ClearField("references")
    response.ClearField("scores")
    content, page = written(tmp_path, Outcome(photograph, response))
    assert page.text.count("Wait until the shadow reaches the trees.") == 1
    assert content.index('class="verdict"') < content.index('class="critique"') < content.index("</div>\n  </section>")
    whole, _ = written(tmp_path, Outcome(photograph, answers.answer()))
    assert whole.index("</div>\n  </section>") < whole.index('class="critique"')


MEDIUM = re.compile(r"@media ([^{]*)\{((?:[^{}]*\{[^}]*\})*)\s*\}")


def styles(content: str, selector: str, medium: str = "") -> str:
    """Returns the declarations of a selector in the page: in the rules of a medium, else in those of none."""
    sheet = content[content.index("<style>") + 7 : content.index("</style>")]
    rules = "".join(body for name, body in MEDIUM.findall(sheet) if medium in name) if medium else MEDIUM.sub("", sheet)
    found = re.findall(r"([^{}]+)\{([^}]*)\}", rules)
    return " ".join(body for names, body in found if selector in map(str.strip, names.split(",")))


def test_the_page_holds_what_is_long_and_what_is_printed(tmp_path: Path, photograph: Path) -> None:
    content, _ = written(tmp_path, Outcome(photograph, answers.answer()))
    assert "overflow-wrap: anywhere" in styles(content, "body"), "a word longer than its card is broken"
    assert "minmax(0, 1fr)" in styles(content, ".cards", "print"), "three cards fit on paper"
    for whole in (".times", ".colophon", ".ranges", ".card"):
        assert "break-inside: avoid" in styles(content, whole, "print"), whole
    assert styles(content, "a") == " color: var(--blue); "
    assert "color" not in styles(content, ".advice"), "what is blue is a link"


def test_labels_of_the_chart_are_legible_on_a_phone(tmp_path: Path, photograph: Path) -> None:
    content, _ = written(tmp_path, Outcome(photograph, answers.answer()))
    size = re.search(r"font-size: (\d+)px", styles(content, ".radar text", "max-width: 560px"))
    assert size is not None
    # 390 px less the page's margins, and the drawing's own width.
    assert float(size[1]) * (390 - 36) / WIDTH > 11


def test_scores_without_a_comparison_are_a_page(tmp_path: Path, photograph: Path) -> None:
    response = answers.answer()
    for score in response.scores.dimensions:
        score.ClearField("comparison")
    _, page = written(tmp_path, Outcome(photograph, response))
    assert "mean of the references" not in page.text
    assert "Percentile" not in page.text


def test_a_photograph_that_cannot_be_shown_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"not a photograph")
    _, page = written(tmp_path, Outcome(path, answers.answer(thumbnails=False)))
    assert page.all("img") == []
    assert "broken.jpg" in page.text


def test_the_report_is_written_whole_or_not_at_all(tmp_path: Path, photograph: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_report(tmp_path / "none" / "report.html", [Outcome(photograph, answers.answer())], "Ansel", "clip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ridge.jpg"]
    (tmp_path / "taken.html").mkdir()
    with pytest.raises(ConfigurationError, match=r"taken\.html cannot be written"):
        write_report(tmp_path / "taken.html", [Outcome(photograph, answers.answer())], "Ansel", "clip")
    (tmp_path / "taken.html").rmdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ridge.jpg"]
    report = tmp_path / "report.html"
    write_report(report, [Outcome(photograph, answers.answer())], "Ansel", "clip")
    assert report.stat().st_mode & 0o600 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "ridge.jpg"]


# The radar chart ----------------------------------------------------------------------------------------------


def corners(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path)]


def test_scores_lie_on_their_axes_clockwise_from_the_top() -> None:
    chart = radar(answers.answer().scores)
    own = corners(chart.photograph)
    assert len(own) == 8
    composition, lighting, focus = own[0], own[1], own[2]
    assert composition == pytest.approx((CENTRE_X, CENTRE_Y - RADIUS * 0.72), abs=0.06)
    assert focus == pytest.approx((CENTRE_X + RADIUS * 0.80, CENTRE_Y), abs=0.06)
    assert lighting[0] - CENTRE_X == pytest.approx(CENTRE_Y - lighting[1], abs=0.11)
    assert [(dot.x, dot.y) for dot in chart.dots] == own


def test_the_band_runs_between_the_outer_quantiles() -> None:
    response = answers.answer()
    chart = radar(response.scores)
    assert len(corners(chart.band)) == 16
    outer, inner = corners(chart.band)[0], corners(chart.band)[8]
    assert CENTRE_Y - outer[1] == pytest.approx(RADIUS * (6.8 + 1.2) / 10, abs=0.06)
    assert CENTRE_Y - inner[1] == pytest.approx(RADIUS * (6.8 - 1.3) / 10, abs=0.06)
    response.scores.dimensions[3].ClearField("comparison")
    partial = radar(response.scores)
    assert (partial.band, partial.mean) == ("", "")


def test_values_beyond_the_scale_stay_in_the_chart() -> None:
    response = answers.answer()
    response.scores.dimensions[0].score = 40.0
    response.scores.dimensions[4].score = -3.0
    own = corners(radar(response.scores).photograph)
    assert own[0] == (CENTRE_X, CENTRE_Y - RADIUS)
    assert own[4] == (CENTRE_X, CENTRE_Y)


def test_what_is_no_file_takes_the_page_and_stays_what_it_is(photograph: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, 1 << 20)
    write_report(pipe, [Outcome(photograph, answers.answer())], "Ansel", "combined")
    assert os.read(reading, 1 << 20).rstrip().endswith(b"</html>")
    os.close(reading)
    assert pipe.is_fifo()


def test_a_link_stays_one(photograph: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest.html"
    link.symlink_to("report.html")
    for _ in range(2):
        write_report(link, [Outcome(photograph, answers.answer())], "Ansel", "combined")
        assert link.is_symlink()
        assert (tmp_path / "report.html").read_text().rstrip().endswith("</html>")
