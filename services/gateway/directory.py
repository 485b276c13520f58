"""Which advisors there are, and what they are called: what sentences and refusals need."""

from __future__ import annotations

import asyncio
import bisect
import difflib
import time
from collections.abc import Callable, Sequence
from typing import Final

from services.core.errors import AdvisorNotFound, MondrianError
from services.core.rpc.tokens import Metadata
from services.gateway.clients import CriticClient, EmbedderClient

_FRESH_S: Final = 60.0
_ASK_AGAIN_S: Final = 5.0
_TIMEOUT_S: Final = 2.0
_SHOWN: Final = 10
_COMPARED: Final = 400
"""Of more advisors only those next in the alphabet are compared: the event loop waits for milliseconds, not seconds."""


class Directory:
    """The embedder's advisors, asked anew after a minute; five seconds after a failure."""

    def __init__(
        self, embedder: EmbedderClient, critic: CriticClient, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._embedder = embedder
        self._critic = critic
        self._clock = clock
        self._names: dict[str, str] = {}
        self._ask_after = 0.0
        self._asking: asyncio.Task[None] | None = None

    async def name(self, advisor: str) -> str:
        """Returns the advisor's name as a person reads it; the id where the embedder does not tell."""
        if advisor not in self._names or self._clock() >= self._ask_after:
            if self._asking is None and self._clock() >= self._ask_after:
                self._asking = asyncio.create_task(self._ask())
            if self._asking is not None:
                # Shared by all who wait for it: one of them leaving must not stop it.
                await asyncio.shield(self._asking)
        return self._names.get(advisor) or advisor

    async def _ask(self) -> None:
        try:
            advisors = await self._embedder.all_advisors(_TIMEOUT_S)
            self._names = {advisor.id: advisor.name for advisor in advisors}
            self._ask_after = self._clock() + _FRESH_S
        except MondrianError:
            self._ask_after = self._clock() + _ASK_AGAIN_S
        finally:
            self._asking = None

    async def known(self, timeout: float, metadata: Metadata = ()) -> list[str] | None:
        """Returns the ids of all advisors, asked now; None where the embedder cannot tell within `timeout` seconds."""
        timeout = min(timeout, _TIMEOUT_S)
        try:
            return [advisor.id for advisor in await self._embedder.all_advisors(timeout, metadata)]
        except MondrianError:
            return None

    async def has_adapter(self, advisor: str, timeout: float, metadata: Metadata = ()) -> bool:
        """Returns whether the critic names an adapter of the advisor; True where it cannot tell within `timeout` s."""
        timeout = min(timeout, _TIMEOUT_S)
        try:
            return any(adapter.name == advisor for adapter in await self._critic.all_adapters(timeout, metadata))
        except MondrianError:
            return True

    async def close(self) -> None:
        """Gives up a question that is still open."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)


def advisor_not_found(advisor: str, known: Sequence[str] | None) -> AdvisorNotFound:
    """Returns the refusal of an advisor that exists nowhere, with the known ids, the most alike first."""
    sentence = f"There is no advisor '{advisor}'."
    if known:
        ids = sorted(known)
        place = max(0, bisect.bisect(ids, advisor) - _COMPARED // 2) if len(ids) > _COMPARED else 0
        alike = difflib.get_close_matches(advisor, ids[place : place + _COMPARED], n=_SHOWN)
        shown = [*alike, *(other for other in ids[: 2 * _SHOWN] if other not in alike)][:_SHOWN]
        more = f" and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
        sentence += f" Known: {', '.join(shown)}{more}."
    elif known is not None:
        sentence += " None has been pre-computed yet: run `mondrian precompute` for one."
    return AdvisorNotFound(sentence, metadata={"advisor": advisor})
