"""Equal requests share one computation, and whoever leaves disturbs nobody."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest
from prometheus_client import REGISTRY

from services.core.batching.flights import Flights
from services.core.errors import Overloaded, QueuedTooLong


class Computation:
    """Something that takes as long as the test wants."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.finish = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.started += 1
        try:
            await self.finish.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return self.started


async def turn() -> None:
    """Lets every task go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def admitted(permits: int = 8, wait_s: float = 0.0) -> Flights[int]:
    return Flights(name="t", permits=permits, estimated_wait_s=lambda: wait_s)


async def test_all_who_ask_meanwhile_get_one_result() -> None:
    flights = admitted()
    computation = Computation()
    callers = [asyncio.create_task(flights.join("key", computation, None)) for _ in range(5)]
    await turn()
    assert len(flights) == 1
    computation.finish.set()
    assert await asyncio.gather(*callers) == [1] * 5
    await turn()
    assert len(flights) == 0
    assert await flights.join("key", computation, None) == 2


async def test_who_leaves_does_not_disturb_the_others() -> None:
    flights = admitted()
    computation = Computation()
    first, second = (asyncio.create_task(flights.join("key", computation, None)) for _ in range(2))
    await turn()
    first.cancel()
    await turn()
    computation.finish.set()
    assert await second == 1
    assert computation.cancelled == 0


async def test_when_the_last_has_left_the_computation_is_cancelled_and_the_next_begins_anew() -> None:
    flights = admitted()
    computation = Computation()
    callers = [asyncio.create_task(flights.join("key", computation, None)) for _ in range(2)]
    await turn()
    for caller in callers:
        caller.cancel()
    await turn()
    assert computation.cancelled == 1
    assert len(flights) == 0
    computation.finish.set()
    assert await flights.join("key", computation, None) == 2


async def test_an_error_reaches_everybody_and_is_not_kept() -> None:
    flights = admitted()
    computation = Computation()
    computation.error = ValueError("no")
    computation.finish.set()
    results = await asyncio.gather(*(flights.join("key", computation, None) for _ in range(3)), return_exceptions=True)
    assert [str(result) for result in results] == ["no"] * 3
    computation.error = None
    assert await flights.join("key", computation, None) == 2


async def test_who_comes_while_a_computation_is_being_cancelled_begins_another() -> None:
    flights = admitted()
    computation = Computation()
    leaver = asyncio.create_task(flights.join("key", computation, None))
    await turn()
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    # At once, in the same turn, before the cancelled one has landed.
    computation.finish.set()
    assert await flights.join("key", computation, None) == 2
    assert computation.cancelled == 1
    await turn()
    assert len(flights) == 0


async def test_a_failure_that_nobody_waits_for_any_more_is_not_reported() -> None:
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    flights = admitted()

    async def stumbles() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("on the way out")

    leaver = asyncio.create_task(flights.join("key", stumbles, None))
    await turn()
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    del leaver
    await turn()
    gc.collect()
    assert reported == []


def refusals() -> float:
    return REGISTRY.get_sample_value("mondrian_refused_total", {"batcher": "t"}) or 0.0


async def test_without_a_permit_a_new_computation_is_refused_and_one_under_way_is_joined() -> None:
    flights, computation = admitted(1, 3.0), Computation()
    before = refusals()
    first = asyncio.create_task(flights.join("key", computation, None))
    await turn()
    with pytest.raises(Overloaded, match=r"1 requests wait already; try again in 3\.0 s") as refused:
        await flights.join("other", computation, None)
    assert refused.value.retry_after_s == 3.0
    assert refusals() == before + 1
    second = asyncio.create_task(flights.join("key", computation, None))
    await turn()
    computation.finish.set()
    assert (await first, await second) == (1, 1)
    assert len(flights) == 0
    assert await flights.join("other", computation, None) == 2


async def test_a_deadline_before_its_turn_refuses_a_new_computation_but_nobody_who_joins_one() -> None:
    flights, computation = admitted(2, 1000.0), Computation()
    soon = time.monotonic() + 500
    with pytest.raises(QueuedTooLong, match=r"wait of 1000\.00 s"):
        await flights.join("key", computation, soon)
    assert computation.started == 0
    first = asyncio.create_task(flights.join("key", computation, time.monotonic() + 2000))
    await turn()
    # How far that one has come is not known; who joins it costs nothing, and leaves when the own deadline passes.
    second = asyncio.create_task(flights.join("key", computation, soon))
    await turn()
    computation.finish.set()
    assert (await first, await second) == (1, 1)
