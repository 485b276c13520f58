"""Services as processes: started, kept, named when they die, stopped in order. The processes are real."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from services.cli.logs import FileOutput, PrefixedOutput
from services.cli.roster import EMBEDDER, GATEWAY, SCORER, Plan, Service
from services.cli.supervisor import Supervisor
from services.core.errors import ConfigurationError
from tests.processes import free_port

PATIENCE_S = 60.0
"""After which a test gives up; nothing waits this long unless it fails."""


def fake(service: Service, *command: str) -> Plan:
    port = free_port()
    program = command or (sys.executable, "-m", "tests.fakes", service.name, "--port", str(port))
    return Plan(service, "127.0.0.1", port, program, dict(os.environ), port)


class Told:
    """What the supervisor said, and a way to wait for a word of it."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self._changed = threading.Condition()

    def __call__(self, sentence: str) -> None:
        with self._changed:
            self.sentences.append(sentence)
            self._changed.notify_all()

    def wait_for(self, words: str) -> str:
        with self._changed:
            assert self._changed.wait_for(lambda: any(words in each for each in self.sentences), PATIENCE_S), (
                words,
                self.sentences,
            )
            return next(sentence for sentence in self.sentences if words in sentence)


@contextmanager
def running(supervisor: Supervisor) -> Iterator[None]:
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        yield
    finally:
        supervisor.stopping.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_a_service_that_is_killed_is_named_and_serves_again(tmp_path: Path) -> None:
    told, ready = Told(), threading.Event()
    supervisor = Supervisor([fake(EMBEDDER), fake(SCORER)], FileOutput(tmp_path), told, on_ready=ready.set)
    embedder, scorer = supervisor.children
    with running(supervisor):
        assert ready.wait(PATIENCE_S)
        assert sorted(told.sentences) == ["The embedder serves.", "The scorer serves."], "a start shows that it goes on"
        scorer.signal(signal.SIGKILL)
        died = told.wait_for("SIGKILL")
        assert died == ("The scorer was ended by SIGKILL; the embedder still serves; it starts again in 1 s.")
        told.wait_for("The scorer serves again.")
        assert embedder.process is not None
        assert embedder.process.poll() is None
    assert [child.process and child.process.returncode for child in supervisor.children] == [0, 0]


def test_a_service_that_cannot_be_configured_ends_the_start(tmp_path: Path) -> None:
    refusing = (sys.executable, "-c", "import sys; print('mondrian: The model is missing; fetch it.'); sys.exit(2)")
    supervisor = Supervisor([fake(SCORER, *refusing)], FileOutput(tmp_path), Told())
    with pytest.raises(ConfigurationError, match=r"^The scorer cannot start: The model is missing; fetch it\.$"):
        supervisor.run()


def test_a_service_that_never_serves_is_given_up(tmp_path: Path) -> None:
    now = iter(range(0, 100_000, 100))
    told = Told()
    failing = fake(SCORER, sys.executable, "-c", "raise SystemExit(1)")
    supervisor = Supervisor([failing], FileOutput(tmp_path), told, clock=lambda: float(next(now)))
    with pytest.raises(ConfigurationError, match="The scorer cannot start: it ended with exit code 1"):
        supervisor.run()
    assert [sentence.rsplit(" in ", 1)[1] for sentence in told.sentences] == ["1 s.", "2 s."]


def test_the_gateway_is_stopped_first(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    program = (
        "import signal, sys, time\n"
        "def end(number, frame):\n"
        "    open(sys.argv[2], 'a').write(sys.argv[1] + '\\n')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(60)\n"
    )
    plans = [fake(service, sys.executable, "-c", program, service.name, str(trace)) for service in (EMBEDDER, GATEWAY)]
    heard = Heard(ready=2)
    supervisor = Supervisor(plans, heard, Told())
    with running(supervisor):
        assert heard.all_ready.wait(PATIENCE_S)
    assert trace.read_text().split() == ["gateway", "embedder"]


class Heard(PrefixedOutput):
    """Notes when every process has printed a line."""

    def __init__(self, ready: int) -> None:
        super().__init__(Console(file=io.StringIO()), 8)
        self.all_ready = threading.Event()
        self._missing = ready
        self._lock = threading.Lock()

    def heard(self, plan: Plan, line: str) -> None:
        super().heard(plan, line)
        with self._lock:
            self._missing -= 1
            if self._missing == 0:
                self.all_ready.set()


def test_a_service_that_does_not_stop_is_killed_when_hurried() -> None:
    program = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(60)\n"
    )
    heard = Heard(ready=1)
    supervisor = Supervisor([fake(SCORER, sys.executable, "-c", program)], heard, Told())
    with running(supervisor):
        assert heard.all_ready.wait(PATIENCE_S)
        supervisor.hurried.set()
    process = supervisor.children[0].process
    assert process is not None
    assert process.returncode == -signal.SIGKILL


def test_lines_carry_the_service_and_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(file=sys.stdout, width=200)
    output = PrefixedOutput(console, 8)
    plan = fake(SCORER, "none")
    with open(output.open(plan), "wb") as sink:
        sink.write(b"first\nsecond \x1b[31m[bold]line\n\n")
    assert output.last_line(plan) == "second [31m[bold]line"
    assert capsys.readouterr().out.splitlines() == [
        "scorer   │ first",
        "scorer   │ second [31m[bold]line",
        "scorer   │ ",
    ]


def test_the_last_line_is_that_of_the_newest_process(tmp_path: Path) -> None:
    output, plan = FileOutput(tmp_path / "logs"), fake(SCORER, "none")
    with open(output.open(plan), "wb") as sink:
        sink.write(b"started\nmondrian: The model is missing.\n")
    assert output.last_line(plan) == "mondrian: The model is missing."
    with open(output.open(plan), "wb"):
        assert output.last_line(plan) == ""
    assert (tmp_path / "logs" / "scorer.log").read_text().startswith("started\n")


def test_a_service_ends_with_the_process_that_started_it() -> None:
    starter = (
        "import os, subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-m', 'services.cli.leash', str(os.getpid()), 'tests.fakes', 'scorer'])\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith("ready ")
        parent.kill()
        # The pipe ends when the last process that holds it has gone: the service as well.
        assert parent.stdout.read() == ""


def test_a_service_does_not_begin_without_its_starter() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services.cli.leash", "1", "tests.fakes", "scorer"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "")
