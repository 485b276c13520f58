"""Traces by OpenTelemetry: one request's way through the services, for whoever collects them.

A span is a call seen by the service that answers it, or a part seen by the gateway that asks for it. The trace of a
caller is taken up and passed on (W3C trace context); spans are exported only where the standard environment of
OpenTelemetry names a collector. They carry methods, codes, counts and durations, never a photograph or a critique.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

import grpc
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.core.errors import ConfigurationError

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""The variables that name a collector of OTLP over gRPC, such as http://localhost:4317; set, spans are exported."""
FAULTS: Final = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""The codes that are a server's fault, by OpenTelemetry's conventions for gRPC; the others are the caller's."""

# The trace alone: a caller's baggage could be passed on in more bytes than headers may have, and would be logged.
_PROPAGATOR: Final = TraceContextTextMapPropagator()
# Makes spans that pass a caller's trace on and are seen by nobody, until `exporting` sets another.
_tracer: trace.Tracer = trace.NoOpTracer()


@contextlib.contextmanager
def exporting(service: str, flush_s: float = 3.0) -> Iterator[None]:
    """Exports the spans of this process where the environment names a collector; flushes them at the end.

    `service` is the spans' `service.name` unless OTEL_SERVICE_NAME is set; sampling, headers and TLS follow the OTEL_
    variables too. A collector that cannot be reached costs spans, never an answer, and delays the end by `flush_s`
    seconds.

    Raises:
        ConfigurationError: a value among the OTEL_ variables does not fit.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS):
        yield
        return
    # Here, because most processes export nothing and need not load it.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    version = importlib.metadata.version("mondrian")
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    try:
        provider = TracerProvider(resource=Resource.create({**named, "service.version": version}))
        exporter = OTLPSpanExporter()
        provider.add_span_processor(BatchSpanProcessor(exporter))
    except Exception as error:  # each of the library's settings has a fault of its own
        raise ConfigurationError(f"Traces cannot be exported; mend the OTEL_ variables: {error}.") from error
    global _tracer
    before, _tracer = _tracer, provider.get_tracer("mondrian", version)
    try:
        yield
    finally:
        _tracer = before
        # By default the exporter retries for ten seconds, and the process cannot end before.
        enough = threading.Timer(flush_s, exporter.shutdown)
        enough.start()
        provider.shutdown()
        enough.cancel()


def answering(method: str, metadata: Mapping[str, str]) -> AbstractContextManager[object]:
    """Makes the call of a method (/package.Service/Method) a span within the trace that `metadata` names."""
    if isinstance(_tracer, trace.NoOpTracer) and "traceparent" not in metadata:
        return contextlib.nullcontext()  # nobody would see it, and every call would pay for it
    service, _, name = method.removeprefix("/").partition("/")
    attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
    caller = _PROPAGATOR.extract(metadata)
    return _current(_tracer.start_span(f"{service}/{name}", caller, trace.SpanKind.SERVER, attributes))


def asking(part: str) -> AbstractContextManager[object]:
    """Makes what another service is asked for a span, named like the part, if the call being answered is traced."""
    if not trace.get_current_span().get_span_context().is_valid:
        return contextlib.nullcontext()
    return _current(_tracer.start_span(part, kind=trace.SpanKind.CLIENT))


def _current(span: trace.Span) -> AbstractContextManager[object]:
    # An exception's message may quote what a person sent; its code is recorded by `ended`.
    return trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False)


def ended(code: grpc.StatusCode) -> None:
    """Says how what the current span stands for ended."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if code.name in FAULTS:
        span.set_status(trace.StatusCode.ERROR, code.name)


def record(**values: float | str) -> None:
    """Adds numbers and names to the current span, as mondrian.NAME. Nothing that a person sent belongs there."""
    trace.get_current_span().set_attributes({f"mondrian.{name}": value for name, value in values.items()})


def context() -> tuple[tuple[str, str], ...]:
    """Returns the metadata that carries the current span on to another service; empty where there is no trace."""
    carrier: dict[str, str] = {}
    if trace.get_current_span().get_span_context().is_valid:
        _PROPAGATOR.inject(carrier)
    return tuple(carrier.items())


def trace_fields() -> dict[str, Any]:
    """Returns the current trace's id as a field of a log line: trace_id, 32 hex digits; empty without a trace."""
    current = trace.get_current_span().get_span_context()
    return {"trace_id": trace.format_trace_id(current.trace_id)} if current.is_valid else {}
