"""Advisors from three services; services that are away, silent, wrong or leaving."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mondrian.critic.v1 import critic_pb2
from mondrian.embedder.v1 import embedder_pb2
from mondrian.gateway.v1 import gateway_pb2

from services.core.errors import (
    DeviceMemory,
    InvalidArgument,
    NoRelease,
)
from services.gateway.settings import GatewaySettings
from tests.fakes.backends import FakeCritic, FakeEmbedder, FakeScorer
from tests.fakes.system import System, analyze_request, gateway_at, served, system
from tests.integration.gateway.calls import (
    CRITIQUE,
    LORA,
    SCORES,
    SOON,
)
from tests.integration.refusals import refused
from tests.processes import free_port


class TestListAdvisors:
    async def test_merges_what_the_services_know(self, over_fakes: System) -> None:
        over_fakes.critic.adapters["okeefe"] = critic_pb2.ADAPTER_STATE_REFUSED
        over_fakes.scorer.profiles.remove("ansel")
        listing = await over_fakes.stub.ListAdvisors(gateway_pb2.ListAdvisorsRequest(), timeout=SOON)
        assert [(one.advisor.id, one.advisor.name, one.has_adapter, one.has_profile) for one in listing.advisors] == [
            ("ansel", "Ansel Sample", True, False),
            ("okeefe", "Georgia Sample", False, True),
        ]
        assert not listing.failures
        assert not listing.next_page_token

    async def test_pages_join_to_the_whole(self, over_fakes: System) -> None:
        over_fakes.embedder.advisors = [
            embedder_pb2.Advisor(id=f"advisor-{number:02}", name=str(number)) for number in range(11)
        ]
        over_fakes.critic.adapters = {
            f"advisor-{number:02}": critic_pb2.ADAPTER_STATE_READY for number in range(0, 11, 2)
        }
        seen: list[gateway_pb2.AdvisorSummary] = []
        token = ""
        pages = 0
        while pages == 0 or token:
            listing = await over_fakes.stub.ListAdvisors(
                gateway_pb2.ListAdvisorsRequest(page_size=4, page_token=token), timeout=SOON
            )
            seen += listing.advisors
            token = listing.next_page_token
            pages += 1
        assert pages == 3
        assert [one.advisor.id for one in seen] == [f"advisor-{number:02}" for number in range(11)]
        assert [one.has_adapter for one in seen] == [number % 2 == 0 for number in range(11)]

    @pytest.mark.parametrize("fields", [{"page_size": -1}, {"page_token": "made up"}])
    async def test_a_wrong_page_is_refused(self, over_fakes: System, fields: dict[str, Any]) -> None:
        refusal = await refused(over_fakes.stub.ListAdvisors(gateway_pb2.ListAdvisorsRequest(**fields), timeout=SOON))
        assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.field == next(iter(fields))

    async def test_what_cannot_be_asked_is_named(self, over_fakes: System) -> None:
        over_fakes.critic.failure = InvalidArgument("No.")
        over_fakes.scorer.failure = DeviceMemory("The device is full.")
        listing = await over_fakes.stub.ListAdvisors(gateway_pb2.ListAdvisorsRequest(), timeout=SOON)
        assert [failure.part for failure in listing.failures] == [CRITIQUE, SCORES]
        assert not any(one.has_adapter or one.has_profile for one in listing.advisors)

    async def test_without_the_embedder_there_is_no_list(self, over_fakes: System) -> None:
        over_fakes.embedder.failure = NoRelease("Nothing has been pre-computed yet.")
        refusal = await refused(over_fakes.stub.ListAdvisors(gateway_pb2.ListAdvisorsRequest(), timeout=SOON))
        assert (refusal.code, refusal.sentence) == (grpc.StatusCode.UNAVAILABLE, "Nothing has been pre-computed yet.")


class TestUnreachableBackends:
    async def test_a_backend_that_is_not_there_costs_no_time_and_its_return_is_noticed(self) -> None:
        embedder, critic, scorer = FakeEmbedder(), FakeCritic(), FakeScorer()
        port = free_port()
        async with served(embedder) as first, served(scorer) as third:
            settings = GatewaySettings(
                port=0,
                drain_s=0,
                start_gate_s=0.05,
                embedder=first.address,
                critic=f"127.0.0.1:{port}",
                scorer=third.address,
            )
            async with gateway_at(settings) as (stub, address):
                # The gateway itself is SERVING: the parts that work must not leave the balancer with this one.
                async with grpc.aio.insecure_channel(address) as channel:
                    health = await health_pb2_grpc.HealthStub(channel).Check(
                        health_pb2.HealthCheckRequest(service="mondrian.gateway.v1.GatewayService"), timeout=SOON
                    )
                    assert health.status == health_pb2.HealthCheckResponse.SERVING
                answer = await stub.Analyze(analyze_request(), timeout=SOON)
                (failure,) = answer.failures
                assert (failure.part, failure.status.reason) == (CRITIQUE, "BACKEND_UNAVAILABLE")
                assert failure.status.message == "The critic cannot be reached; try again in a moment."
                assert answer.total_ms < SOON * 1e3 / 2
                assert "The critique is missing: the critic cannot be reached" in answer.summary
                refusal = await refused(stub.Analyze(analyze_request(LORA), timeout=SOON))
                assert (refusal.code, refusal.reason) == (
                    grpc.StatusCode.UNAVAILABLE,
                    "BACKEND_UNAVAILABLE",
                )

                async with served(critic, port):
                    assert await eventually(stub)
                # And away again, in the middle of everything.
                answer = await stub.Analyze(analyze_request(), timeout=SOON)
                assert [failure.status.reason for failure in answer.failures] == ["BACKEND_UNAVAILABLE"]

    async def test_a_backend_that_accepts_and_says_nothing_is_given_up(self) -> None:
        # The kernel accepts connections; nobody ever reads from them.
        with socket.socket() as hung:
            hung.bind(("127.0.0.1", 0))
            hung.listen()
            port = hung.getsockname()[1]
            async with system(critic=f"127.0.0.1:{port}", start_gate_s=0.05, connect_s=1.0) as running:
                answer = await running.stub.Analyze(analyze_request(), timeout=SOON)
            failures = {failure.part: failure.status.reason for failure in answer.failures}
            assert failures[CRITIQUE] == "BACKEND_UNAVAILABLE"
            assert answer.total_ms < SOON * 1e3 / 2

    async def test_another_service_at_the_address_is_not_taken_for_the_backend(self) -> None:
        wrong = FakeScorer()
        async with (
            served(wrong) as server,
            system(critic=server.address, start_gate_s=0.05) as running,
        ):
            answer = await running.stub.Analyze(analyze_request(), timeout=SOON)
            assert [failure.status.reason for failure in answer.failures] == ["BACKEND_UNAVAILABLE"]

    async def test_a_replica_that_stops_serving_gets_no_calls(self) -> None:
        staying, leaving = FakeCritic(), FakeCritic()
        async with (
            served(staying) as first,
            served(leaving) as second,
            system(critic=f"ipv4:{first.address},{second.address}") as balanced,
        ):
            while not (staying.requests and leaving.requests):
                await balanced.stub.Analyze(analyze_request(LORA), timeout=SOON)
            await second._set(health_pb2.HealthCheckResponse.NOT_SERVING)
            # The news travels on a stream of its own; once it is there, no call goes to the one that leaves.
            before = -1
            while len(leaving.requests) != before:
                before = len(leaving.requests)
                for _ in range(4):
                    await balanced.stub.Analyze(analyze_request(LORA), timeout=SOON)
            for _ in range(10):
                await balanced.stub.Analyze(analyze_request(LORA), timeout=SOON)
            assert len(leaving.requests) == before


async def eventually(stub: Any) -> bool:
    """Asks until an answer is whole again; False when that takes longer than SOON."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + SOON
    while loop.time() < give_up:
        answer = await stub.Analyze(analyze_request(), timeout=SOON)
        if not answer.failures:
            return True
    return False
