"""The engine under load: each caller gets the own embedding, and nothing is computed for nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
from prometheus_client import REGISTRY

from services.core.errors import InvalidImage, InvalidText, Overloaded, QueuedTooLong
from services.core.images.reading import sha256
from services.embedder.encoder import Vector
from services.embedder.engine import EmbeddingEngine
from services.embedder.settings import EmbedderSettings
from tests.fakes.encoder import FakeEncoder
from tests.pictures import photograph


class Setting:
    """An encoder and the engine around it: 4 in a batch, 4 waiting."""

    def __init__(self, cache_entries: int = 100) -> None:
        self.encoder = FakeEncoder()
        self.released: dict[str, Vector] = {}
        """The embeddings that a release has, by the photograph's sha256."""
        settings = EmbedderSettings.load(max_batch=4, max_queue=4, decode_threads=2, cache_entries=cache_entries)
        self.engine = EmbeddingEngine(self.encoder, settings, self.released.get)

    def alone(self, content: bytes) -> Vector:
        """Returns the embedding as the encoder makes it of this photograph only."""
        vector: Vector = self.encoder.forward_images([self.encoder.pixels(self.encoder.photograph(content))])[0]
        self.encoder.batches.clear()
        return vector

    def ask(self, content: bytes, deadline: float | None = None) -> asyncio.Task[Vector]:
        async def asked() -> Vector:
            return (await self.engine.photograph(content, deadline=deadline)).result

        return asyncio.create_task(asked())

    async def busy(self) -> asyncio.Task[Vector]:
        """Holds the model with a batch of one, which goes on when the gate is opened, and returns its caller."""
        self.encoder.gate.clear()
        caller = self.ask(photograph(1000))
        await asyncio.to_thread(self.encoder.began.acquire)
        return caller

    async def queued(self, photographs: int) -> None:
        """Returns when so many wait for the model; to have been prepared is not yet to wait."""
        while REGISTRY.get_sample_value("mondrian_queue_length", {"batcher": "encoder"}) != photographs:  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    setting = Setting()
    yield setting
    setting.encoder.gate.set()
    await setting.engine.close()


async def test_each_caller_gets_the_own_embedding(setting: Setting) -> None:
    contents = [photograph(seed) for seed in range(7)]
    expected = [setting.alone(content) for content in contents]
    first = await setting.busy()
    callers = [setting.ask(content) for content in contents]
    await asyncio.sleep(0)
    setting.encoder.gate.set()
    for vector, wanted in zip(await asyncio.gather(*callers), expected, strict=True):
        np.testing.assert_allclose(vector, wanted, atol=1e-6)
    await first
    assert sum(setting.encoder.batches) == 8
    assert max(setting.encoder.batches) <= 4


async def test_a_known_photograph_never_meets_the_model(setting: Setting) -> None:
    content = photograph(1)
    first = await setting.engine.photograph(content, deadline=None)
    again = await setting.engine.photograph(content, deadline=None)
    assert (first.cached, again.cached) == (False, True)
    assert first.decode_s > 0
    assert again.decode_s == again.compute_s == again.queue_s == 0
    np.testing.assert_array_equal(first.result, again.result)
    assert setting.encoder.batches == [1]
    # Also when a release knows it, and the memory does not.
    other = photograph(2)
    vector: Vector = np.full(32, 32**-0.5, np.float32)
    setting.released[sha256(other)] = vector
    hit = await setting.engine.photograph(other, deadline=None)
    assert hit.cached
    assert hit.result is vector
    assert setting.encoder.batches == [1]


async def test_equal_photographs_in_flight_are_computed_once(setting: Setting) -> None:
    first = await setting.busy()
    callers = [setting.ask(photograph(5)) for _ in range(20)]
    await asyncio.sleep(0)
    setting.encoder.gate.set()
    vectors = await asyncio.gather(*callers)
    await first
    assert all(vector is vectors[0] for vector in vectors)
    assert sum(setting.encoder.batches) == 2


async def test_texts_and_photographs_never_share_a_batch(setting: Setting) -> None:
    first = await setting.busy()
    photographs = [setting.ask(photograph(seed)) for seed in range(3)]
    texts = [asyncio.create_task(setting.engine.text(f"text {n}", deadline=None)) for n in range(3)]
    setting.encoder.gate.set()
    for n, embedded in enumerate(await asyncio.gather(*texts)):
        wanted = setting.encoder.forward_texts([setting.encoder.tokenize(f"text {n}")])[0]
        np.testing.assert_allclose(embedded.result, wanted, atol=1e-6)
    await asyncio.gather(first, *photographs)
    assert (await setting.engine.text("text 1", deadline=None)).cached


async def test_when_full_one_more_is_refused_at_once_and_told_when_to_come_back(setting: Setting) -> None:
    first = await setting.busy()
    callers = [setting.ask(photograph(seed)) for seed in range(7)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refused:
        await setting.engine.photograph(photograph(99), deadline=None)
    assert not setting.encoder.batches, "refused without waiting for the model, which is held"
    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s > 0
    # The same photograph as one in flight needs no permit of its own.
    joined = setting.ask(photograph(3))
    await asyncio.sleep(0)
    setting.encoder.gate.set()
    await asyncio.gather(first, joined, *callers)
    assert not (await setting.engine.photograph(photograph(99), deadline=None)).cached


async def test_what_its_callers_have_left_is_not_computed(setting: Setting) -> None:
    first = await setting.busy()
    callers = [setting.ask(photograph(seed)) for seed in range(6)]
    # The first of all, and three of those that are about to leave.
    for _ in range(4):
        await asyncio.to_thread(setting.encoder.prepared.acquire)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    setting.encoder.gate.set()
    await first
    await setting.ask(photograph(50))
    assert setting.encoder.batches == [1, 1]


async def test_a_deadline_before_the_expected_turn_is_refused(setting: Setting) -> None:
    await setting.ask(photograph(0))
    with pytest.raises(QueuedTooLong):
        await setting.engine.photograph(photograph(1), deadline=time.monotonic() - 0.001)
    assert not (await setting.engine.photograph(photograph(1), deadline=time.monotonic() + 60)).cached


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "IMAGE_EMPTY"), (b"words", "IMAGE_UNDECODABLE"), (photograph(1)[:200], "IMAGE_TRUNCATED")],
)
async def test_a_bad_photograph_is_refused_alone(setting: Setting, content: bytes, reason: str) -> None:
    good = setting.ask(photograph(1))
    with pytest.raises(InvalidImage) as refused:
        await setting.engine.photograph(content, deadline=None)
    assert refused.value.reason == reason
    assert np.isfinite(await good).all()


@pytest.mark.parametrize("text", ["", " \n\t", "x" * 1001])
async def test_a_text_that_says_nothing_or_too_much_is_refused(setting: Setting, text: str) -> None:
    with pytest.raises(InvalidText):
        await setting.engine.text(text, deadline=None)


async def test_a_failed_batch_is_not_remembered(setting: Setting) -> None:
    setting.encoder.failure = RuntimeError("the device is gone")
    with pytest.raises(RuntimeError):
        await setting.ask(photograph(1))
    assert np.isfinite(await setting.ask(photograph(1))).all()


async def test_a_remembered_embedding_does_not_keep_its_batch_in_memory(setting: Setting) -> None:
    held = await setting.busy()
    callers = [setting.ask(photograph(number)) for number in range(3)]
    await setting.queued(3)
    setting.encoder.gate.set()
    vectors = await asyncio.gather(held, *callers)
    assert setting.encoder.batches == [1, 3]
    # A row of the batch's matrix would hold all of it.
    assert all(vector.base is None for vector in vectors)


async def test_memory_can_be_turned_off() -> None:
    setting = Setting(cache_entries=0)
    for _ in range(2):
        assert not (await setting.engine.photograph(photograph(1), deadline=None)).cached
    await setting.engine.close()


async def test_warming_up_runs_both_towers(setting: Setting) -> None:
    await setting.engine.warm_up()
    assert setting.encoder.batches == [1]
