"""The critic over the wire: what it answers, and in whose voice."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest
from mondrian.critic.v1 import critic_pb2, critic_pb2_grpc
from mondrian.types.v1 import types_pb2

from services.core.rpc.server import RunningServer
from services.critic.adapter_format import Base
from services.critic.component import CriticComponent
from services.critic.settings import CriticSettings
from tests.fakes.critic import random_adapter
from tests.integration.critic.calls import in_one_loop, jpeg, request_of, settings_of
from tests.integration.refusals import refused

if TYPE_CHECKING:
    from mondrian.critic.v1.critic_pb2_grpc import CriticServiceAsyncStub as Stub


@in_one_loop
async def test_a_critique_in_an_advisors_voice(stub: Stub, base: Base) -> None:
    voiced = await stub.Critique(request_of("ansel"))
    plain = await stub.Critique(request_of())
    assert voiced.text
    assert voiced.text != plain.text
    assert voiced.authorship.model == base.name
    assert voiced.authorship.adapter == "ansel"
    assert len(voiced.authorship.adapter_revision) == 12
    assert not voiced.authorship.fell_back
    assert plain.authorship == critic_pb2.Authorship(model=base.name)
    assert 1 <= voiced.completion.completion_tokens <= 12
    assert 0 < voiced.completion.image_tokens < voiced.completion.prompt_tokens
    assert voiced.completion.time_to_first_token_ms >= voiced.completion.prefill_ms > 0


@pytest.mark.parametrize(("advisor", "reason"), [("nobody", "no adapter for advisor"), ("okeefe", "rank is 100000")])
@in_one_loop
async def test_the_base_model_answers_without_an_adapter_and_says_so(stub: Stub, advisor: str, reason: str) -> None:
    answer = await stub.Critique(request_of(advisor))
    assert answer.text == (await stub.Critique(request_of())).text
    assert answer.authorship.fell_back
    assert reason in answer.authorship.fallback_reason
    assert not answer.authorship.adapter


@in_one_loop
async def test_a_stream_is_the_same_critique_in_pieces(stub: Stub) -> None:
    whole = await stub.Critique(request_of("ansel", 40))
    events = [e async for e in stub.StreamCritique(critic_pb2.StreamCritiqueRequest(request=request_of("ansel", 40)))]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "started"
    assert kinds[-1] == "completed"
    assert set(kinds[1:-1]) == {"delta"}
    assert "".join(event.delta.text for event in events) == whole.text
    assert events[0].started.authorship == whole.authorship
    done = events[-1].completed.completion
    assert done.completion_tokens == whole.completion.completion_tokens
    assert done.finish_reason == whole.completion.finish_reason != critic_pb2.FINISH_REASON_UNSPECIFIED


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (1500, 50)])
@in_one_loop
async def test_a_photograph_of_any_shape_that_the_model_takes_is_answered(stub: Stub, size: tuple[int, int]) -> None:
    request = request_of()
    request.image.content = jpeg(size=size)
    answer = await stub.Critique(request)
    assert answer.text
    assert 1 <= answer.completion.image_tokens <= 32


@pytest.mark.parametrize("limit", [60, 64, 90])
@in_one_loop
async def test_json_is_whole_and_divided_at_any_limit(stub: Stub, limit: int) -> None:
    request = request_of("ansel", limit)
    request.generation_config.output_format = critic_pb2.OUTPUT_FORMAT_JSON
    answer, prose = await asyncio.gather(stub.Critique(request), stub.Critique(request_of("ansel")))
    fields = json.loads(answer.text)
    assert list(fields) == ["overview", "strengths", "to_try", "voice"]
    assert answer.sections.overview == fields["overview"]
    assert not answer.sections.undivided
    assert answer.completion.completion_tokens <= limit
    # What was written beside it is what is written alone.
    assert prose.text == (await stub.Critique(request_of("ansel"))).text
    events = [e async for e in stub.StreamCritique(critic_pb2.StreamCritiqueRequest(request=request))]
    assert "".join(event.delta.text for event in events) == answer.text
    assert events[-1].completed.sections == answer.sections


@in_one_loop
async def test_prose_comes_as_it_was_written_whether_it_can_be_divided_or_not(stub: Stub) -> None:
    request = request_of(max_tokens=30)
    plain = await stub.Critique(request)
    assert plain.sections == critic_pb2.Sections(overview=plain.text, undivided=True)
    request.generation_config.output_format = critic_pb2.OUTPUT_FORMAT_SECTIONS
    asked = await stub.Critique(request)
    assert asked.completion.prompt_tokens > plain.completion.prompt_tokens
    assert asked.sections == critic_pb2.Sections(overview=asked.text, undivided=True)


@in_one_loop
async def test_grounding_reaches_the_model(stub: Stub) -> None:
    references = [types_pb2.Reference(title="Moonrise over a valley")]
    grounded = request_of(grounding=critic_pb2.Grounding(references=references, findings=["The horizon is level."]))
    plain, known = await stub.Critique(request_of()), await stub.Critique(grounded)
    assert known.completion.prompt_tokens > plain.completion.prompt_tokens
    assert known.text != plain.text


@in_one_loop
async def test_grounding_in_any_script_leaves_room_for_the_critique(folder: Path, base: Base, tmp_path: Path) -> None:
    # The tokenizer knows no Japanese: each character is three tokens.
    titles = ["Moonrise over a valley", *(f"{number}: " + "森の中の白樺の木立" * 4 for number in range(7))]
    grounding = critic_pb2.Grounding(references=[types_pb2.Reference(title=title) for title in titles])
    settings = settings_of(folder, base, tmp_path / "adapters").model_copy(update={"max_context_tokens": 450})
    async with (
        RunningServer(CriticComponent(settings), settings) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = critic_pb2_grpc.CriticServiceStub(channel)
        grounded = await stub.Critique(request_of(max_tokens=100, grounding=grounding))
        plain = await stub.Critique(request_of(max_tokens=100))
    assert plain.completion.prompt_tokens < grounded.completion.prompt_tokens <= 350
    assert grounded.completion.completion_tokens == 100


@in_one_loop
async def test_adapters_are_listed_in_pages_with_their_state(stub: Stub) -> None:
    first = await stub.ListAdapters(critic_pb2.ListAdaptersRequest(page_size=1))
    second = await stub.ListAdapters(critic_pb2.ListAdaptersRequest(page_size=1, page_token=first.next_page_token))
    ansel, okeefe = first.adapters[0], second.adapters[0]
    assert (ansel.name, ansel.state, ansel.rank) == ("ansel", critic_pb2.ADAPTER_STATE_READY, 4)
    assert ansel.size_bytes > 0
    assert (okeefe.name, okeefe.state) == ("okeefe", critic_pb2.ADAPTER_STATE_REFUSED)
    assert "rank is 100000" in okeefe.reason
    assert not second.next_page_token
    bad = stub.ListAdapters(critic_pb2.ListAdaptersRequest(page_token="elsewhere"))
    assert (await refused(bad)).code is grpc.StatusCode.INVALID_ARGUMENT


@in_one_loop
async def test_an_adapter_that_is_mended_is_used_without_a_restart(
    own_server: RunningServer, own_stub: Stub, base: Base
) -> None:
    settings, stub = own_server.settings, own_stub
    assert isinstance(settings, CriticSettings)
    assert (await stub.Critique(request_of("okeefe"))).authorship.fell_back
    random_adapter(settings.adapters_folder / "okeefe", base, seed=2)
    while (answer := await stub.Critique(request_of("okeefe"))).authorship.fell_back:
        assert answer.text
    assert answer.authorship.adapter == "okeefe"
