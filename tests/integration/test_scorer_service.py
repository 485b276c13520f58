"""The scorer behind a real server: both rpcs, every status of their comments, batching, and swaps under load."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mondrian.scorer.v1 import scorer_pb2, scorer_pb2_grpc
from mondrian.types.v1 import types_pb2

from services.core.advisors import load_advisor
from services.core.commands.progress import progress
from services.core.dimensions import number_of
from services.core.errors import ConfigurationError
from services.core.images.reading import ImageLimits
from services.core.releases import ReleaseStore
from services.core.rpc.channels import channel_options
from services.core.rpc.server import running
from services.scorer.calibration import Calibration
from services.scorer.component import ScorerComponent
from services.scorer.dimensions import DIMENSIONS, NAMES
from services.scorer.precomputation import precompute
from services.scorer.scoring import Picture, Scorer, Scores
from services.scorer.settings import ScorerSettings
from tests.integration.refusals import refused
from tests.pictures import advisor_folder, encoded, picture
from tests.unit.scorer.pictures import photograph

Code = grpc.StatusCode


class Service:
    """A served scorer, its store, and a client."""

    def __init__(self, path: Path, **overrides: object) -> None:
        self.path = path
        given = {"port": 0, "data_dir": path, "max_batch": 4, "max_queue": 4, "poll_s": 3600.0, "drain_s": 5.0}
        self.settings = ScorerSettings.load(**{**given, **overrides})
        self.component = ScorerComponent(self.settings)
        self.store = ReleaseStore(self.settings.releases_root)
        self.scorer = Scorer(Calibration.load())
        self.address = ""
        self.stub: scorer_pb2_grpc.ScorerServiceAsyncStub

    def precompute(self, advisor: str, seeds: range) -> str:
        """Publishes an advisor with one picture a seed and returns the release's id."""
        outcome = precompute(
            load_advisor(advisor_folder(self.path / "advisors" / advisor, seeds), advisor),
            self.scorer,
            self.store,
            limits=ImageLimits(),
            report=lambda title, total: progress(title, total, quiet=True),
        )
        return outcome.release.id

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[Service]:
        async with (
            running(self.component, self.settings) as self.address,
            grpc.aio.insecure_channel(self.address, options=channel_options()) as channel,
        ):
            self.stub = scorer_pb2_grpc.ScorerServiceStub(channel)
            yield self

    async def score(self, content: bytes, advisor: str = "", timeout: float = 60) -> scorer_pb2.ScoreResponse:
        request = scorer_pb2.ScoreRequest(image=types_pb2.Image(content=content), advisor=advisor)
        return await self.stub.Score(request, timeout=timeout)

    async def profile(self, advisor: str) -> scorer_pb2.GetProfileResponse:
        return await self.stub.GetProfile(scorer_pb2.GetProfileRequest(advisor=advisor), timeout=60)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A scorer that serves ansel (pictures 0 to 11) and okeefe (10 to 13)."""
    service = Service(tmp_path)
    service.precompute("ansel", range(12))
    service.precompute("okeefe", range(10, 14))
    async with service.serve():
        yield service


async def test_a_photograph_against_an_advisor(service: Service) -> None:
    answer = await service.score(encoded(photograph("astronaut")), "ansel")
    assert [one.dimension for one in answer.dimensions] == [number_of(name) for name in NAMES]
    for one, dimension in zip(answer.dimensions, DIMENSIONS, strict=True):
        assert 0 <= one.score <= 10
        assert 0 < one.confidence <= dimension.prior + 1e-6
        assert one.evidence
        assert {measure.name: measure.unit for measure in one.measures} == dict(dimension.units)
        assert one.basis == scorer_pb2.BASIS_SIGNAL
        reference = one.comparison.reference
        assert reference.count == 12
        assert list(reference.quantiles) == sorted(reference.quantiles)
        # A profile holds hundredths, and rounding keeps the order.
        assert round(reference.best_example.score, 2) >= round(reference.mean, 2)
        assert one.comparison.gap_points == pytest.approx(one.score - reference.mean, abs=1e-4)
        assert bool(one.comparison.advice) == (one.score < reference.mean)
    assert answer.scorer == service.scorer.id
    assert answer.release == service.store.current_id()
    assert answer.grade
    assert not answer.monochrome
    assert answer.timings.compute_ms > 0
    assert answer.timings.decode_ms > 0


async def test_without_an_advisor_nothing_is_compared(service: Service) -> None:
    answer = await service.score(encoded(photograph("chelsea"), "JPEG"))
    assert not any(one.HasField("comparison") for one in answer.dimensions)
    assert answer.release == answer.note == ""


async def test_a_monochrome_photograph_says_so(service: Service) -> None:
    answer = await service.score(encoded(photograph("camera")))
    assert answer.monochrome
    assert {one.basis for one in answer.dimensions} == {scorer_pb2.BASIS_MONOCHROME}
    harmony = answer.dimensions[NAMES.index("color_harmony")]
    assert "monochrome" in harmony.evidence[0]


async def test_the_profile(service: Service) -> None:
    answer = await service.profile("ansel")
    assert (answer.advisor, answer.count, len(answer.dimensions)) == ("ansel", 12, 8)
    assert answer.scorer == service.scorer.id
    scored = await service.score(encoded(picture(40)), "ansel")
    for profile, one in zip(answer.dimensions, scored.dimensions, strict=True):
        assert profile.dimension == one.dimension
        assert json_format.MessageToDict(profile.distribution) == json_format.MessageToDict(one.comparison.reference)


async def test_a_reference_is_known_and_not_its_own_example(service: Service) -> None:
    content = encoded(picture(3))
    answer = await service.score(content, "ansel")
    assert answer.timings.compute_ms == 0
    fresh = await service.score(encoded(picture(3), optimize=True), "ansel")
    assert fresh.timings.compute_ms > 0
    for known, computed in zip(answer.dimensions, fresh.dimensions, strict=True):
        assert known.score == pytest.approx(computed.score, abs=1e-3)
        assert list(known.evidence) == list(computed.evidence)


async def test_a_photograph_sent_again_is_not_measured_again(service: Service) -> None:
    content = encoded(picture(50))
    first = await service.score(content, "ansel")
    second = await service.score(content, "ansel")
    assert first.timings.compute_ms > 0
    assert second.timings.compute_ms == 0
    first.ClearField("timings")
    second.ClearField("timings")
    assert first == second


async def test_equal_photographs_that_come_at_once_are_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(tmp_path, max_batch=1, max_queue=1)
    async with service.serve():
        engine = service.component.engine()
        measure, measured = engine.scorer.score, 0

        def counted(pictures: list[Picture]) -> list[Scores]:
            nonlocal measured
            measured += len(pictures)
            return measure(pictures)

        monkeypatch.setattr(engine.scorer, "score", counted)
        content = encoded(picture(55))
        # More callers than permits: equal photographs share one.
        callers = [engine.photograph(content, deadline=None) for _ in range(4)]
        answers = await asyncio.gather(*callers)
        assert measured == 1
        assert all(answer.result is answers[0].result for answer in answers)


async def test_each_caller_gets_its_own_scores(service: Service) -> None:
    contents = [
        encoded(picture(100 + seed, size)) for seed, size in enumerate([(96, 64), (64, 96), (96, 64), (90, 90)])
    ]
    answers = await asyncio.gather(*(service.score(content) for content in contents))
    for content_seed, answer in enumerate(answers):
        size = [(96, 64), (64, 96), (96, 64), (90, 90)][content_seed]
        (alone,) = service.scorer.score([Picture.of(picture(100 + content_seed, size))])
        assert [one.score for one in answer.dimensions] == pytest.approx(list(alone.values), abs=1e-3)


async def test_what_is_no_photograph_isrefused(service: Service) -> None:
    await refused(service.score(b""), Code.INVALID_ARGUMENT, "IMAGE_EMPTY")
    await refused(service.score(b"no photograph at all"), Code.INVALID_ARGUMENT, "IMAGE_UNDECODABLE")
    whole = encoded(photograph("chelsea"), "JPEG")
    await refused(service.score(whole[: len(whole) // 2]), Code.INVALID_ARGUMENT, "IMAGE_TRUNCATED")
    assert (await service.score(whole)).dimensions


async def test_advisors_that_are_not_there(service: Service) -> None:
    refusal = await refused(service.score(encoded(picture(1)), "weston"), Code.NOT_FOUND, "ADVISOR_NOT_FOUND")
    assert "there are: ansel, okeefe" in refusal.sentence
    await refused(service.profile("weston"), Code.NOT_FOUND, "ADVISOR_NOT_FOUND")


async def test_an_advisor_that_can_be_none_is_refused_as_the_field_at_fault(service: Service) -> None:
    photo = encoded(picture(1))
    for call in (service.score(photo, "../x"), service.profile("An Sel"), service.profile("")):
        refusal = await refused(call, Code.INVALID_ARGUMENT, "INVALID_ARGUMENT")
        assert refusal.field == "advisor"


async def test_few_references_make_no_claims(service: Service) -> None:
    answer = await service.score(encoded(photograph("coffee")), "okeefe")
    assert "Only 4 references" in answer.note
    assert not any(one.comparison.needs_work or one.comparison.gap for one in answer.dimensions)


async def test_before_the_first_release(tmp_path: Path) -> None:
    service = Service(tmp_path)
    async with service.serve():
        await refused(service.score(encoded(picture(1)), "ansel"), Code.UNAVAILABLE, "NO_RELEASE")
        await refused(service.profile("ansel"), Code.UNAVAILABLE, "NO_RELEASE")
        assert len((await service.score(encoded(picture(1)))).dimensions) == 8
        release = service.precompute("ansel", range(3))
        assert await service.component.refresh()
        assert (await service.score(encoded(picture(1)), "ansel")).release == release


async def test_a_new_release_is_swapped_in_under_load(service: Service) -> None:
    before = service.store.current_id()
    done = asyncio.Event()
    releases: list[str] = []

    async def keep_asking() -> None:
        while not done.is_set():
            releases.append((await service.score(encoded(picture(60)), "ansel")).release)

    asking = asyncio.create_task(keep_asking())
    after = await asyncio.to_thread(service.precompute, "ansel", range(12, 15))
    assert await service.component.refresh()
    answer = await service.score(encoded(picture(60)), "ansel")
    done.set()
    await asking
    assert answer.release == after
    assert set(releases) <= {before, after}
    assert answer.dimensions[0].comparison.reference.count == 15


async def test_a_release_of_another_scorer_is_refused_and_the_old_one_stays(service: Service) -> None:
    before = service.store.current_id()
    shipped = Calibration.load()
    service.scorer = Scorer(Calibration(shipped.color + 1, shipped.monochrome, "other", 500))
    service.precompute("ansel", range(3))
    assert not await service.component.refresh()
    assert (await service.score(encoded(picture(61)), "ansel")).release == before


async def test_a_server_does_not_start_on_scores_that_do_not_compare(tmp_path: Path) -> None:
    service = Service(tmp_path)
    shipped = Calibration.load()
    service.scorer = Scorer(Calibration(shipped.color + 1, shipped.monochrome, "other", 500))
    service.precompute("ansel", range(3))
    with pytest.raises(ConfigurationError, match="pre-compute the advisors again"):
        await service.component.start()


async def test_a_missing_calibration_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    service = Service(tmp_path, calibration_path=tmp_path / "none.json")
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        await service.component.start()


async def test_more_than_can_wait_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(tmp_path, max_batch=1, max_queue=1)
    async with service.serve():
        loop = asyncio.get_running_loop()
        entered, release = asyncio.Event(), asyncio.Event()
        measure = service.component.engine().scorer.score

        def held(pictures: list[Picture]) -> list[Scores]:
            loop.call_soon_threadsafe(entered.set)
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result(30)
            return measure(pictures)

        monkeypatch.setattr(service.component.engine().scorer, "score", held)
        first = asyncio.create_task(service.score(encoded(picture(70))))
        await entered.wait()
        others = [asyncio.create_task(service.score(encoded(picture(seed)))) for seed in (71, 72)]
        # One of them takes the last permit; the other is refused while the first is still being measured.
        (turned_away,), (waiting,) = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        await refused(turned_away, Code.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert not first.done()
        release.set()
        assert len((await first).dimensions) == len((await waiting).dimensions) == 8


async def test_health_and_cancellation(service: Service) -> None:
    async with grpc.aio.insecure_channel(service.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service.component.service_name), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    call = asyncio.create_task(service.score(encoded(picture(80)), "ansel"))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await service.score(encoded(picture(81)), "ansel")).dimensions
