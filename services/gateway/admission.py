"""How much is let in at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from services.core.errors import Overloaded
from services.core.telemetry.metrics import REFUSED


class Admission:
    """Permits for `what`, in the plural; who finds none is refused at once instead of waiting behind others."""

    def __init__(self, permits: int, what: str) -> None:
        self._permits = permits
        self._what = what
        self._taken = 0

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Holds a permit.

        Raises:
            Overloaded: all permits are taken; RetryInfo says when to try again.
        """
        if self._taken >= self._permits:
            REFUSED.labels("gateway").inc()
            raise Overloaded(
                f"The gateway is answering {self._permits} {self._what}, as many as it may; try again in a moment.",
                retry_after_s=1.0,
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
