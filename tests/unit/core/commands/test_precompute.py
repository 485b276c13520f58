"""How the precompute commands end: with one sentence, whatever happens and whenever Ctrl-C comes."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.core.commands.precompute import INTERRUPTED, Skipped, remarks, run_command
from services.core.errors import ConfigurationError


def test_a_command_prints_what_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def body(options: argparse.Namespace) -> list[str]:
        assert (options.advisor_dir, options.data_dir) == (tmp_path, None)
        return [f"{options.advisor_id} is done.", f"quiet: {options.quiet}."]

    arguments = ["--advisor-dir", str(tmp_path), "--advisor-id", "ansel", "--quiet"]
    assert run_command("services.some.precompute", "Does something.", body, arguments) == 0
    assert capsys.readouterr().out == "ansel is done.\nquiet: True.\n"


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [(ConfigurationError("Mend it."), 2, "Mend it."), (KeyboardInterrupt(), 130, INTERRUPTED)],
)
def test_a_command_ends_with_one_sentence(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, sentence: str
) -> None:
    def body(options: argparse.Namespace) -> list[str]:
        raise error

    assert run_command("services.some.precompute", "Does something.", body, ["--advisor-dir", "."]) == code
    assert capsys.readouterr() == ("", f"mondrian: {sentence}\n")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_puts_its_work_in_order_undisturbed(
    capsys: pytest.CaptureFixture[str], sent: signal.Signals
) -> None:
    ends: list[str] = []

    def body(options: argparse.Namespace) -> list[str]:
        try:
            signal.raise_signal(sent)
            return ["Not stopped."]
        finally:
            # The impatient press the keys again, and a group's processes get the signal twice.
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            ends.append("in order")

    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
        assert run_command("services.some.precompute", "Does something.", body, ["--advisor-dir", "."]) == 130
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    finally:
        signal.signal(signal.SIGINT, heard)
    assert ends == ["in order"]
    assert capsys.readouterr() == ("", f"mondrian: {INTERRUPTED}\n")


def test_what_was_left_out_is_said_with_its_reason() -> None:
    assert remarks([], [], "encoder") == []
    skipped = [Skipped("a.jpg", "IMAGE_EMPTY", "it is empty."), Skipped("b.jpg", "DUPLICATE", "it is a.jpg again.")]
    assert remarks(skipped, ["jane", "okeefe"], "encoder") == [
        "2 files were skipped:",
        "  a.jpg (IMAGE_EMPTY): it is empty.",
        "  b.jpg (DUPLICATE): it is a.jpg again.",
        "The encoder has changed: jane, okeefe must be pre-computed again to be served.",
    ]


@pytest.mark.parametrize("service", ["embedder", "scorer"])
def test_ctrl_c_while_the_libraries_are_loading_leaves_one_sentence(tmp_path: Path, service: str) -> None:
    # A module that is interrupted while it is imported, in the place of the one that brings the model's libraries.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('numpy', 'torch'):\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", f"services.{service}.precompute", "--advisor-dir", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", f"mondrian: {INTERRUPTED}\n")


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
def test_a_stop_held_back_while_python_starts_leaves_one_sentence(tmp_path: Path, sent: str) -> None:
    # As the command line starts it: blocked, and already waiting when the first line runs.
    script = (
        "import os, runpy, signal, sys\n"
        # A shell that starts the tests in its background has SIGINT ignored, and its children with it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.{sent}}})\n"
        f"os.kill(os.getpid(), signal.{sent})\n"
        f"sys.argv[1:] = ['--advisor-dir', {str(tmp_path)!r}]\n"
        "runpy.run_module('services.scorer.precompute', run_name='__main__')\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", f"mondrian: {INTERRUPTED}\n")
