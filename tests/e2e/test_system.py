"""What a user sees of the four real processes, in the order of a user's day: analyse, err, lose a service, stop."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
import pytest
from mondrian.gateway.v1 import gateway_pb2
from mondrian.types.v1 import types_pb2

from services.core.errors import reason_of, rpc_status_of
from services.core.settings import MINI_DIR
from tests.e2e.conftest import Running
from tests.fakes.collector import Span
from tests.system import ADVISOR, START_S

# Generous: the machine may have other things to do, and no time is asserted here.
SOON = 120.0


@pytest.mark.parametrize(
    ("mode", "parts"),
    [
        (gateway_pb2.MODE_CLIP, {"references"}),
        (gateway_pb2.MODE_LORA, {"critique"}),
        (gateway_pb2.MODE_DIMENSIONAL, {"scores"}),
        (gateway_pb2.MODE_COMBINED, {"references", "critique", "scores"}),
    ],
)
def test_every_mode_answers(running: Running, mode: gateway_pb2.Mode.ValueType, parts: set[str]) -> None:
    answer = running.stub.Analyze(running.request(mode), timeout=SOON)
    assert not answer.failures
    assert {name for name in ("references", "critique", "scores") if answer.HasField(name)} == parts
    assert len(answer.narrations) == len(parts)
    assert answer.summary
    if "references" in parts:
        similarities = [neighbor.similarity for neighbor in answer.references.neighbors]
        assert len(similarities) == 3
        assert similarities == sorted(similarities, reverse=True)
        assert all(-1 <= similarity <= 1 for similarity in similarities)
        assert all(neighbor.reference.advisor == ADVISOR for neighbor in answer.references.neighbors)
        assert f"“{answer.references.neighbors[0].reference.title}”" in answer.summary
    if "critique" in parts:
        assert answer.critique.text.strip()
        assert answer.critique.authorship.adapter == ADVISOR
        assert not answer.critique.authorship.fell_back
        assert answer.critique.completion.completion_tokens > 0
    if "scores" in parts:
        assert [scored.dimension for scored in answer.scores.dimensions] == list(range(1, 9))
        assert all(0 <= scored.score <= 10 for scored in answer.scores.dimensions)
        assert all(scored.comparison.reference.count >= 24 for scored in answer.scores.dimensions)
        sentences = [
            narration.sentences for narration in answer.narrations if narration.part == gateway_pb2.PART_SCORES
        ]
        assert any("The best reference: " in sentence for sentence in sentences[0])


def test_a_reference_is_found_as_itself(running: Running) -> None:
    path = sorted((MINI_DIR / "advisors" / ADVISOR / "references").iterdir())[0]
    request = running.request(gateway_pb2.MODE_CLIP)
    request.image.content = path.read_bytes()
    answer = running.stub.Analyze(request, timeout=SOON)
    assert answer.references.neighbors[0].reference.file_name == path.name
    assert answer.references.neighbors[0].similarity > 0.999


def test_a_stream_gives_the_parts_and_the_whole(running: Running) -> None:
    request = gateway_pb2.StreamAnalyzeRequest(request=running.request(gateway_pb2.MODE_COMBINED))
    events = list(running.stub.StreamAnalyze(request, timeout=SOON))
    kinds = [event.WhichOneof("event") for event in events]
    assert {"references", "scores", "critique_started", "critique_delta", "critique_completed"} <= set(kinds)
    assert kinds.index("critique_started") < kinds.index("critique_delta") < kinds.index("critique_completed")
    assert kinds[-1] == "completed"
    whole = events[-1].completed
    assert "".join(event.critique_delta.text for event in events) == whole.critique.text
    # The mini models are deterministic at temperature 0: streamed or not, the critique is the same.
    assert running.stub.Analyze(request.request, timeout=SOON).critique.text == whole.critique.text


def test_a_batch_gives_each_photograph_its_result(running: Running) -> None:
    def requests() -> Iterator[gateway_pb2.AnalyzeBatchRequest]:
        for number in range(6):
            request = running.request(gateway_pb2.MODE_COMBINED)
            if number == 3:
                request.image.content = b"not a photograph"
            yield gateway_pb2.AnalyzeBatchRequest(key=str(number), request=request)

    results = {result.key: result for result in running.stub.AnalyzeBatch(requests(), timeout=SOON)}
    assert sorted(results) == [str(number) for number in range(6)]
    assert results["3"].status.reason == "IMAGE_UNDECODABLE"
    texts = {results[key].response.critique.text for key in results if key != "3"}
    assert len(texts) == 1
    assert not any(results[key].response.failures for key in results)


def test_the_advisor_is_listed_with_all_that_is_known_of_it(running: Running) -> None:
    listing = running.stub.ListAdvisors(gateway_pb2.ListAdvisorsRequest(), timeout=SOON)
    # README's own advisor, Jane, may have been pre-computed beside it.
    one = next(summary for summary in listing.advisors if summary.advisor.id == ADVISOR)
    assert (one.advisor.id, one.has_adapter, one.has_profile) == (ADVISOR, True, True)
    assert one.advisor.reference_count >= 24
    assert not listing.failures


def test_a_request_is_one_trace_through_the_four_processes(running: Running) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    parent = (("traceparent", f"00-{trace}-00f067aa0ba902b7-01"),)
    critique = running.stub.Analyze(running.request(gateway_pb2.MODE_COMBINED), timeout=SOON, metadata=parent).critique

    def answered(spans: list[Span]) -> dict[str, Span]:
        return {span.service: span for span in spans if span.trace == trace and span.kind == "SERVER"}

    services = {f"mondrian-{name}" for name in running.processes}
    seen = answered(running.traces.wait(lambda spans: set(answered(spans)) == services, SOON))
    told = seen["mondrian-critic"].attributes
    assert told["mondrian.completion_tokens"] == critique.completion.completion_tokens
    assert critique.text not in str(seen)


@pytest.mark.parametrize("mode", [value for value in gateway_pb2.Mode.values() if value])
def test_an_advisor_that_does_not_exist_is_one_sentence_in_every_mode(
    running: Running, mode: gateway_pb2.Mode.ValueType
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        running.stub.Analyze(running.request(mode, advisor="anselm"), timeout=SOON)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert (caught.value.details() or "").startswith(f"There is no advisor 'anselm'. Known: {ADVISOR}")


@pytest.mark.parametrize(
    ("damage", "reasons"),
    [
        (lambda content: b"", {"IMAGE_EMPTY"}),
        (lambda content: b"not a photograph", {"IMAGE_UNDECODABLE"}),
        (lambda content: content[: len(content) // 3], {"IMAGE_TRUNCATED", "IMAGE_UNDECODABLE"}),
    ],
)
def test_a_photograph_that_cannot_be_read_is_one_sentence(running: Running, damage: object, reasons: set[str]) -> None:
    assert callable(damage)
    request = running.request(gateway_pb2.MODE_COMBINED)
    request.image.CopyFrom(types_pb2.Image(content=damage(running.photograph)))
    with pytest.raises(grpc.RpcError) as caught:
        running.stub.Analyze(request, timeout=SOON)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(rpc_status_of(caught.value)) in reasons


def test_a_killed_critic_is_answered_for_and_its_return_is_noticed(running: Running) -> None:
    critic = running.processes["critic"]
    critic.kill()
    answer = running.stub.Analyze(running.request(gateway_pb2.MODE_COMBINED), timeout=SOON)
    (failure,) = answer.failures
    assert (failure.part, failure.status.reason) == (gateway_pb2.PART_CRITIQUE, "BACKEND_UNAVAILABLE")
    assert answer.HasField("references")
    assert answer.HasField("scores")
    assert "The critique is missing: the critic cannot be reached" in answer.summary
    with pytest.raises(grpc.RpcError) as caught:
        running.stub.Analyze(running.request(gateway_pb2.MODE_LORA), timeout=SOON)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

    critic.start().wait_serving(START_S)
    give_up = time.monotonic() + SOON
    while answer.failures and time.monotonic() < give_up:
        answer = running.stub.Analyze(running.request(gateway_pb2.MODE_COMBINED), timeout=SOON)
    assert not answer.failures
    assert answer.critique.text


def test_every_service_ends_well_on_sigterm(running: Running) -> None:
    for name in ("gateway", "embedder", "critic", "scorer"):
        process = running.processes[name]
        assert process.terminate(SOON) == 0, f"{name}:\n{process.tail()}"
        # Photographs and critiques stay out of the log, and so do traces of faults.
        assert "Traceback" not in process.tail(10_000)
