"""The load generator against a gateway over fakes: it sends what it is told, counts what comes back, and ends."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from mondrian.gateway.v1 import gateway_pb2

from services.core.errors import DeviceMemory, Overloaded
from services.core.images.reading import decode
from tests.fakes.backends import PHOTOGRAPH
from tests.fakes.system import system
from tests.load.__main__ import drawn
from tests.load.generator import Load, Report, photographs_of, run

LOAD = Load(
    mode=gateway_pb2.MODE_COMBINED, advisor="ansel", photographs=[PHOTOGRAPH], requests=24, seconds=30.0, timeout_s=60.0
)


def test_percentiles_are_nearest_ranks() -> None:
    report = Report(seconds=2.0, latencies_ms=[float(ms) for ms in range(100, 0, -1)])
    assert [report.percentile(percent) for percent in (50, 90, 95, 99, 100)] == [50, 90, 95, 99, 100]
    assert report.per_second == 50
    assert math.isnan(Report().percentile(50))
    assert Report(latencies_ms=[7.0]).percentile(50) == 7.0


def test_distinct_photographs_differ_and_can_still_be_decoded() -> None:
    load = replace(LOAD, photographs=[drawn(0.01, 0), drawn(0.01, 1)])
    four = list(itertools.islice(photographs_of(load), 4))
    assert len(set(four)) == 4
    assert all(decode(content).size == (123, 82) for content in four)
    assert len(set(itertools.islice(photographs_of(replace(load, distinct=False)), 4))) == 2


async def test_a_closed_loop_sends_every_request_and_keeps_to_its_concurrency() -> None:
    async with system() as running:
        report = await run(running.address, replace(LOAD, concurrency=3))
        assert report.outcomes == {"OK": 24}
        assert report.answered == len(running.critic.requests) == 24
        assert 1 <= running.critic.most_in_flight <= 3


async def test_a_rate_sends_every_request_whatever_the_answers_do() -> None:
    async with system() as running:
        report = await run(running.address, replace(LOAD, rate=400.0, concurrency=24))
        assert report.outcomes == {"OK": 24}


async def test_what_exceeds_the_bound_in_flight_is_counted_and_not_sent() -> None:
    async with system() as running:
        running.critic.gate.clear()
        load = replace(LOAD, mode=gateway_pb2.MODE_LORA, rate=2000.0, concurrency=2, timeout_s=3.0)
        report = await run(running.address, load)
        # Whether the client or the gateway notices first is a matter of milliseconds; and on a busy machine the time of
        # the first two may be up before the last is due, which is sent then.
        late = sum(count for name, count in report.outcomes.items() if name.startswith("DEADLINE_EXCEEDED"))
        assert running.critic.most_in_flight == 2 <= late
        assert report.outcomes["NOT_SENT"] == 24 - late > 0
        assert report.answered == 0


@pytest.mark.parametrize("rate", [None, 1000.0])
async def test_no_request_begins_after_the_seconds(rate: float | None) -> None:
    async with system() as running:
        report = await run(running.address, replace(LOAD, rate=rate, requests=10**9, seconds=0.2, concurrency=4))
        assert 0 < report.answered < 10_000
        assert sum(report.outcomes.values()) >= report.answered


async def test_failures_are_counted_by_what_they_are() -> None:
    async with system() as running:
        running.scorer.failure = DeviceMemory("The device is full.")
        assert (await run(running.address, LOAD)).outcomes == {"PARTIAL": 24}
        running.critic.failure = Overloaded("Full.")
        report = await run(running.address, replace(LOAD, mode=gateway_pb2.MODE_LORA))
        assert report.outcomes == {"RESOURCE_EXHAUSTED OVERLOADED": 24}
        assert "OVERLOADED 24" in report.lines()[2]
        assert report.figures()["answered"] == 0
