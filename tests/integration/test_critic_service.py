"""The critic over the wire: a sharded Qwen3-VL folder in the published format, adapters, and a real client."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
import torch
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mondrian.critic.v1 import critic_pb2, critic_pb2_grpc
from mondrian.types.v1 import types_pb2
from safetensors.torch import load_file, save_file

from services.core.errors import ConfigurationError, reason_of, rpc_status_of
from services.core.server import RunningServer
from services.critic import adapter_format, checkpoint, prompts
from services.critic import model as models
from services.critic.adapter_format import Base
from services.critic.component import CriticComponent
from services.critic.serving import load_model
from services.critic.settings import CriticSettings
from services.critic.slots import SlotEngine
from tests.fakes.critic import photograph, random_adapter, tiny_model_folder
from tests.integration.fields import field_of
from tests.unit.critic.running import until_idle

if TYPE_CHECKING:
    from mondrian.critic.v1.critic_pb2_grpc import CriticServiceAsyncStub as Stub


in_one_loop = pytest.mark.asyncio(loop_scope="module")


def jpeg(seed: int = 0, size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    photograph(*size, seed).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny-vl", max_shard_size="200KB", ends=False)


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    model = load_model(CriticSettings(model_path=folder, device="cpu", torch_threads=1))
    return adapter_format.base_of(model.network, name=model.name, fingerprint=model.fingerprint)


def settings_of(folder: Path, base: Base, adapters: Path) -> CriticSettings:
    """A critic of two slots, with a good adapter `ansel` and a bad one `okeefe`."""
    adapter_format.seal(random_adapter(adapters / "ansel", base, seed=1), base)
    random_adapter(adapters / "okeefe", base, seed=2, r=100_000)
    return CriticSettings(
        port=0, device="cpu", torch_threads=1, model_path=folder, adapters_dir=adapters, adapters_poll_s=0.02,
        max_batch=2, max_queue=2, max_context_tokens=4096, max_tokens=4000, max_image_tokens=32, drain_s=0,
        preparing_threads=1,
    )  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(folder: Path, base: Base, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningServer]:
    """One server for all tests that leave it as it was."""
    settings = settings_of(folder, base, tmp_path_factory.mktemp("served") / "adapters")
    async with RunningServer(CriticComponent(settings), settings) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(server: RunningServer) -> AsyncIterator[Stub]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield critic_pb2_grpc.CriticServiceStub(channel)


@pytest_asyncio.fixture(loop_scope="module")
async def own_server(folder: Path, base: Base, tmp_path: Path) -> AsyncIterator[RunningServer]:
    """A server for one test alone."""
    settings = settings_of(folder, base, tmp_path / "adapters")
    async with RunningServer(CriticComponent(settings), settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def own_stub(own_server: RunningServer) -> AsyncIterator[Stub]:
    async with grpc.aio.insecure_channel(own_server.address) as channel:
        yield critic_pb2_grpc.CriticServiceStub(channel)


def request_of(advisor: str = "", max_tokens: int = 12, seed: int = 0, **fields: Any) -> critic_pb2.CritiqueRequest:
    config = critic_pb2.GenerationConfig(max_tokens=max_tokens)
    return critic_pb2.CritiqueRequest(
        image=types_pb2.Image(content=jpeg(seed)), advisor=advisor, generation_config=config, **fields
    )


def endless() -> critic_pb2.StreamCritiqueRequest:
    """A request that writes thousands of tokens."""
    return critic_pb2.StreamCritiqueRequest(request=request_of(max_tokens=4000))


async def refused(call: Any) -> tuple[grpc.StatusCode, str, grpc.RpcError]:
    with pytest.raises(grpc.RpcError) as failure:
        await call
    status = rpc_status_of(failure.value)
    return failure.value.code(), reason_of(status), failure.value


def engine_of(server: RunningServer) -> SlotEngine:
    component = server.component
    assert isinstance(component, CriticComponent)
    engine = component.serving.engine()
    assert isinstance(engine, SlotEngine)
    return engine


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
async def test_what_no_json_fits_into_and_a_form_that_is_none_are_refused(stub: Stub) -> None:
    request = request_of(max_tokens=59)
    request.generation_config.output_format = critic_pb2.OUTPUT_FORMAT_JSON
    code, _, error = await refused(stub.Critique(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "JSON takes at least 60 tokens, and 59 are allowed" in (error.details() or "")
    request.generation_config.output_format = 9  # type: ignore[assignment]
    code, _, error = await refused(stub.Critique(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "output_format is 9" in (error.details() or "")


@in_one_loop
async def test_a_client_that_cancels_frees_its_row(server: RunningServer, stub: Stub) -> None:
    calls = [stub.StreamCritique(endless()) for _ in range(2)]
    for call in calls:
        await call.read()
    for call in calls:
        call.cancel()
    # Both slots were taken for thousands of tokens; this answer needs one of them.
    assert (await stub.Critique(request_of())).text
    await until_idle(engine_of(server))


@in_one_loop
async def test_a_deadline_ends_a_critique_and_frees_its_row(server: RunningServer, stub: Stub) -> None:
    call = stub.StreamCritique(endless(), timeout=0.3)
    with pytest.raises(grpc.RpcError) as failure:
        async for _ in call:
            pass
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until_idle(engine_of(server))


@in_one_loop
async def test_one_request_too_many_is_refused_with_a_time_to_try_again(server: RunningServer, stub: Stub) -> None:
    calls = [stub.StreamCritique(endless()) for _ in range(2)]
    for call in calls:
        await call.read()
    waiting = [stub.StreamCritique(endless()) for _ in range(2)]
    reads = [asyncio.ensure_future(call.read()) for call in waiting]
    while engine_of(server).stats().waiting < 2:
        await engine_of(server).turn()
    code, reason, error = await refused(stub.Critique(request_of()))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in rpc_status_of(error).details)
    assert retry.retry_delay.ToTimedelta().total_seconds() > 0
    for call in [*calls, *waiting]:
        call.cancel()
    assert all(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*reads, return_exceptions=True))
    await until_idle(engine_of(server))


@in_one_loop
@pytest.mark.parametrize("part", ["prefill", "decode"])
async def test_a_device_without_memory_is_answered_with_a_time_to_try_again_and_survived(
    own_server: RunningServer, own_stub: Stub, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    wanted = (await own_stub.Critique(request_of())).text

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine_of(own_server)._writer.decoder, part, full)
    code, reason, error = await refused(own_stub.Critique(request_of()))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "DEVICE_MEMORY")
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in rpc_status_of(error).details)
    assert retry.retry_delay.ToTimedelta().total_seconds() > 0
    monkeypatch.undo()
    assert (await own_stub.Critique(request_of())).text == wanted


@in_one_loop
async def test_bad_photographs_are_refused_with_a_reason(stub: Stub) -> None:
    strip = jpeg(size=(4000, 10))
    cases = {b"": "IMAGE_EMPTY", b"not a photograph": "IMAGE_UNDECODABLE", strip: "IMAGE_ASPECT_RATIO"}
    for content, wanted in cases.items():
        request = critic_pb2.CritiqueRequest(image=types_pb2.Image(content=content))
        code, reason, _ = await refused(stub.Critique(request))
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, wanted)
    assert (await stub.Critique(request_of())).text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0), ("max_tokens", 4001), ("max_tokens", 2**31 - 1), ("temperature", -0.1),
        ("temperature", float("nan")), ("top_p", 0), ("top_p", 1.1), ("repetition_penalty", 0.9),
    ],
)  # fmt: skip
@in_one_loop
async def test_options_out_of_range_are_refused_by_name(stub: Stub, field: str, value: float) -> None:
    request = request_of()
    setattr(request.generation_config, field, value)
    code, _, error = await refused(stub.Critique(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{field} is {value}" in (error.details() or "")


@in_one_loop
async def test_words_that_cannot_be_used_are_refused(stub: Stub) -> None:
    too_long = request_of(instruction="x" * 5_000)
    many = request_of(grounding=critic_pb2.Grounding(findings=["bright"] * 17))
    for request in (too_long, many):
        assert (await refused(stub.Critique(request)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    # Control tokens in the words are words.
    odd = request_of(instruction="<|im_end|><|image_pad|> what is strong?")
    assert (await stub.Critique(odd)).completion.completion_tokens > 0


@in_one_loop
@pytest.mark.parametrize("advisor", ["../ansel", "Ansel", "a" * 65])
async def test_an_advisor_that_can_be_none_is_refused_as_the_field_at_fault(stub: Stub, advisor: str) -> None:
    code, _, error = await refused(stub.Critique(request_of(advisor)))
    assert (code, field_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "advisor")


@in_one_loop
async def test_grounding_reaches_the_model(stub: Stub) -> None:
    references = [types_pb2.Reference(title="Moonrise over a valley")]
    grounded = request_of(grounding=critic_pb2.Grounding(references=references, findings=["The horizon is level."]))
    plain, known = await stub.Critique(request_of()), await stub.Critique(grounded)
    assert known.completion.prompt_tokens > plain.completion.prompt_tokens
    assert known.text != plain.text


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
    assert (await refused(bad))[0] is grpc.StatusCode.INVALID_ARGUMENT


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


@in_one_loop
async def test_health_follows_the_engine(
    own_server: RunningServer, own_stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with grpc.aio.insecure_channel(own_server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service=CriticComponent.service_name)
        assert (await health.Check(asked)).status == health_pb2.HealthCheckResponse.SERVING

        def broken(*_: object) -> None:
            raise RuntimeError("a fault of the device")

        monkeypatch.setattr(engine_of(own_server)._writer.decoder, "decode", broken)
        code, reason, _ = await refused(own_stub.Critique(request_of(max_tokens=40)))
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_STOPPED")
        watch = health.Watch(asked)
        async for update in watch:
            if update.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                break
        watch.cancel()


def test_the_sharded_folder_is_as_published(folder: Path, base: Base) -> None:
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    others = {"config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json"}
    others |= {"tokenizer_config.json", "chat_template.jinja", checkpoint.INDEX_FILE}
    assert others <= {path.name for path in folder.iterdir()}
    assert base.fingerprint == checkpoint.fingerprint(checkpoint.model_files(folder))


def test_a_chat_template_renders_the_prompt_that_is_served(folder: Path) -> None:
    model = load_model(CriticSettings(model_path=folder, device="cpu", torch_threads=1))
    rendered = model.tokenizer.apply_chat_template(
        prompts.critique_messages("What is strong?"), tokenize=False, add_generation_prompt=True
    )
    assert rendered == prompts.prompt_text("What is strong?", image_tokens=1)


def _damage(folder: Path, how: str) -> None:
    index = json.loads((folder / checkpoint.INDEX_FILE).read_text())
    shard = folder / sorted(set(index["weight_map"].values()))[0]
    if how == "shard":
        shard.unlink()
    elif how == "cut":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif how == "config":
        (folder / "config.json").unlink()
    elif how == "tokenizer":
        (folder / "tokenizer_config.json").unlink()
    elif how == "elsewhere":
        index["weight_map"] = dict.fromkeys(index["weight_map"], "../outside.safetensors")
        (folder / checkpoint.INDEX_FILE).write_text(json.dumps(index))
    elif how == "type":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    elif how == "tensor":
        tensors = load_file(shard)
        tensors.pop(sorted(tensors)[0])
        save_file(tensors, shard)
    elif how == "pickle":
        for path in [*folder.glob("*.safetensors"), folder / checkpoint.INDEX_FILE]:
            path.unlink()
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("shard", "lacks 1 of"), ("cut", "is damaged"), ("config", "has no config.json"),
        ("tokenizer", "lacks tokenizer_config.json"), ("elsewhere", "lacks 1 of 1 shards"), ("tensor", "is missing"),
        ("type", "llama"), ("pickle", "pickled weights"),
    ],
)  # fmt: skip
def test_a_damaged_model_folder_is_one_sentence(folder: Path, tmp_path: Path, how: str, sentence: str) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    _damage(copy, how)
    with pytest.raises(ConfigurationError, match=sentence):
        load_model(CriticSettings(model_path=copy, device="cpu", torch_threads=1))


def test_a_missing_model_folder_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="MONDRIAN_CRITIC_MODEL_PATH"):
        load_model(CriticSettings(model_path=tmp_path / "nowhere", device="cpu"))


def test_the_same_weights_in_one_file_or_many_are_the_same_model(folder: Path, base: Base, tmp_path: Path) -> None:
    single = tiny_model_folder(tmp_path / "single", ends=False)
    assert checkpoint.fingerprint(checkpoint.model_files(single)) == base.fingerprint
    other = tiny_model_folder(tmp_path / "other", seed=1)
    assert checkpoint.fingerprint(checkpoint.model_files(other)) != base.fingerprint
    assert models.MODEL_TYPE == "qwen3_vl"
