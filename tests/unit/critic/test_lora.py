"""Many adapters in one batch: each row has its own, equal to what peft computes for it alone."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from services.core.errors import EngineStopped
from services.critic import adapter_format, kernels
from services.critic import model as models
from services.critic.adapter_format import Adapter, AdapterLimits
from services.critic.engine import AdapterNotLoaded
from services.critic.lora import GROUPS, TARGETS, AdapterWeights, StackedLora, stacked_elements
from services.critic.model import VisionLanguageModel
from services.critic.sampling import SamplingParams
from tests.fakes.critic import random_adapter
from tests.unit.critic import solo
from tests.unit.critic.running import events_of, last, running, until_idle

EVERY = sorted(TARGETS)
KINDS: dict[str, dict[str, object]] = {
    "ansel": {"rank": 4},
    "okeefe": {"rank": 8, "target_modules": EVERY, "lora_alpha": 4},
    "weston": {"rank": 2, "target_modules": ["down_proj", "k_proj"], "use_rslora": True},
}
LENGTH = 12


@pytest.fixture(scope="module")
def adapters(tiny: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Adapter]:
    base = adapter_format.base_of(tiny.network, name=tiny.name, fingerprint=tiny.fingerprint)
    root = tmp_path_factory.mktemp("adapters")
    folders = [random_adapter(root / name, base, seed=i, **kind) for i, (name, kind) in enumerate(KINDS.items())]  # type: ignore[arg-type]
    return {folder.name: adapter_format.read(folder, base, AdapterLimits()) for folder in folders}


@pytest.fixture(scope="module")
def expected(
    tiny_folder: Path, tiny: VisionLanguageModel, adapters: dict[str, Adapter], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[int, str | None], list[int]]:
    """What peft writes for each photograph and adapter; None is the base model."""
    reference = models.load(tiny_folder, device=torch.device("cpu"), dtype=torch.float32, max_image_tokens=32)
    reference.end_ids = tiny.end_ids
    base = adapter_format.base_of(tiny.network, name=tiny.name, fingerprint=tiny.fingerprint)
    root = tmp_path_factory.mktemp("peft")
    peft = None
    for i, (name, kind) in enumerate(KINDS.items()):
        folder = random_adapter(root / name, base, seed=i, **kind)  # type: ignore[arg-type]
        if peft is None:
            peft = PeftModel.from_pretrained(reference.network, folder, name, autocast_adapter_dtype=False)
        else:
            peft.load_adapter(folder, name, autocast_adapter_dtype=False)
    assert peft is not None
    peft.eval()
    written: dict[tuple[int, str | None], list[int]] = {}
    for picture in range(3):
        prompt = solo.prompt_of(tiny, picture, 1)
        with peft.disable_adapter():
            written[picture, None] = solo.generate(reference, prompt, LENGTH, peft)
        for name in KINDS:
            peft.set_adapter(name)
            written[picture, name] = solo.generate(reference, prompt, LENGTH, peft)
    return written


def test_adapters_change_what_is_written(expected: dict[tuple[int, str | None], list[int]]) -> None:
    for picture in range(3):
        assert len({tuple(expected[picture, name]) for name in (None, *KINDS)}) == 1 + len(KINDS)


@pytest.fixture(params=["by rows", "by blocks"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two ways to give rows their adapters: by the kernels of a CPU, and as on a GPU."""
    if request.param == "by blocks":
        monkeypatch.setattr(kernels, "serve", lambda device, dtype: False)
    return str(request.param)


async def test_every_row_writes_what_peft_writes_with_its_adapter(
    tiny: VisionLanguageModel,
    adapters: dict[str, Adapter],
    expected: dict[tuple[int, str | None], list[int]],
    way: str,
) -> None:
    order = list(expected) * 3
    random.Random(7).shuffle(order)
    async with running(tiny) as engine:
        for name, adapter in adapters.items():
            await engine.load_adapter(name, adapter.weights)
        engine_options = SamplingParams(LENGTH)
        for start in range(0, len(order), 12):
            part = order[start : start + 12]
            streams = [
                engine.submit(solo.prompt_of(tiny, picture, 1), engine_options, adapter=name) for picture, name in part
            ]
            for place, stream in zip(part, streams, strict=True):
                assert list(last(await events_of(stream)).tokens) == expected[place]


async def test_the_memory_of_adapters_is_what_was_computed(
    tiny: VisionLanguageModel, adapters: dict[str, Adapter]
) -> None:
    base = adapter_format.base_of(tiny.network, name=tiny.name, fingerprint=tiny.fingerprint)
    weights = adapters["okeefe"].weights
    one = stacked_elements(weights, base.shapes) * 4
    async with running(tiny) as engine:
        for number in range(1, 4):
            await engine.load_adapter(str(number), weights)
            assert engine.stats().adapter_bytes == number * one
        await engine.unload_adapter("2")
        await engine.load_adapter("4", adapters["ansel"].weights)
        assert engine.stats().adapter_bytes == 3 * one


async def test_an_adapter_that_leaves_lets_its_rows_finish(
    tiny: VisionLanguageModel, adapters: dict[str, Adapter], expected: dict[tuple[int, str | None], list[int]]
) -> None:
    async with running(tiny) as engine:
        for name in ("ansel", "okeefe"):
            await engine.load_adapter(name, adapters[name].weights)
        held = engine.stats().adapter_bytes
        streams = [engine.submit(solo.prompt_of(tiny, 0, 1), SamplingParams(LENGTH), adapter="ansel") for _ in range(6)]
        leaving = asyncio.create_task(engine.unload_adapter("ansel"))
        await asyncio.sleep(0)
        with pytest.raises(AdapterNotLoaded):
            engine.submit(solo.prompt_of(tiny, 0, 1), SamplingParams(1), adapter="ansel")
        for stream in streams:
            assert list(last(await events_of(stream)).tokens) == expected[0, "ansel"]
        await leaving
        assert engine.stats().adapters == 1
        # The other one stays as it was, and the freed slot takes a newcomer.
        await engine.load_adapter("weston", adapters["weston"].weights)
        for name in ("okeefe", "weston"):
            stream = engine.submit(solo.prompt_of(tiny, 1, 1), SamplingParams(LENGTH), adapter=name)
            assert list(last(await events_of(stream)).tokens) == expected[1, name]
        await engine.unload_adapter("okeefe")
        await engine.unload_adapter("weston")
        await engine.unload_adapter("nobody")
        assert held > 0
        assert engine.stats().adapter_bytes == 0
        await until_idle(engine)


async def test_adapters_cannot_be_loaded_into_a_stopped_engine(
    tiny: VisionLanguageModel, adapters: dict[str, Adapter]
) -> None:
    async with running(tiny) as engine:
        pass
    with pytest.raises(EngineStopped):
        await engine.load_adapter("ansel", adapters["ansel"].weights)


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_batch_of_eight_adapters_adds_the_part_of_each(way: str, tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    widths = {"qkv": [6, 4, 4], "o": [5], "gate_up": [7, 7], "down": [5]}
    stacked = StackedLora(widths, torch.device("cpu"), torch.float32)
    place = (0, "self_attn.k_proj")
    weights = [AdapterWeights(r, 0.5 * r, {place: (normal(r, 5), normal(4, r))}) for r in range(1, 9)]
    slots = [stacked.load(adapter) for adapter in weights]
    x, out = normal(9, tokens, 5), torch.zeros(9, tokens, 14)
    route = stacked.route([*slots, None], tokens)
    assert route is not None
    assert (route.blocks is not None) == (way == "by blocks" and tokens == 1)
    stacked.add(out, x, 0, "qkv", route)
    for row, adapter in enumerate(weights):
        a, b = adapter.matrices[place]
        torch.testing.assert_close(out[row, :, 6:10], x[row] @ a.T @ b.T * adapter.scaling)
    assert out[:, :, :6].abs().max() == out[:, :, 10:].abs().max() == out[8].abs().max() == 0
    assert stacked.route([None, None], 1) is None


def test_rows_that_come_go_and_change_places_keep_their_own_adapter() -> None:
    generator = torch.Generator().manual_seed(0)
    stacked = StackedLora({group: [6] for group in GROUPS}, torch.device("cpu"), torch.float32)
    place = (0, "self_attn.o_proj")
    matrices = [(torch.randn(2, 5, generator=generator), torch.randn(6, 2, generator=generator)) for _ in range(4)]
    slots = [stacked.load(AdapterWeights(2, 1.0, {place: pair})) for pair in matrices]
    draw = random.Random(1)
    for _ in range(40):
        chosen = [draw.choice([*range(4), None]) for _ in range(draw.randint(1, 7))]
        x, out = torch.randn(len(chosen), 1, 5, generator=generator), torch.zeros(len(chosen), 1, 6)
        stacked.add(out, x, 0, "o", stacked.route([None if one is None else slots[one] for one in chosen], 1))
        for row, one in enumerate(chosen):
            wanted = torch.zeros(1, 6) if one is None else x[row] @ matrices[one][0].T @ matrices[one][1].T
            torch.testing.assert_close(out[row], wanted)


def test_a_slot_that_is_filled_again_holds_nothing_of_the_one_before() -> None:
    generator = torch.Generator().manual_seed(0)
    q, v = (0, "self_attn.q_proj"), (0, "self_attn.v_proj")

    def adapter(rank: int, *places: tuple[int, str]) -> AdapterWeights:
        pairs = {
            place: (torch.randn(rank, 5, generator=generator), torch.randn(6, rank, generator=generator))
            for place in places
        }
        return AdapterWeights(rank, 1.0, pairs)

    def part(stacked: StackedLora, slot: int) -> torch.Tensor:
        out = torch.zeros(1, 1, 18)
        stacked.add(out, x, 0, "qkv", stacked.route([slot], 1))
        return out

    widths = {"qkv": [6, 6, 6], "o": [6], "gate_up": [6, 6], "down": [6]}
    x = torch.randn(1, 1, 5, generator=generator)
    stacked = StackedLora(widths, torch.device("cpu"), torch.float32)
    stays = stacked.load(adapter(4, q, v))
    before = part(stacked, stays)
    goes = stacked.load(adapter(4, q, v))
    held = stacked.nbytes
    stacked.unload(goes)
    newcomer = adapter(2, v)
    assert stacked.load(newcomer) == goes
    assert stacked.nbytes == held
    a, b = newcomer.matrices[v]
    torch.testing.assert_close(part(stacked, goes)[0, 0, 12:], x[0, 0] @ a.T @ b.T)
    assert part(stacked, goes)[..., :12].abs().max() == 0
    # One of a greater rank, or for another Linear, moves all into larger stacks.
    wider = [stacked.load(adapter(8, v)), stacked.load(adapter(1, (0, "mlp.up_proj")))]
    torch.testing.assert_close(part(stacked, stays), before)
    for slot in (stays, goes, *wider):
        stacked.unload(slot)
    assert stacked.nbytes == 0
