"""The registry: what the folder holds is what is served, and no critique is lost on the way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from mondrian.critic.v1 import critic_pb2
from prometheus_client import REGISTRY
from safetensors.torch import load_file, save_file

from services.core.errors import DeviceMemory
from services.critic import adapter_format
from services.critic.adapter_format import AdapterLimits, Base
from services.critic.adapters import AdapterRegistry, Budget, Entry, State, Voice, _scan
from services.critic.conversions import adapter_message
from services.critic.lora import AdapterWeights
from services.critic.model import VisionLanguageModel
from services.critic.sampling import SamplingParams
from services.critic.slots import SlotEngine
from tests.fakes.critic import random_adapter
from tests.unit.critic import solo
from tests.unit.critic.running import events_of, last, running, until_idle

ROOMY = Budget(max_bytes=10_000_000, max_loaded=8)


@contextlib.asynccontextmanager
async def following(
    model: VisionLanguageModel, base: Base, folder: Path, budget: Budget = ROOMY
) -> AsyncIterator[tuple[SlotEngine, AdapterRegistry]]:
    async with running(model) as engine:

        async def prove(key: str) -> None:
            await events_of(engine.submit(solo.prompt_of(model, 0, 0), SamplingParams(2), adapter=key))

        registry = AdapterRegistry(
            folder, engine, base, model.dtype, limits=AdapterLimits(max_rank=16), budget=budget, prove=prove
        )
        await registry.reconcile()
        yield engine, registry
        await registry.settled()


def entry_of(registry: AdapterRegistry, name: str) -> Entry:
    return next(entry for entry in registry.entries() if entry.name == name)


async def written(engine: SlotEngine, model: VisionLanguageModel, voice: Voice) -> tuple[int, ...]:
    stream = engine.submit(solo.prompt_of(model, 0, 1), SamplingParams(8), adapter=voice.key)
    return last(await events_of(stream)).tokens


async def test_a_folder_that_is_not_there_holds_no_adapters(
    tiny: VisionLanguageModel, base: Base, tmp_path: Path
) -> None:
    async with following(tiny, base, tmp_path / "nowhere") as (_, registry):
        assert registry.entries() == []
        assert await registry.voice("") == Voice(None)
        assert "no adapter for advisor 'ansel'" in (await registry.voice("ansel")).reason


async def test_a_new_revision_takes_over_without_losing_a_critique(
    tiny: VisionLanguageModel, base: Base, tmp_path: Path
) -> None:
    random_adapter(tmp_path / "ansel", base, seed=1)
    async with following(tiny, base, tmp_path) as (engine, registry):
        old = await registry.voice("ansel")
        expected = await written(engine, tiny, old)
        streams = [engine.submit(solo.prompt_of(tiny, 0, 1), SamplingParams(8), adapter=old.key) for _ in range(10)]
        random_adapter(tmp_path / "ansel", base, seed=2)
        await registry.reconcile()
        new = await registry.voice("ansel")
        assert new.revision != old.revision
        assert await written(engine, tiny, new) != expected
        for stream in streams:
            assert last(await events_of(stream)).tokens == expected
        await registry.settled()
        assert engine.stats().adapters == 1
        # Nothing has changed: nothing is loaded again.
        await registry.reconcile()
        assert await registry.voice("ansel") == new


async def test_a_bad_revision_leaves_the_good_one_in_use(tiny: VisionLanguageModel, base: Base, tmp_path: Path) -> None:
    random_adapter(tmp_path / "ansel", base, seed=1)
    async with following(tiny, base, tmp_path) as (_, registry):
        good = await registry.voice("ansel")
        random_adapter(tmp_path / "ansel", base, seed=2, bias="all")
        await registry.reconcile()
        assert await registry.voice("ansel") == good
        entry = entry_of(registry, "ansel")
        assert entry.state is State.READY
        assert "changes biases" in entry.reason
        assert good.revision in entry.reason
        random_adapter(tmp_path / "okeefe", base, seed=3, bias="all")
        await registry.reconcile()
        counts = {
            state: REGISTRY.get_sample_value("mondrian_critic_adapters", {"state": state.value}) for state in State
        }
        assert counts == {State.LOADING: 0, State.READY: 1, State.REFUSED: 1, State.DRAINING: 0}


async def test_a_strange_adapter_keeps_no_other_from_being_served(
    tiny: VisionLanguageModel, base: Base, tmp_path: Path
) -> None:
    random_adapter(tmp_path / "ansel", base, seed=1, lora_alpha=10**400)
    random_adapter(tmp_path / "okeefe", base, seed=2)
    async with following(tiny, base, tmp_path) as (_, registry):
        assert [entry.state for entry in registry.entries()] == [State.REFUSED, State.READY]
        assert "not usable (it cannot be read: " in (await registry.voice("ansel")).reason


async def test_an_adapter_that_leaves_is_unloaded(tiny: VisionLanguageModel, base: Base, tmp_path: Path) -> None:
    random_adapter(tmp_path / "ansel", base, seed=1)
    async with following(tiny, base, tmp_path) as (engine, registry):
        voice = await registry.voice("ansel")
        stream = engine.submit(solo.prompt_of(tiny, 0, 1), SamplingParams(8), adapter=voice.key)
        shutil.rmtree(tmp_path / "ansel")
        await registry.reconcile()
        assert [entry.state for entry in registry.entries()] == [State.DRAINING]
        assert (await registry.voice("ansel")).key is None
        assert last(await events_of(stream)).tokens
        await registry.settled()
        assert registry.entries() == []
        assert engine.stats().adapters == 0


async def test_an_adapter_that_breaks_the_output_is_refused_by_its_proof(
    tiny: VisionLanguageModel, base: Base, tmp_path: Path
) -> None:
    folder = random_adapter(tmp_path / "ansel", base, seed=1)
    weights = folder / "adapter_model.safetensors"
    save_file({name: tensor * 1e30 for name, tensor in load_file(weights).items()}, weights)
    async with following(tiny, base, tmp_path) as (engine, registry):
        entry = entry_of(registry, "ansel")
        assert entry.state is State.REFUSED
        assert "not finite" in entry.reason
        await registry.settled()
        assert engine.stats().adapters == 0
        assert await written(engine, tiny, Voice(None))


async def test_the_least_recently_used_makes_room_and_comes_back(
    tiny: VisionLanguageModel, base: Base, tmp_path: Path
) -> None:
    for seed, name in enumerate(("ansel", "okeefe", "weston")):
        random_adapter(tmp_path / name, base, seed=seed)
    budget = Budget(max_bytes=10_000_000, max_loaded=2, pinned=frozenset({"ansel"}))
    async with following(tiny, base, tmp_path, budget) as (engine, registry):
        in_memory = lambda: {entry.name for entry in registry.entries() if entry.key}  # noqa: E731
        assert in_memory() == {"ansel", "weston"}
        assert all(entry.state is State.READY for entry in registry.entries())
        first = await written(engine, tiny, await registry.voice("okeefe"))
        assert in_memory() == {"ansel", "okeefe"}
        assert entry_of(registry, "weston").size_bytes == 0
        await registry.voice("weston")
        assert await written(engine, tiny, await registry.voice("okeefe")) == first
        await registry.settled()
        assert engine.stats().adapters == 2


async def test_what_pinned_adapters_left_no_room_for_is_served_when_one_of_them_leaves(
    tiny: VisionLanguageModel, base: Base, tmp_path: Path
) -> None:
    for seed, name in enumerate(("ansel", "okeefe")):
        random_adapter(tmp_path / name, base, seed=seed)
    budget = Budget(max_bytes=10_000_000, max_loaded=1, pinned=frozenset({"ansel"}))
    async with following(tiny, base, tmp_path, budget) as (_, registry):
        assert "taken by pinned ones" in (await registry.voice("okeefe")).reason
        shutil.rmtree(tmp_path / "ansel")
        await registry.reconcile()
        assert (await registry.voice("okeefe")).key is not None


async def test_an_adapter_comes_back_for_all_who_ask_for_it_whoever_leaves(
    tiny: VisionLanguageModel, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(("ansel", "okeefe")):
        random_adapter(tmp_path / name, base, seed=seed)
    budget = Budget(max_bytes=10_000_000, max_loaded=1)
    async with following(tiny, base, tmp_path, budget) as (engine, registry):
        load, loaded, go_on = engine.load_adapter, asyncio.Event(), asyncio.Event()

        async def slow(key: str, weights: AdapterWeights) -> None:
            await load(key, weights)
            loaded.set()
            await go_on.wait()

        monkeypatch.setattr(engine, "load_adapter", slow)
        leaving = asyncio.create_task(registry.voice("ansel"))
        await loaded.wait()
        staying = asyncio.create_task(registry.voice("ansel"))
        leaving.cancel()
        await asyncio.wait([leaving])
        assert leaving.cancelled()
        go_on.set()
        assert (await staying).key is not None
        assert await registry.voice("ansel") == await staying
        await registry.settled()
        assert engine.stats().adapters == 1


async def test_an_adapter_over_the_budget_is_refused(tiny: VisionLanguageModel, base: Base, tmp_path: Path) -> None:
    random_adapter(tmp_path / "ansel", base, seed=1)
    async with following(tiny, base, tmp_path, Budget(max_bytes=1_000, max_loaded=2)) as (_, registry):
        assert "more than all adapters may (1,000)" in (await registry.voice("ansel")).reason


async def test_what_may_pass_is_tried_again(
    tiny: VisionLanguageModel, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_adapter(tmp_path / "ansel", base, seed=1)
    async with following(tiny, base, tmp_path / "later") as (engine, registry):

        async def short(key: str, weights: object) -> None:
            raise DeviceMemory("The device is full.")

        (tmp_path / "later").mkdir()
        shutil.copytree(tmp_path / "ansel", tmp_path / "later" / "ansel")
        with monkeypatch.context() as patch:
            patch.setattr(engine, "load_adapter", short)
            await registry.reconcile()
            assert entry_of(registry, "ansel").reason == "The device is full."
        await registry.reconcile()
        assert entry_of(registry, "ansel").state is State.READY
        assert entry_of(registry, "ansel").reason == ""


async def test_replacing_adapters_under_load_loses_nothing(
    tiny: VisionLanguageModel, base: Base, tmp_path: Path
) -> None:
    random_adapter(tmp_path / "ansel", base, seed=0)
    async with following(tiny, base, tmp_path) as (engine, registry):
        expected: dict[str, tuple[int, ...]] = {}
        changes = 0

        async def client() -> None:
            over = False
            while not over:
                # Once more after the last change, so that what was written before it and after it both count.
                over = changes == 6
                voice = await registry.voice("ansel")
                assert voice.key is not None
                tokens = await written(engine, tiny, voice)
                assert expected.setdefault(voice.revision, tokens) == tokens

        clients = [asyncio.create_task(client()) for _ in range(3)]
        for seed in range(1, 7):
            random_adapter(tmp_path / "ansel", base, seed=seed)
            await registry.reconcile()
            changes += 1
        await asyncio.gather(*clients)
        await registry.settled()
        await until_idle(engine)
        assert len(expected) > 1
        assert engine.stats().adapters == 1
        assert engine.stats().failed == 0


def test_the_stamp_of_a_folder_changes_with_its_files(base: Base, tmp_path: Path) -> None:
    folder = random_adapter(tmp_path / "ansel", base, seed=1)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "README.md").write_text("not a folder")
    before = _scan(tmp_path)
    assert list(before) == ["ansel"]
    assert _scan(tmp_path) == before
    change: list[Callable[[], object]] = [
        lambda: adapter_format.seal(folder, base),
        lambda: (folder / "adapter_config.json").unlink(),
    ]
    for make in change:
        make()
        after = _scan(tmp_path)
        assert after != before
        before = after


async def test_a_folder_whose_name_is_no_text_is_refused_by_a_name_that_can_be_listed(
    tiny: VisionLanguageModel, base: Base, tmp_path: Path
) -> None:
    os.mkdir(os.fsencode(tmp_path) + b"/\xff\n\x1b[31m")
    async with following(tiny, base, tmp_path) as (_, registry):
        listed = adapter_message(registry.entries()[0])
    assert listed.name == r"\xff\n\x1b[31m"
    assert listed.state == critic_pb2.ADAPTER_STATE_REFUSED
    assert "folder's name" in listed.reason
