"""A collector of traces in this process: takes spans over OTLP, as the one of a platform does, and keeps them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True)
class Span:
    """One span as it came over the wire."""

    service: str
    """The service.name of the process that sent it."""
    name: str
    trace: str
    id: str
    parent: str
    """The id of the span around it; empty at the root."""
    kind: str
    """SERVER, CLIENT, ..."""
    failed: bool
    attributes: dict[str, object] = field(default_factory=dict)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span."""

    def __init__(self) -> None:
        self.address = ""
        self._spans: list[Span] = []
        self._more = threading.Condition()

    def Export(self, request: trace_service_pb2.ExportTraceServiceRequest, context: object) -> Any:
        """Takes the spans of a process."""
        with self._more:
            for resource in request.resource_spans:
                service = str(_values(resource.resource.attributes)["service.name"])
                for scope in resource.scope_spans:
                    self._spans += [_span(service, span) for span in scope.spans]
            self._more.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Span]:
        """Every span that has come."""
        with self._more:
            return list(self._spans)

    def wait(self, enough: Callable[[list[Span]], bool], seconds: float) -> list[Span]:
        """Returns the spans as soon as they are `enough`.

        Raises:
            AssertionError: they were not within `seconds`.
        """
        with self._more:
            there = self._more.wait_for(lambda: enough(self._spans), seconds)
            assert there, f"after {seconds:g} s there were {self._spans}"
            return list(self._spans)


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    """Yields a collector that listens on a free port of loopback."""
    server = grpc.server(ThreadPoolExecutor(2))
    collecting = Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collecting, server)
    collecting.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collecting
    finally:
        server.stop(None).wait()


def _span(service: str, span: trace_pb2.Span) -> Span:
    kind = trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
    failed = span.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
    return Span(service, span.name, *ids, kind, failed, _values(span.attributes))


def _values(attributes: Any) -> dict[str, object]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
