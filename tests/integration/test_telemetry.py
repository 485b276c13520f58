"""Traces: one request is one trace, whatever becomes of it, and nothing of it is told but how it went."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator

import grpc
import grpc.aio
import pytest
from mondrian.gateway.v1 import gateway_pb2

from services.core.errors import AdvisorNotFound, ConfigurationError
from services.core.telemetry import tracing
from services.core.telemetry.logs import configure_logging
from tests.fakes.backends import PHOTOGRAPH
from tests.fakes.collector import Collector, Span, collector
from tests.fakes.system import analyze_request, system
from tests.processes import child_environment, free_port

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = (("traceparent", f"00-{TRACE}-{CALLER}-01"), ("x-request-id", "mine"))
ANALYZE = "mondrian.gateway.v1.GatewayService/Analyze"


@pytest.fixture
def collecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collector() as there:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", there.address)
        yield there


def within(spans: list[Span], outer: Span) -> list[str]:
    return sorted(span.name for span in spans if span.parent == outer.id)


def named(spans: list[Span], name: str) -> Span:
    (span,) = [each for each in spans if each.name == name]
    return span


async def test_a_combined_request_is_one_trace_through_all_services(collecting: Collector) -> None:
    with tracing.exporting("mondrian-test"):
        async with system() as there:
            await there.stub.Analyze(analyze_request(), metadata=TRACEPARENT)
    spans = [span for span in collecting.spans if span.trace == TRACE]
    root = named(spans, ANALYZE)
    assert (root.parent, root.kind, root.service, root.failed) == (CALLER, "SERVER", "mondrian-test", False)
    assert root.attributes["mondrian.mode"] == "combined"
    assert root.attributes["mondrian.request_id"] == "mine"
    assert root.attributes["rpc.grpc.status_code"] == 0
    assert {"embedder", "critic", "scorer"} <= set(within(spans, root))
    for part, answered in (
        ("embedder", "mondrian.embedder.v1.EmbedderService/SearchReferences"),
        ("critic", "mondrian.critic.v1.CriticService/Critique"),
        ("scorer", "mondrian.scorer.v1.ScorerService/Score"),
    ):
        asked = named(spans, part)
        assert asked.kind == "CLIENT"
        assert within(spans, asked) == [answered]


async def test_a_streamed_request_is_one_trace_too(collecting: Collector) -> None:
    with tracing.exporting("mondrian-test"):
        async with system() as there:
            request = gateway_pb2.StreamAnalyzeRequest(request=analyze_request(gateway_pb2.MODE_LORA))
            assert [event async for event in there.stub.StreamAnalyze(request, metadata=TRACEPARENT)]
    spans = [span for span in collecting.spans if span.trace == TRACE]
    assert within(spans, named(spans, "critic")) == ["mondrian.critic.v1.CriticService/StreamCritique"]


async def test_a_failure_is_told_by_its_code_alone(collecting: Collector) -> None:
    with tracing.exporting("mondrian-test"):
        async with system() as there:
            there.scorer.failure = AdvisorNotFound("There is no advisor 'the-secret-one'.")
            with pytest.raises(grpc.aio.AioRpcError):
                await there.stub.Analyze(analyze_request(gateway_pb2.MODE_DIMENSIONAL), metadata=TRACEPARENT)
            there.scorer.failure = RuntimeError("the-secret-fault")
            with pytest.raises(grpc.aio.AioRpcError):
                await there.stub.Analyze(analyze_request(gateway_pb2.MODE_DIMENSIONAL))
    first = [span for span in collecting.spans if span.trace == TRACE and span.name == ANALYZE]
    second = [span for span in collecting.spans if span.trace != TRACE and span.name == ANALYZE]
    assert [(span.attributes["rpc.grpc.status_code"], span.failed) for span in first + second] == [
        (grpc.StatusCode.NOT_FOUND.value[0], False),
        (grpc.StatusCode.INTERNAL.value[0], True),
    ]
    assert "secret" not in str(collecting.spans)
    assert str(PHOTOGRAPH)[2:20] not in str(collecting.spans)


async def test_a_cancelled_request_ends_its_spans(collecting: Collector) -> None:
    with tracing.exporting("mondrian-test"):
        async with system() as there:
            there.critic.gate.clear()
            call = there.stub.Analyze(analyze_request(gateway_pb2.MODE_LORA), metadata=TRACEPARENT)
            await there.critic.entered.wait()
            call.cancel()
            await there.critic.cancelled.wait()
            with pytest.raises(asyncio.CancelledError):
                await call
    spans = [span for span in collecting.spans if span.trace == TRACE]
    assert {"critic", ANALYZE, "mondrian.critic.v1.CriticService/Critique"} <= {span.name for span in spans}
    assert named(spans, ANALYZE).attributes["rpc.grpc.status_code"] == grpc.StatusCode.CANCELLED.value[0]


async def test_without_a_collector_a_callers_trace_is_passed_on_all_the_same(
    collecting: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    with tracing.exporting("mondrian-test"), tracing.answering("/a.B/C", dict(TRACEPARENT)):
        assert dict(tracing.context())["traceparent"] == f"00-{TRACE}-{CALLER}-01"
        assert tracing.trace_fields() == {"trace_id": TRACE}
    assert tracing.context() == ()
    assert tracing.trace_fields() == {}
    assert collecting.spans == []


def test_a_setting_that_does_not_fit_is_a_sentence(collecting: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "zip")
    with pytest.raises(ConfigurationError, match="OTEL_"), tracing.exporting("mondrian-test"):
        pass


def test_a_collector_that_is_not_there_costs_nothing_but_the_spans() -> None:
    program = """
from services.core.telemetry import tracing
with tracing.exporting("mondrian-test", flush_s=0.1):
    with tracing.answering("/a.B/C", {}):
        pass
"""
    environment = child_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"})
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_exports_nothing_loads_nothing_for_it() -> None:
    program = """
import sys
from services.core.telemetry import tracing
with tracing.exporting("mondrian-test"):
    pass
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))])
"""
    run = [sys.executable, "-c", program]
    assert subprocess.run(run, env=child_environment({}), capture_output=True, text=True, check=True).stdout == "[]\n"


async def test_of_what_a_caller_sends_beside_the_trace_nothing_is_passed_on_or_logged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Passed on, each "!" would be three characters, and all of them more than any service takes.
    beside = (("baggage", ",".join(f"mine{each}={'!' * 500}" for each in range(15))), ("tracestate", "==mine"))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging("info", "text")
        async with system() as there:
            answer = await there.stub.Analyze(analyze_request(), metadata=TRACEPARENT[:1] + beside)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert not answer.failures
    told = capsys.readouterr().err
    assert f"trace_id={TRACE}" in told
    assert "mine" not in told


def test_propagators_that_are_not_there_hinder_nothing() -> None:
    environment = child_environment({"OTEL_PROPAGATORS": "nonsense"})
    subprocess.run(
        [sys.executable, "-c", "import services.core.telemetry.tracing"], env=environment, check=True, timeout=60
    )
