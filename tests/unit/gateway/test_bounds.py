"""What is let in, what waits, and what happens to a reader who leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mondrian.gateway.v1 import gateway_pb2

from services.core.batching.byte_budget import ByteBudget
from services.core.errors import Draining, InvalidArgument, Overloaded
from services.gateway.admission import Admission
from services.gateway.bulk import Bulk
from services.gateway.fanout import Emit, margin_s
from services.gateway.modes import PARTS
from services.gateway.settings import GatewaySettings
from services.gateway.stream import events_of


def test_one_too_many_is_refused_and_a_permit_is_given_back_whatever_happens() -> None:
    admission = Admission(1, "requests")

    def fail() -> None:
        with admission.permit():
            raise ZeroDivisionError

    with admission.permit():
        with pytest.raises(Overloaded) as caught:
            fail()
        assert caught.value.retry_after_s == 1.0
    with pytest.raises(ZeroDivisionError):
        fail()
    with admission.permit():
        pass


@given(
    fates=st.lists(st.sampled_from(["answered", "refused", "broken"]), max_size=40),
    in_flight=st.integers(1, 5),
    turns=st.randoms(use_true_random=False),
)
def test_every_request_of_a_batch_gets_exactly_its_own_result(fates: list[str], in_flight: int, turns: object) -> None:
    busy = 0
    most = 0

    async def analyze(request: gateway_pb2.AnalyzeRequest) -> gateway_pb2.AnalyzeResponse:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        for _ in range(request.top_k):
            await asyncio.sleep(0)
        busy -= 1
        if request.advisor == "refused":
            raise InvalidArgument("No.")
        if request.advisor == "broken":
            raise ZeroDivisionError
        return gateway_pb2.AnalyzeResponse(summary=request.instruction)

    async def requests() -> AsyncIterator[gateway_pb2.AnalyzeBatchRequest]:
        for number, fate in enumerate(fates):
            request = gateway_pb2.AnalyzeRequest(
                advisor=fate,
                instruction=str(number),
                top_k=turns.randrange(5),  # type: ignore[attr-defined]
            )
            yield gateway_pb2.AnalyzeBatchRequest(key=str(number), request=request)

    async def run() -> list[gateway_pb2.AnalyzeBatchResponse]:
        return [
            result async for result in Bulk(analyze, in_flight, ByteBudget(100), asyncio.Event()).results(requests())
        ]

    results = {result.key: result for result in asyncio.run(run())}
    assert sorted(results, key=int) == [str(number) for number in range(len(fates))]
    for number, fate in enumerate(fates):
        result = results[str(number)]
        if fate == "answered":
            assert result.response.summary == str(number)
        else:
            assert result.status.reason == {"refused": "INVALID_ARGUMENT", "broken": "INTERNAL"}[fate]
    assert most <= in_flight


async def test_a_batch_whose_reader_does_not_read_stops_reading_too() -> None:
    taken = 0

    async def analyze(request: gateway_pb2.AnalyzeRequest) -> gateway_pb2.AnalyzeResponse:
        return gateway_pb2.AnalyzeResponse()

    async def requests() -> AsyncIterator[gateway_pb2.AnalyzeBatchRequest]:
        nonlocal taken
        while True:
            taken += 1
            yield gateway_pb2.AnalyzeBatchRequest(key=str(taken))

    results = Bulk(analyze, 3, ByteBudget(100), asyncio.Event()).results(requests())
    await anext(results)
    for _ in range(100):
        await asyncio.sleep(0)
    assert taken == 3
    await anext(results)
    for _ in range(100):
        await asyncio.sleep(0)
    assert taken == 4
    await results.aclose()


async def test_a_batch_that_breaks_off_cancels_what_is_in_flight() -> None:
    cancelled = asyncio.Event()

    async def analyze(request: gateway_pb2.AnalyzeRequest) -> gateway_pb2.AnalyzeResponse:
        if request.advisor == "quick":
            return gateway_pb2.AnalyzeResponse()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async def requests() -> AsyncIterator[gateway_pb2.AnalyzeBatchRequest]:
        yield gateway_pb2.AnalyzeBatchRequest(key="slow")
        yield gateway_pb2.AnalyzeBatchRequest(key="quick", request=gateway_pb2.AnalyzeRequest(advisor="quick"))
        await asyncio.Event().wait()

    results = Bulk(analyze, 3, ByteBudget(100), asyncio.Event()).results(requests())
    assert (await anext(results)).key == "quick"
    await results.aclose()
    assert cancelled.is_set()


async def test_a_batch_that_breaks_off_reads_no_further() -> None:
    reading, left = asyncio.Event(), asyncio.Event()

    async def requests() -> AsyncIterator[gateway_pb2.AnalyzeBatchRequest]:
        try:
            reading.set()
            await asyncio.Event().wait()
            yield gateway_pb2.AnalyzeBatchRequest()
        finally:
            left.set()

    async def analyze(request: gateway_pb2.AnalyzeRequest) -> gateway_pb2.AnalyzeResponse:
        raise AssertionError

    call = asyncio.ensure_future(_all(Bulk(analyze, 3, ByteBudget(100), asyncio.Event()).results(requests())))
    await reading.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    for _ in range(10):
        await asyncio.sleep(0)
    assert left.is_set()


async def test_a_batch_ends_well_when_the_process_leaves() -> None:
    leaving, gate, reading_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def analyze(request: gateway_pb2.AnalyzeRequest) -> gateway_pb2.AnalyzeResponse:
        await gate.wait()
        return gateway_pb2.AnalyzeResponse()

    async def requests() -> AsyncIterator[gateway_pb2.AnalyzeBatchRequest]:
        yield gateway_pb2.AnalyzeBatchRequest(key="begun")
        reading_on.set()
        await asyncio.Event().wait()

    results = Bulk(analyze, 3, ByteBudget(100), leaving).results(requests())
    first = asyncio.ensure_future(anext(results))
    await reading_on.wait()
    leaving.set()
    gate.set()
    # What was read is answered; the call does not wait for more.
    assert (await first).key == "begun"
    with pytest.raises(Draining):
        await anext(results)


async def test_a_slow_reader_of_a_stream_holds_the_writer_back_and_one_who_leaves_stops_it() -> None:
    written = 0
    cancelled = asyncio.Event()

    async def answer(emit: Emit) -> gateway_pb2.AnalyzeResponse:
        nonlocal written
        try:
            while True:
                await emit(gateway_pb2.StreamAnalyzeResponse())
                written += 1
        except asyncio.CancelledError:
            cancelled.set()
            raise

    events = events_of(answer)
    await anext(events)
    for _ in range(500):
        await asyncio.sleep(0)
    assert written == 64
    await events.aclose()
    assert cancelled.is_set()


async def test_a_stream_that_fails_gives_the_events_before_its_failure() -> None:
    async def answer(emit: Emit) -> gateway_pb2.AnalyzeResponse:
        await emit(gateway_pb2.StreamAnalyzeResponse())
        raise InvalidArgument("No.")

    events = events_of(answer)
    await anext(events)
    with pytest.raises(InvalidArgument):
        await anext(events)


@pytest.mark.parametrize(("seconds", "margin"), [(0.2, 0.01), (1.0, 0.05), (5.0, 0.25), (90.0, 0.25)])
def test_a_margin_is_kept_of_every_deadline(seconds: float, margin: float) -> None:
    assert margin_s(seconds) == pytest.approx(margin)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONDRIAN_GATEWAY_CRITIC", "critic.mondrian.svc:50052")
    monkeypatch.setenv("MONDRIAN_GATEWAY_LORA_DEADLINE_S", "7.5")
    settings = GatewaySettings.load()
    assert settings.critic == "critic.mondrian.svc:50052"
    assert (settings.port, settings.embedder, settings.scorer) == (50050, "127.0.0.1:50051", "127.0.0.1:50053")
    assert [settings.deadline_s(mode) for mode in PARTS] == [15.0, 7.5, 30.0, 90.0]


async def test_photographs_too_large_to_be_in_flight_together_take_turns() -> None:
    held: list[int] = []

    async def analyze(request: gateway_pb2.AnalyzeRequest) -> gateway_pb2.AnalyzeResponse:
        held.append(budget.held)
        for _ in range(3):
            await asyncio.sleep(0)
        return gateway_pb2.AnalyzeResponse()

    async def requests() -> AsyncIterator[gateway_pb2.AnalyzeBatchRequest]:
        for size in (60, 60, 30, 200, 1):
            request = gateway_pb2.AnalyzeBatchRequest(key=str(size))
            request.request.image.content = bytes(size)
            yield request

    budget = ByteBudget(100)
    both = [
        asyncio.ensure_future(_all(Bulk(analyze, 5, budget, asyncio.Event()).results(requests()))) for _ in range(2)
    ]
    assert [len(results) for results in await asyncio.gather(*both)] == [5, 5]
    # The one of 200 is let in alone.
    assert max(size for size in held if size != 200) <= 100
    assert budget.held == 0


async def _all(results: AsyncIterator[gateway_pb2.AnalyzeBatchResponse]) -> list[gateway_pb2.AnalyzeBatchResponse]:
    return [result async for result in results]
