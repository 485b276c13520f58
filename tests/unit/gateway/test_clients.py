"""The wire form without copies, the targets, the service config, and how failures read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mondrian.critic.v1 import critic_pb2
from mondrian.embedder.v1 import embedder_pb2
from mondrian.scorer.v1 import scorer_pb2, scorer_pb2_grpc
from mondrian.types.v1 import types_pb2

from services.core.errors import BackendUnavailable, DeviceMemory, Forwarded, Overloaded, to_rpc_status
from services.gateway.access import Access
from services.gateway.channels import backend_options, service_config, target
from services.gateway.clients import CriticClient, ScorerClient
from services.gateway.settings import GatewaySettings
from services.gateway.wire import serialized
from tests.fakes.backends import PHOTOGRAPH, FakeCritic, FakeScorer
from tests.fakes.system import served

SCORER = "mondrian.scorer.v1.ScorerService"
SOON = 60.0


@pytest.mark.parametrize(
    "make",
    [
        lambda **image: embedder_pb2.SearchReferencesRequest(
            advisor="ansel", top_k=5, include_thumbnails=True, **image
        ),
        lambda **image: critic_pb2.CritiqueRequest(advisor="ansel", instruction="Why?", **image),
        lambda **image: scorer_pb2.ScoreRequest(advisor="ansel", **image),
    ],
)
@given(content=st.binary(max_size=300) | st.sampled_from([b"x" * 127, b"x" * 128, b"x" * 16_383, b"x" * 2_000_000]))
def test_a_photograph_put_behind_the_other_fields_is_the_same_request(make: Callable[..., Any], content: bytes) -> None:
    image = types_pb2.Image(content=content)
    whole = make(image=image)
    assert type(whole).FromString(serialized(make(), image.SerializeToString())) == whole


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("critic:50052", "dns:///critic:50052"),
        ("dns:///critic.mondrian.svc:50052", "dns:///critic.mondrian.svc:50052"),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", "ipv4:10.0.0.1:1,10.0.0.2:1"),
        ("unix:/run/critic.sock", "unix:/run/critic.sock"),
    ],
)
def test_an_address_without_a_resolver_is_resolved_by_dns(address: str, wanted: str) -> None:
    assert target(address) == wanted


def test_the_service_config_says_what_the_design_says() -> None:
    config = json.loads(service_config(SCORER))
    (policy,) = config["loadBalancingConfig"]
    assert policy["outlier_detection_experimental"]["childPolicy"] == [{"round_robin": {}}]
    assert config["healthCheckConfig"] == {"serviceName": SCORER}
    (method,) = config["methodConfig"]
    assert method["name"] == [{"service": SCORER}]
    assert method["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert "hedgingPolicy" not in method


def test_what_is_sent_again_may_be_as_large_as_a_message() -> None:
    options = dict(backend_options(service_config(SCORER), 2.0))
    assert options["grpc.per_rpc_retry_buffer_size"] == options["grpc.max_send_message_length"]
    assert options["grpc.enable_http_proxy"] == 0


async def _score(channel: grpc.aio.Channel) -> grpc.StatusCode:
    request = scorer_pb2.ScoreRequest(image=types_pb2.Image(content=PHOTOGRAPH), advisor="ansel")
    try:
        await scorer_pb2_grpc.ScorerServiceStub(channel).Score(request, timeout=SOON)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("policy", "code"),
    [("round_robin", grpc.StatusCode.OK), ("least_request_experimental", grpc.StatusCode.INVALID_ARGUMENT)],
)
async def test_grpc_accepts_the_service_config(policy: str, code: grpc.StatusCode) -> None:
    # The second case is the control: a config that grpc does not accept fails every call, so the first one was read.
    config = service_config(SCORER).replace("round_robin", policy)
    async with (
        served(FakeScorer()) as server,
        grpc.aio.insecure_channel(target(server.address), backend_options(config, 2.0)) as channel,
    ):
        assert await _score(channel) == code


async def test_a_replica_that_only_fails_is_left_out() -> None:
    sound, also_sound, sick = FakeScorer(), FakeScorer(), FakeScorer()
    sick.failure = DeviceMemory("The device is full.")
    async with served(sound) as first, served(also_sound) as second, served(sick) as third:
        addresses = f"ipv4:{first.address},{second.address},{third.address}"
        options = backend_options(service_config(SCORER, interval_s=2.0), 2.0)
        async with grpc.aio.insecure_channel(addresses, options) as channel:

            async def until(seen: Callable[[set[grpc.StatusCode]], bool]) -> None:
                # Many at once, so that each replica has the calls that a judgement takes within one interval.
                async with asyncio.timeout(SOON):
                    while not seen(set(await asyncio.gather(*(_score(channel) for _ in range(60))))):
                        pass

            await until(lambda codes: grpc.StatusCode.RESOURCE_EXHAUSTED in codes)
            await until(lambda codes: codes == {grpc.StatusCode.OK})


@pytest.mark.parametrize("delay", [0.25, None])
def test_what_is_passed_on_says_when_to_try_again_as_its_sender_did(delay: float | None) -> None:
    sent = to_rpc_status(Overloaded("Full.", retry_after_s=delay))
    assert Forwarded(sent).retry_after_s == delay


async def test_a_call_that_outlasts_its_channel_fails_as_one_that_did_not_get_through() -> None:
    fake, also_fake = FakeScorer(), FakeCritic()
    access = Access(GatewaySettings(port=0))
    fake.gate.clear()
    also_fake.gate.clear()
    photograph = types_pb2.Image(content=PHOTOGRAPH).SerializeToString()
    async with served(fake) as server, served(also_fake) as other:
        scorer, critic = ScorerClient(server.address, 2.0, access), CriticClient(other.address, 2.0, access)

        async def streamed() -> None:
            async for _ in critic.stream(critic_pb2.CritiqueRequest(), photograph, SOON, ()):
                pass

        calls = [
            asyncio.create_task(scorer.score(scorer_pb2.ScoreRequest(), photograph, SOON, ())),
            asyncio.create_task(streamed()),
        ]
        await asyncio.gather(fake.entered.wait(), also_fake.entered.wait())
        await asyncio.gather(scorer.renew(0), critic.renew(0))
        for call in calls:
            with pytest.raises(BackendUnavailable):
                await call
        # The caller's own leaving stays what it is.
        fake.entered.clear()
        leaving = asyncio.create_task(scorer.score(scorer_pb2.ScoreRequest(), photograph, SOON, ()))
        await fake.entered.wait()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await asyncio.gather(scorer.close(), critic.close())
