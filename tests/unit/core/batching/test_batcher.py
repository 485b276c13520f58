"""The batcher gives each caller its own answer, whatever arrives beside it."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from services.core.batching import Batcher
from services.core.errors import Draining, EngineStopped, InvalidArgument


class Gate:
    """A model that doubles numbers, and waits while its gate is shut."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, items: list[int]) -> Sequence[int | BaseException]:
        self.batches.append(list(items))
        self.entered.set()
        assert self.open.wait(60)
        return [2 * item for item in items]


def doubled(items: list[int]) -> Sequence[int | BaseException]:
    return [InvalidArgument("negative") if item < 0 else 2 * item for item in items]


def made(
    run: Callable[[list[int]], Sequence[int | BaseException]],
    max_batch: int,
    key: Callable[[int], int] = lambda _: 0,
    name: str = "t",
) -> Batcher[int, int]:
    return Batcher(run, name=name, max_batch=max_batch, key=key)


async def answer(batcher: Batcher[int, int], value: int) -> int:
    result, _ = await batcher.submit(value)
    return result


async def entered(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.entered.wait, 60)


@given(
    values=st.lists(st.integers(-3, 50), max_size=40),
    max_batch=st.integers(1, 8),
    cancelled=st.sets(st.integers(0, 39)),
)
@settings(max_examples=60, deadline=None)
def test_each_caller_gets_its_own_result(values: list[int], max_batch: int, cancelled: set[int]) -> None:
    async def scenario() -> None:
        batcher = made(doubled, max_batch, key=lambda v: v % 2)
        tasks = [asyncio.create_task(answer(batcher, value)) for value in values]
        await asyncio.sleep(0)
        for index in cancelled & set(range(len(tasks))):
            tasks[index].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for index, (value, result) in enumerate(zip(values, results, strict=True)):
            if index in cancelled:
                assert isinstance(result, asyncio.CancelledError) or result == 2 * value
            elif value < 0:
                assert isinstance(result, InvalidArgument)
            else:
                assert result == 2 * value
        await batcher.close()

    asyncio.run(scenario())


async def test_what_waited_becomes_one_batch_and_the_cancelled_are_dropped() -> None:
    gate = Gate()
    batcher = made(gate, 8)
    first = asyncio.create_task(answer(batcher, 0))
    await entered(gate)
    rest = [asyncio.create_task(answer(batcher, value)) for value in range(1, 6)]
    await asyncio.sleep(0)
    rest[1].cancel()
    await asyncio.sleep(0)
    gate.open.set()
    assert await first == 0
    await asyncio.gather(*rest, return_exceptions=True)
    assert gate.batches == [[0], [1, 3, 4, 5]]
    await batcher.close()


async def test_items_of_different_keys_never_share_a_batch() -> None:
    gate = Gate()
    batcher = made(gate, 8, key=lambda value: value % 2)
    tasks = [asyncio.create_task(answer(batcher, 0))]
    await entered(gate)
    tasks += [asyncio.create_task(answer(batcher, value)) for value in (1, 2, 3, 4)]
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(*tasks)
    assert gate.batches == [[0], [1, 3], [2, 4]]
    await batcher.close()


async def test_a_failing_batch_fails_its_callers_and_the_next_one_runs() -> None:
    def run(items: list[int]) -> list[int]:
        if 13 in items:
            raise ValueError("thirteen")
        return items

    batcher = made(run, 4)
    with pytest.raises(ValueError, match="thirteen"):
        await answer(batcher, 13)
    assert await answer(batcher, 7) == 7
    assert batcher.alive
    await batcher.close()
    with pytest.raises(Draining):
        await answer(batcher, 1)


async def test_a_result_too_few_is_a_fault_and_not_another_callers_answer() -> None:
    batcher = made(lambda items: items[1:], 4)
    with pytest.raises(RuntimeError, match="0 results for 1"):
        await answer(batcher, 1)
    await batcher.close()


async def test_the_wait_is_told_by_how_long_batches_take(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = 0.0
    monkeypatch.setattr(
        "services.core.batching.batcher.time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead)
    )
    gate = Gate()
    batcher = made(gate, 1)
    first = asyncio.create_task(answer(batcher, 0))
    await entered(gate)
    ahead = 1000.0
    gate.open.set()
    assert await first == 0
    gate.open.clear()
    gate.entered.clear()
    callers = [asyncio.create_task(answer(batcher, value)) for value in (1, 2, 3)]
    await asyncio.sleep(0)
    await entered(gate)
    # The batch that runs and the two that wait, of about 1,000 s each.
    assert 2700 < batcher.estimated_wait_s() < 3300
    gate.open.set()
    assert await asyncio.gather(*callers) == [2, 4, 6]
    await batcher.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_when_the_thread_ends_nobody_is_left_waiting() -> None:
    gate = Gate()

    def run(items: list[int]) -> Sequence[int | BaseException]:
        gate(items)
        raise SystemExit

    batcher = made(run, 1)
    running = asyncio.create_task(answer(batcher, 0))
    await entered(gate)
    waiting = asyncio.create_task(answer(batcher, 1))
    await asyncio.sleep(0)
    gate.open.set()
    for caller in (running, waiting):
        with pytest.raises(EngineStopped):
            await asyncio.wait_for(caller, 30)
    assert not batcher.alive
    with pytest.raises(EngineStopped):
        await answer(batcher, 2)
    assert gate.batches == [[0]]
    await batcher.close()


async def test_what_an_item_met_is_measured() -> None:
    gate = Gate()
    batcher = made(gate, 4, name="measured")

    def metric(name: str) -> float:
        return REGISTRY.get_sample_value(name, {"batcher": "measured"}) or 0.0

    first = asyncio.create_task(batcher.submit(4))
    await entered(gate)
    others = [asyncio.create_task(batcher.submit(value)) for value in (5, 6)]
    await asyncio.sleep(0)
    assert metric("mondrian_queue_length") == 2
    gate.open.set()
    (result, alone), *batch = [await caller for caller in (first, *others)]
    assert result == 8
    assert [value for value, _ in batch] == [10, 12]
    assert [measured.batch for measured in (alone, batch[0][1], batch[1][1])] == [1, 2, 2]
    for _, measured in batch:
        # Durations, and not times of a clock.
        assert 0 <= measured.queue_s < 60
        assert 0 <= measured.compute_s < 60
    assert metric("mondrian_queue_length") == 0
    assert (metric("mondrian_batch_size_count"), metric("mondrian_batch_size_sum")) == (2, 3)
    await batcher.close()
