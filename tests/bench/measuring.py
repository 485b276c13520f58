"""What the benches share: medians of rounds in which what is compared takes turns, photographs that nobody knows."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from services.core.settings import available_cpus
from services.embedder.loading import WAITING
from tests.processes import child_environment

Figures = dict[str, float]
Action = Callable[[], object]


def start_as_a_service() -> None:
    """Starts this process again in the environment of the services that it starts, their malloc settings above all:
    a ceiling without them would be too low."""
    wanted = child_environment(WAITING)
    if not wanted.items() <= os.environ.items():
        os.execve(sys.executable, sys.orig_argv, wanted)


def cpu_ms(actions: Mapping[str, Action], rounds: int) -> Figures:
    """Returns the median CPU milliseconds of this thread that each action takes; they take turns."""
    return _turns(actions, rounds, time.thread_time)


def wall_ms(actions: Mapping[str, Action], rounds: int) -> Figures:
    """Returns the median milliseconds that each action takes; they take turns."""
    return _turns(actions, rounds, time.perf_counter)


def _turns(actions: Mapping[str, Action], rounds: int, clock: Callable[[], float]) -> Figures:
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            begun = clock()
            action()
            times[name].append((clock() - begun) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def medians(rounds: Mapping[str, list[Figures]]) -> dict[str, Figures]:
    """Returns the median of every figure over its rounds."""
    return {
        name: {key: statistics.median(one[key] for one in found) for key in found[0]} for name, found in rounds.items()
    }


def percentile(values: list[float], percent: float) -> float:
    """Returns the value that `percent` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(len(ordered) * percent) // 100) - 1)]


def different(content: bytes, count: int, salt: bytes = b"") -> Iterator[bytes]:
    """Yields files of the same photograph that no cache knows: decoders ignore what follows its end."""
    for number in range(count):
        yield content + salt + number.to_bytes(4, "big")


def print_load(subject: str) -> None:
    """Prints how busy the machine is; figures from a busy one are worse than its own."""
    print(f"load of the machine at the start: {os.getloadavg()[0]:.1f} on {available_cpus()} cores; {subject}")


def print_figures(part: str, figures: Mapping[str, Figures]) -> None:
    """Prints a line a row."""
    for name, values in figures.items():
        print(f"{part}: {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in values.items()), flush=True)


def write_figures(path: Path | None, figures: Mapping[str, Mapping[str, Figures]]) -> None:
    """Writes the figures as JSON where a path is given."""
    if path is not None:
        path.write_text(f"{json.dumps(figures, indent=2)}\n")
