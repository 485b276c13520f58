"""Bytes in flight: what does not fit is refused or waits, and what has ended makes room."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY

from services.core.batching.byte_budget import ByteBudget
from services.core.errors import Overloaded


def test_what_does_not_fit_beside_the_others_is_refused_with_a_time_to_come_back() -> None:
    def refusals() -> float:
        return REGISTRY.get_sample_value("mondrian_refused_total", {"batcher": "bytes"}) or 0.0

    budget, before = ByteBudget(10), refusals()
    with budget.hold(6):
        with budget.hold(4), pytest.raises(Overloaded) as caught, budget.hold(1):
            pass
        assert caught.value.retry_after_s == 1.0
        assert refusals() == before + 1
        with budget.hold(4):
            assert budget.held == 10
    assert budget.held == 0


def test_one_alone_is_let_in_at_any_size() -> None:
    budget = ByteBudget(10)
    with budget.hold(11), pytest.raises(Overloaded), budget.hold(1):
        pass


def test_bytes_are_given_back_whatever_happens() -> None:
    budget = ByteBudget(10)
    with pytest.raises(ZeroDivisionError), budget.hold(6):
        raise ZeroDivisionError
    assert budget.held == 0


async def test_who_waits_is_let_in_as_soon_as_there_is_room() -> None:
    budget = ByteBudget(10)
    await budget.acquire(8)
    waiting = [asyncio.create_task(budget.acquire(size)) for size in (5, 4, 1)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    budget.release(8)
    await asyncio.gather(*waiting)
    assert budget.held == 10


async def test_small_ones_that_come_later_do_not_keep_a_large_one_out() -> None:
    budget = ByteBudget(10)
    await budget.acquire(2)
    large, leaving, small = (asyncio.create_task(budget.acquire(size)) for size in (9, 2, 1))
    await asyncio.sleep(0)
    budget.release(2)
    await large
    assert (leaving.done(), small.done()) == (False, False)
    # Who leaves the line does not hold it up.
    leaving.cancel()
    await small
    assert budget.held == 10


async def test_too_little_room_lets_nobody_in() -> None:
    budget = ByteBudget(10)
    for size in (7, 2):
        await budget.acquire(size)
    waiting = asyncio.create_task(budget.acquire(5))
    await asyncio.sleep(0)
    budget.release(2)
    await asyncio.sleep(0)
    assert (waiting.done(), budget.held) == (False, 7)
    budget.release(7)
    await waiting
    assert budget.held == 5
