"""A service that answers what is none of the contract's."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import status_pb2
from mondrian.critic.v1 import critic_pb2
from mondrian.gateway.v1 import gateway_pb2, gateway_pb2_grpc

from services.gateway.settings import GatewaySettings
from tests.fakes.backends import FakeEmbedder, FakeScorer
from tests.fakes.system import analyze_request, gateway_at, served
from tests.integration.gateway.calls import COMBINED, CRITIQUE, LORA, SOON, events_of
from tests.integration.refusals import refused

NO_MESSAGE = b"\xff\xff\xff"
NO_DETAILS = status_pb2.Status(
    code=grpc.StatusCode.INTERNAL.value[0],
    details=[any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=NO_MESSAGE)],
).SerializeToString()
Call = grpc.aio.ServicerContext[Any, Any]


class Garbage(grpc.GenericRpcHandler):
    """Answers every call with the same bytes, or fails each with the same bytes as the details of its status."""

    def __init__(self, answer: bytes, details: bytes | None) -> None:
        self._answer = answer
        self._details = details

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the handler of any method but those of health checks: who has none is taken for healthy."""
        if handler_call_details.method.startswith("/grpc.health."):
            return None

        async def answer(request: bytes, context: Call) -> AsyncIterator[bytes]:
            if self._details is not None:
                await context.abort(grpc.StatusCode.INTERNAL, "No.", (("grpc-status-details-bin", self._details),))
            yield self._answer

        return grpc.unary_stream_rpc_method_handler(answer)


@contextlib.asynccontextmanager
async def over(
    answer: bytes, details: bytes | None = None, **fields: Any
) -> AsyncIterator[gateway_pb2_grpc.GatewayServiceAsyncStub]:
    """Yields the stub of a gateway whose critic is garbage; `fields` are more of its settings."""
    critic = grpc.aio.server()
    critic.add_generic_rpc_handlers((Garbage(answer, details),))
    port = critic.add_insecure_port("127.0.0.1:0")
    await critic.start()
    try:
        async with served(FakeEmbedder()) as embedder, served(FakeScorer()) as scorer:
            others: dict[str, Any] = {"embedder": embedder.address, "scorer": scorer.address, **fields}
            settings = GatewaySettings(port=0, drain_s=0, critic=f"127.0.0.1:{port}", **others)
            async with gateway_at(settings) as (stub, _):
                yield stub
    finally:
        await critic.stop(0)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("details", "code"), [(None, "UNAVAILABLE"), (NO_MESSAGE, "INTERNAL"), (NO_DETAILS, "INTERNAL")]
)
async def test_combined_goes_on_and_names_the_part(
    details: bytes | None, code: str, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with over(NO_MESSAGE, details) as stub:
        if streamed:
            request = gateway_pb2.StreamAnalyzeRequest(request=analyze_request(COMBINED))
            answer = (await events_of(stub.StreamAnalyze(request, timeout=SOON)))[-1].completed
        else:
            answer = await stub.Analyze(analyze_request(COMBINED), timeout=SOON)
        (failure,) = answer.failures
        assert failure.part == CRITIQUE
        assert failure.status.code == grpc.StatusCode[code].value[0]
        assert answer.HasField("references")
        assert answer.HasField("scores")
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_single_mode_is_no_answer_without_its_part() -> None:
    async with over(NO_MESSAGE) as stub:
        refusal = await refused(stub.Analyze(analyze_request(LORA), timeout=SOON))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE")
        assert "is not mondrian.critic.v1.CriticService" in refusal.sentence


async def test_a_listing_whose_pages_never_end_is_given_up() -> None:
    endless = critic_pb2.ListAdaptersResponse(next_page_token="once more")
    # The time of a listing is the gateway's own here: a client's would race with the answer on a busy machine.
    async with over(endless.SerializeToString(), clip_deadline_s=4.0) as stub:
        listing = await stub.ListAdvisors(gateway_pb2.ListAdvisorsRequest())
        assert [failure.part for failure in listing.failures] == [CRITIQUE]
        assert [each.advisor.id for each in listing.advisors] == ["ansel", "okeefe"]
