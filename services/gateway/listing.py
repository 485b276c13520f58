"""The advisors, with what each service knows of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from mondrian.critic.v1 import critic_pb2
from mondrian.embedder.v1 import embedder_pb2
from mondrian.gateway.v1 import gateway_pb2

from services.core.errors import MondrianError, status_of
from services.core.rpc.tokens import Metadata
from services.gateway.clients import Backends, CriticClient, ScorerClient
from services.gateway.fanout import margin_s
from services.gateway.modes import CRITIQUE, SCORES

_PROFILES_AT_ONCE: Final = 8
# Answers that say "there is none": the scorer has been asked, and has nothing for this advisor.
_NO_PROFILE: Final = ("ADVISOR_NOT_FOUND", "NO_RELEASE")


async def list_advisors(
    backends: Backends, request: gateway_pb2.ListAdvisorsRequest, seconds: float, metadata: Metadata
) -> gateway_pb2.ListAdvisorsResponse:
    """Returns one page of the embedder's advisors, each with whether the critic and the scorer know it.

    Pages and tokens are the embedder's own. What the critic or the scorer cannot tell stays false and is named in
    `failures`.

    Raises:
        MondrianError: the embedder's failure, since without it there is nothing to list.
    """
    until = time.monotonic() + seconds - margin_s(seconds)
    page_request = embedder_pb2.ListAdvisorsRequest(page_size=request.page_size, page_token=request.page_token)
    adapters = asyncio.create_task(_adapters(backends.critic, until, metadata))
    try:
        page = await backends.embedder.list_advisors(page_request, until - time.monotonic(), metadata)
        ids = [advisor.id for advisor in page.advisors]
        profiles, scorer_error = await _profiles(backends.scorer, ids, until, metadata)
        voices, critic_error = await adapters
    finally:
        adapters.cancel()
        await asyncio.gather(adapters, return_exceptions=True)
    response = gateway_pb2.ListAdvisorsResponse(next_page_token=page.next_page_token)
    for advisor in page.advisors:
        response.advisors.add(advisor=advisor, has_adapter=advisor.id in voices, has_profile=advisor.id in profiles)
    for part, error in ((CRITIQUE, critic_error), (SCORES, scorer_error)):
        if error is not None:
            response.failures.add(part=part, status=status_of(error))
    return response


async def _adapters(critic: CriticClient, until: float, metadata: Metadata) -> tuple[set[str], MondrianError | None]:
    """Returns the advisors that have a usable adapter."""
    try:
        adapters = await critic.all_adapters(until - time.monotonic(), metadata)
    except MondrianError as error:
        return set(), error
    return {adapter.name for adapter in adapters if adapter.state == critic_pb2.ADAPTER_STATE_READY}, None


async def _profiles(
    scorer: ScorerClient, advisors: Sequence[str], until: float, metadata: Metadata
) -> tuple[set[str], MondrianError | None]:
    """Returns those of `advisors` that have a reference distribution, and the failure that prevented asking, if any."""
    places = asyncio.Semaphore(_PROFILES_AT_ONCE)
    failure: MondrianError | None = None

    async def has_profile(advisor: str) -> bool:
        nonlocal failure
        async with places:
            # Once one question has failed, the others would only fail the same way, each after its own wait.
            if failure is not None:
                return False
            try:
                await scorer.profile(advisor, until - time.monotonic(), metadata)
            except MondrianError as error:
                if error.reason not in _NO_PROFILE:
                    failure = error
                return False
            return True

    answers = await asyncio.gather(*(has_profile(advisor) for advisor in advisors))
    return {advisor for advisor, answer in zip(advisors, answers, strict=True) if answer}, failure
