"""The `mondrian` command against a real gateway over fake services."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from services.cli.commands import app
from tests.fakes.system import System, system


@dataclass
class Stage:
    """A system that runs in another thread, and the command that talks to it."""

    system: System
    loop: asyncio.AbstractEventLoop

    def run(self, *arguments: str | Path, at: str | None = None) -> Any:
        """Runs `mondrian ARGUMENTS` and returns its exit code and output."""
        words = [str(argument) for argument in arguments]
        return CliRunner().invoke(app, [*words, "--address", at or self.system.address])


@contextlib.contextmanager
def staged(**settings: Any) -> Iterator[Stage]:
    """A stage whose gateway has these settings."""
    stages: queue.Queue[Stage] = queue.Queue()
    ended = asyncio.Event()

    async def serve() -> None:
        async with system(**settings) as running:
            stages.put(Stage(running, asyncio.get_running_loop()))
            await ended.wait()

    # asyncio.run ends what is left of a call that a test gave up, before the loop goes.
    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    running = stages.get(timeout=30)
    try:
        yield running
    finally:
        running.loop.call_soon_threadsafe(ended.set)
        thread.join(30)


def flat(text: str) -> str:
    """Returns a text in one line."""
    return " ".join(text.split())
