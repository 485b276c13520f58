"""What an interrupted precompute has finished: one line a photograph, kept before the next batch begins."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from services.core.errors import ConfigurationError
from services.scorer.references import scores_from_json, scores_to_json
from services.scorer.scoring import Scores


class Work:
    """The finished photographs of one scorer, in a file that only grows until a release holds them."""

    def __init__(self, folder: Path, scorer: str) -> None:
        self._path = folder / f"{scorer.replace('@', '-')}.jsonl"
        self._finished: dict[str, Scores] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
                # A line that a kill cut off, or a disk has changed, is measured again.
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    content = json.loads(line)
                    self._finished[str(content["id"])] = scores_from_json(content)

    def get(self, photograph_id: str) -> Scores | None:
        """Returns the scores of a finished photograph; None where it is not finished."""
        return self._finished.get(photograph_id)

    def put(self, scored: Mapping[str, Scores]) -> None:
        """Keeps scores by photograph; when this returns they survive the end of the process.

        Raises:
            ConfigurationError: the file cannot be written.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_lines(scored))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigurationError(
                f"{self._path} cannot be written ({error.strerror}); free some space and run the same command again."
            ) from error
        self._finished.update(scored)

    def forget(self, photograph_ids: Iterable[str]) -> None:
        """Removes what a release holds now; where a full disk forbids it, it stays and does no harm."""
        for one in photograph_ids:
            self._finished.pop(one, None)
        if not self._finished:
            self._path.unlink(missing_ok=True)
            return
        shorter = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            shorter.write_text(_lines(self._finished), encoding="utf-8")
            shorter.replace(self._path)


def _lines(scored: Mapping[str, Scores]) -> str:
    # The leading newline ends whatever a kill left unfinished.
    return "".join(f"\n{json.dumps({'id': one, **scores_to_json(scores)})}" for one, scores in scored.items())
