"""Where the services' output goes: to this terminal with a name before each line, or to a file each."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from rich.console import Console
from rich.text import Text

from services.cli.console import plain
from services.cli.roster import Plan
from services.core.errors import ConfigurationError


class PrefixedOutput:
    """Prints every line of every service with the service's name, in the service's colour."""

    def __init__(self, console: Console, width: int) -> None:
        self._console = console
        self._width = width
        self._last: dict[str, str] = {}
        self._readers: dict[str, threading.Thread] = {}

    def open(self, plan: Plan) -> int:
        """Returns the writing end of a pipe whose lines are printed as they come."""
        reading, writing = os.pipe()
        reader = threading.Thread(target=self._read, args=(reading, plan), daemon=True, name=f"log-{plan.service.name}")
        reader.start()
        self._readers[plan.service.name] = reader
        return writing

    def last_line(self, plan: Plan) -> str:
        """Returns the last line, once the service's pipe has run dry."""
        reader = self._readers.get(plan.service.name)
        if reader is not None:
            reader.join(timeout=2.0)
        return self._last.get(plan.service.name, "")

    def _read(self, descriptor: int, plan: Plan) -> None:
        with open(descriptor, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                self.heard(plan, plain(line.rstrip("\n")))

    def heard(self, plan: Plan, line: str) -> None:
        """Prints a line of a service."""
        if line.strip():
            self._last[plan.service.name] = line
        prefix = (f"{plan.service.name:<{self._width}} │ ", plan.service.colour)
        self._console.print(Text.assemble(prefix, line), soft_wrap=True)


class FileOutput:
    """Writes each service's output to a file of its own, after what earlier runs wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._begun: dict[str, int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"The log folder {folder} cannot be made ({error.strerror}); set MONDRIAN_DATA_DIR to another folder."
            ) from error

    def path(self, plan: Plan) -> Path:
        """Returns the file of a service."""
        return self.folder / f"{plan.service.name}.log"

    def open(self, plan: Plan) -> int:
        """Returns a descriptor at the end of the service's file."""
        descriptor = os.open(self.path(plan), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._begun[plan.service.name] = os.fstat(descriptor).st_size
        return descriptor

    def last_line(self, plan: Plan) -> str:
        """Returns the last line that the service's newest process wrote; empty where only earlier ones wrote."""
        with self.path(plan).open("rb") as file:
            file.seek(max(self._begun.get(plan.service.name, 0), self.path(plan).stat().st_size - 8_192))
            lines = file.read().decode("utf-8", "replace").split("\n")
        return next((plain(line) for line in reversed(lines) if line.strip()), "")
