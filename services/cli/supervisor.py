"""Keeps the services running: starts them, watches their health, restarts one that dies, and stops all cleanly.

Everything happens in the thread that calls `run`: the kernel ties a child to the thread that started it.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.cli.roster import GATEWAY, Plan
from services.core.errors import ConfigurationError
from services.core.rpc.channels import channel_options

TICK_S: Final = 0.2
HEALTH_TIMEOUT_S: Final = 1.0
FIRST_BACKOFF_S: Final = 1.0
LONGEST_BACKOFF_S: Final = 30.0
STEADY_S: Final = 60.0
"""A service that served this long starts again after the shortest pause."""
TRIES_AT_START: Final = 3
"""How often a service that never served is started before it is given up."""
STOP_S: Final = 40.0
"""How long a service may drain; its own limit is 30 s unless configured."""
CONFIGURATION_EXIT: Final = 2


class Output(Protocol):
    """Where a service's output goes."""

    def open(self, plan: Plan) -> int:
        """Returns the file descriptor that a new process writes to; the supervisor closes its copy."""

    def last_line(self, plan: Plan) -> str:
        """Returns the last line that the service wrote; empty where it wrote none."""


class Child:
    """A service's process, and what is known of it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.name = plan.service.name
        self.process: subprocess.Popen[bytes] | None = None
        self.serving = False
        self.ever_served = False
        self.failures = 0
        self.served_since = 0.0
        self.start_at = 0.0
        self._channel = grpc.insecure_channel(plan.health_address, options=channel_options())
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def start(self, output: Output) -> None:
        """Starts the process; in a process group of its own, so that Ctrl-C reaches it through `run` alone."""
        descriptor = output.open(self.plan)
        with open(descriptor, "wb", buffering=0) as sink:
            self.process = subprocess.Popen(
                self.plan.command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=dict(self.plan.environment),
                process_group=0,
            )

    def healthy(self) -> bool:
        """Returns whether the service says SERVING now."""
        try:
            reply = self._health.Check(
                health_pb2.HealthCheckRequest(service=self.plan.service.health_name), timeout=HEALTH_TIMEOUT_S
            )
        except grpc.RpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process where there is one."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def close(self) -> None:
        """Gives the channel back."""
        self._channel.close()


class Supervisor:
    """Runs services until it is told to stop."""

    def __init__(
        self,
        plans: Sequence[Plan],
        output: Output,
        say: Callable[[str], None],
        *,
        on_ready: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.children = [Child(plan) for plan in plans]
        self._output = output
        self._say = say
        self._on_ready = on_ready
        self._clock = clock
        self._ready = False
        self.stopping = threading.Event()
        """Set it to stop; a second signal sets `hurried` too."""
        self.hurried = threading.Event()

    def run(self) -> None:
        """Serves until `stopping` is set, then stops every service.

        Raises:
            ConfigurationError: a service cannot start at all; the others are stopped.
        """
        try:
            while not self.stopping.is_set():
                for child in self.children:
                    self._attend(child)
                if not self._ready and all(child.serving for child in self.children):
                    self._ready = True
                    self._on_ready()
                self.stopping.wait(TICK_S)
        finally:
            self._stop()

    def _attend(self, child: Child) -> None:
        if child.process is None:
            if self._clock() >= child.start_at:
                child.start(self._output)
        elif child.process.poll() is not None:
            self._bury(child, child.process.returncode)
        elif child.healthy() != child.serving:
            child.serving = not child.serving
            if child.serving:
                child.served_since = self._clock()
                self._say(f"The {child.name} serves{' again' if child.ever_served else ''}.")
                child.ever_served = True
            else:
                self._say(f"The {child.name} does not serve at the moment; {self._who_serves()}.")

    def _bury(self, child: Child, code: int) -> None:
        steady = child.serving and self._clock() - child.served_since >= STEADY_S
        child.process, child.serving = None, False
        child.failures = 1 if steady else child.failures + 1
        how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        last = self._output.last_line(child.plan).removeprefix("mondrian: ")
        if not child.ever_served and (code == CONFIGURATION_EXIT or child.failures >= TRIES_AT_START):
            raise ConfigurationError(
                f"The {child.name} cannot start: {last}" if last else f"The {child.name} cannot start: it {how}."
            )
        pause = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (child.failures - 1))
        child.start_at = self._clock() + pause
        self._say(f"The {child.name} {how}; {self._who_serves()}; it starts again in {pause:g} s.")

    def _who_serves(self) -> str:
        names = [child.name for child in self.children if child.serving]
        if not names:
            return "nothing serves"
        if len(names) == 1:
            return f"the {names[0]} still serves"
        return f"{', '.join(names[:-1])} and {names[-1]} still serve"

    def _stop(self) -> None:
        """Stops the gateway first, so that nothing new reaches the services that finish what they have."""
        front = [child for child in self.children if child.plan.service is GATEWAY]
        behind = [child for child in self.children if child.plan.service is not GATEWAY]
        for group in (front, behind):
            for child in group:
                child.signal(signal.SIGTERM)
            self._wait(group)
        for child in self.children:
            child.close()

    def _wait(self, children: Sequence[Child]) -> None:
        end = self._clock() + STOP_S
        for child in children:
            while child.process is not None and child.process.poll() is None:
                if self.hurried.is_set() or self._clock() >= end:
                    child.signal(signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.process.wait(TICK_S)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
