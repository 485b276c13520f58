"""Who may call: bearer tokens and certificates, at a server and between gateway and services."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from mondrian.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from mondrian.scorer.v1 import scorer_pb2, scorer_pb2_grpc
from mondrian.types.v1 import types_pb2

from services.core.errors import ConfigurationError
from services.core.rpc.server import RunningServer
from services.core.settings import ServiceSettings
from services.gateway.access import Access
from services.gateway.component import GatewayComponent
from services.gateway.settings import GatewaySettings
from tests.fakes.backends import PHOTOGRAPH, FakeComponent, FakeScorer
from tests.fakes.certificates import Authority
from tests.fakes.system import analyze_request, served, system
from tests.integration.refusals import refused
from tests.processes import free_port

TOKEN, OTHER = "token-of-this-test-0", "token-of-this-test-1"
SOON = 60.0
SCORE = scorer_pb2.ScoreRequest(image=types_pb2.Image(content=PHOTOGRAPH), advisor="ansel")
LORA = gateway_pb2.MODE_LORA


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def serves(channel: grpc.aio.Channel) -> bool:
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=SOON)
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(TOKEN)
    return path


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


class TestTokens:
    async def test_a_call_without_a_token_is_refused_before_anything_is_read(self, tokens: Path) -> None:
        fake = FakeScorer()
        async with served(fake, tokens_file=tokens) as server, grpc.aio.insecure_channel(server.address) as channel:
            stub = scorer_pb2_grpc.ScorerServiceStub(channel)
            for metadata in ((), bearer(OTHER)):
                refusal = await refused(stub.Score(SCORE, metadata=metadata, timeout=SOON))
                assert refusal.code is grpc.StatusCode.UNAUTHENTICATED
                assert refusal.reason == "UNAUTHENTICATED"
                assert "send one as `authorization`" in refusal.sentence
            # What is not even a message is refused for the token too: nobody parsed it.
            raw: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                "/mondrian.scorer.v1.ScorerService/Score"
            )
            assert (await refused(raw(b"\xff" * 100, timeout=SOON))).code is grpc.StatusCode.UNAUTHENTICATED
            assert not fake.requests
            await stub.Score(SCORE, metadata=bearer(TOKEN), timeout=SOON)
            assert len(fake.requests) == 1

    async def test_health_needs_none_and_reflection_does(self, tokens: Path) -> None:
        async with (
            served(FakeScorer(), tokens_file=tokens) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            assert await serves(channel)
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            assert (await refused(stub.ServerReflectionInfo(asked).read())).code is grpc.StatusCode.UNAUTHENTICATED
            asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            assert await stub.ServerReflectionInfo(asked, metadata=bearer(TOKEN)).read()

    async def test_streams_are_refused_and_let_in_alike(self, tokens: Path) -> None:
        async with system(tokens_file=tokens) as running, grpc.aio.insecure_channel(running.address) as channel:
            stub = gateway_pb2_grpc.GatewayServiceStub(channel)
            request = gateway_pb2.StreamAnalyzeRequest(request=analyze_request())
            item = gateway_pb2.AnalyzeBatchRequest(key="a", request=analyze_request())

            async def items() -> AsyncIterator[gateway_pb2.AnalyzeBatchRequest]:
                yield item

            for call in (stub.StreamAnalyze(request, timeout=SOON), stub.AnalyzeBatch(items(), timeout=SOON)):
                refusal = await refused(call.read())
                assert (refusal.code, refusal.reason) == (
                    grpc.StatusCode.UNAUTHENTICATED,
                    "UNAUTHENTICATED",
                )
            assert not running.embedder.requests
            events = [
                event.WhichOneof("event")
                async for event in stub.StreamAnalyze(request, metadata=bearer(TOKEN), timeout=SOON)
            ]
            assert events[-1] == "completed"
            results = [result async for result in stub.AnalyzeBatch(items(), metadata=bearer(TOKEN), timeout=SOON)]
            assert [result.key for result in results] == ["a"]

    async def test_a_stream_that_has_sent_nothing_yet_is_refused_at_once(self, tokens: Path) -> None:
        sent = asyncio.Event()

        async def nothing() -> AsyncIterator[gateway_pb2.AnalyzeBatchRequest]:
            await sent.wait()
            yield gateway_pb2.AnalyzeBatchRequest()

        async with system(tokens_file=tokens) as running:
            call = running.stub.AnalyzeBatch(nothing(), timeout=SOON)
            assert (await refused(call.read())).code is grpc.StatusCode.UNAUTHENTICATED
            sent.set()

    def test_a_file_that_cannot_be_used_stops_the_start(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="cannot be read"):
            served(FakeScorer(), tokens_file=tmp_path / "none")
        with pytest.raises(ConfigurationError, match="cannot be read"):
            GatewayComponent(GatewaySettings(backend_tokens_file=tmp_path / "none"))


class TestGatewayToServices:
    async def test_the_gateway_sends_its_own_token_and_never_the_callers(self, tokens: Path, tmp_path: Path) -> None:
        front = tmp_path / "front"
        front.write_text(OTHER)
        async with system({"tokens_file": tokens}, backend_tokens_file=tokens, tokens_file=front) as running:
            answer = await running.stub.Analyze(analyze_request(), metadata=bearer(OTHER), timeout=SOON)
            assert not answer.failures
            advisors = await running.stub.ListAdvisors(
                gateway_pb2.ListAdvisorsRequest(), metadata=bearer(OTHER), timeout=SOON
            )
            assert not advisors.failures

    async def test_a_token_that_a_service_does_not_accept_is_the_gateways_fault(self, tokens: Path) -> None:
        async with system({"tokens_file": tokens}) as running:
            refusal = await refused(running.stub.Analyze(analyze_request(LORA), timeout=SOON))
            assert (refusal.code, refusal.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "BACKEND_UNAVAILABLE",
            )
            assert refusal.sentence == (
                "The critic does not accept the gateway's token; mend MONDRIAN_GATEWAY_BACKEND_TOKENS_FILE."
            )

    async def test_the_gateway_speaks_mutual_tls(self, authority: Authority) -> None:
        theirs, ours = authority.issue("service"), authority.issue("gateway")
        ask = {"tls_certificate": theirs.certificate, "tls_key": theirs.key, "tls_client_ca": authority.certificate}
        show = {"backend_tls_certificate": ours.certificate, "backend_tls_key": ours.key}
        async with system(ask, backend_tls_authority=authority.certificate, **show) as running:
            assert not (await running.stub.Analyze(analyze_request(), timeout=SOON)).failures
        async with system(ask, backend_tls_authority=authority.certificate, start_gate_s=0.05) as running:
            refusal = await refused(running.stub.Analyze(analyze_request(LORA), timeout=SOON))
            assert refusal.reason == "BACKEND_UNAVAILABLE"

    async def test_new_channels_show_renewed_certificates(self, authority: Authority) -> None:
        theirs, ours = authority.issue("service"), authority.issue("gateway")
        fake, port = FakeScorer(), free_port()
        secured: dict[str, Any] = {
            "tls_certificate": theirs.certificate,
            "tls_key": theirs.key,
            "tls_client_ca": authority.certificate,
        }
        settings = GatewaySettings(
            port=0,
            drain_s=SOON,
            start_gate_s=0.05,
            embedder=f"127.0.0.1:{free_port()}",
            critic=f"127.0.0.1:{free_port()}",
            scorer=f"127.0.0.1:{port}",
            backend_tls_authority=authority.certificate,
            backend_tls_certificate=ours.certificate,
            backend_tls_key=ours.key,
        )
        component = GatewayComponent(settings)
        async with (
            served(fake, port, **secured),
            RunningServer(component, settings) as gateway,
            grpc.aio.insecure_channel(gateway.address) as channel,
        ):
            stub = gateway_pb2_grpc.GatewayServiceStub(channel)
            request = analyze_request(gateway_pb2.MODE_DIMENSIONAL)
            await stub.Analyze(request, timeout=SOON, wait_for_ready=True)
            # A call that is in flight while the certificates change ends well on the old channel.
            fake.gate.clear()
            fake.entered.clear()
            slow = asyncio.ensure_future(stub.Analyze(request, timeout=SOON))
            await asyncio.wait_for(fake.entered.wait(), SOON)
            renewed = Authority(authority.folder)
            renewed.issue("service")
            renewed.issue("gateway")
            renewing = asyncio.create_task(component.renew())
            fake.entered.clear()
            fast = asyncio.ensure_future(stub.Analyze(request, timeout=SOON))
            await asyncio.wait_for(fake.entered.wait(), SOON)
            fake.gate.set()
            for call in (slow, fast):
                assert len((await call).scores.dimensions) == 8
            await renewing

    async def test_a_service_of_another_authority_is_not_spoken_to(self, authority: Authority, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        theirs = Authority(tmp_path / "elsewhere").issue("service")
        backends = {"tls_certificate": theirs.certificate, "tls_key": theirs.key}
        async with system(backends, backend_tls_authority=authority.certificate, start_gate_s=0.05) as running:
            refusal = await refused(running.stub.Analyze(analyze_request(LORA), timeout=SOON))
            assert refusal.reason == "BACKEND_UNAVAILABLE"
            assert not running.critic.requests

    async def test_files_that_are_no_pair_are_named(self, authority: Authority, tmp_path: Path) -> None:
        pair, other, empty = authority.issue("service"), authority.issue("gateway"), tmp_path / "empty"
        empty.touch()
        for key, ca, word in (
            (other.key, authority.certificate, f"{other.key} are not a certificate and its own key"),
            (empty, authority.certificate, f"{empty} are not a certificate and its own key"),
            (pair.key, empty, f"{empty} holds no certificate"),
        ):
            settings = ServiceSettings(tls_certificate=pair.certificate, tls_key=key, tls_client_ca=ca)
            server = RunningServer(FakeComponent(FakeScorer()), settings)
            with pytest.raises(ConfigurationError, match=re.escape(word)):
                await server.listen()
            shown: dict[str, Any] = {"backend_tls_certificate": pair.certificate, "backend_tls_key": key}
            with pytest.raises(ConfigurationError, match=re.escape(word)):
                Access(GatewaySettings(backend_tls_authority=ca, **shown))

    def test_half_a_file_is_not_taken_for_a_renewed_one(self, authority: Authority) -> None:
        access, whole = Access(GatewaySettings(backend_tls_authority=authority.certificate)), authority.certificate
        content = whole.read_bytes()
        whole.write_bytes(content[: len(content) // 2])
        with pytest.raises(ConfigurationError, match="holds no certificate"):
            access.renewed()
        whole.write_bytes(content)
        assert access.renewed()

    def test_half_a_certificate_is_refused(self, authority: Authority) -> None:
        pair = authority.issue("gateway")
        for half in (
            {"backend_tls_certificate": pair.certificate},
            {"backend_tls_key": pair.key},
            {"backend_tls_certificate": pair.certificate, "backend_tls_key": pair.key},
        ):
            with pytest.raises(ConfigurationError, match="backend_tls"):
                GatewaySettings.load(**half)


class TestHealthPort:
    async def test_probes_without_a_certificate_ask_it_and_nothing_else_is_there(self, authority: Authority) -> None:
        pair, port = authority.issue("service"), free_port()
        secured: dict[str, Any] = {
            "tls_certificate": pair.certificate,
            "tls_key": pair.key,
            "tls_client_ca": authority.certificate,
        }
        fake = FakeScorer()
        async with (
            served(fake, health_port=port, **secured) as server,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as probe,
            grpc.aio.insecure_channel(server.address) as plain,
        ):
            assert await serves(probe)
            refusal = await refused(scorer_pb2_grpc.ScorerServiceStub(probe).Score(SCORE, timeout=SOON))
            assert refusal.code is grpc.StatusCode.UNIMPLEMENTED
            assert (await refused(health_pb2_grpc.HealthStub(plain).Check(health_pb2.HealthCheckRequest()))).code is (
                grpc.StatusCode.UNAVAILABLE
            )
        assert not fake.requests

    async def test_a_health_port_in_use_is_named(self) -> None:
        async with served(FakeScorer()) as server:
            settings = server.settings.model_copy(update={"health_port": server.port})
            second = RunningServer(FakeComponent(FakeScorer()), settings)
            with pytest.raises(ConfigurationError, match="HEALTH_PORT"):
                await second.listen()
            await second.stop()
