"""The report that `mondrian analyze` writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.integration.cli.stage import Stage


def test_writes_a_report(stage: Stage, photograph: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    missing = tmp_path / "none.jpg"
    result = stage.run("analyze", photograph, missing, "-a", "ansel", "--report", report)
    assert result.exit_code == 1
    page = report.read_text()
    for words in ("Ansel Sample", "ridge.jpg", "none.jpg", "does not exist", "Moon over the ridge", "<svg"):
        assert words in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "ridge.jpg"]


def test_a_report_is_written_though_nobody_reads_what_is_printed(
    stage: Stage, photograph: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.html"
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "services.cli", "analyze", str(photograph), "-a", "ansel", "-m", "clip"]
    ended = subprocess.run(
        [*command, "--report", str(report), "--address", stage.system.address],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, f"The report is in {report}.\n")
    assert "Moon over the ridge" in report.read_text()


def test_a_report_that_cannot_be_written_is_said_before_the_work(
    stage: Stage, photograph: Path, tmp_path: Path
) -> None:
    for report in (tmp_path, tmp_path / "none" / "report.html"):
        result = stage.run("analyze", photograph, "-a", "ansel", "--report", report)
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
    assert stage.system.embedder.requests == []
