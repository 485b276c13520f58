"""Every bad adapter is refused with its own reason, before the model sees it; a good one is read as peft reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.critic import adapter_format
from services.critic.adapter_format import Adapter, AdapterLimits, AdapterRefused, Base
from tests.fakes.critic import adapter_config, random_adapter

LIMITS = AdapterLimits(max_rank=16, max_bytes=10_000_000)
VISION = "base_model.model.model.visual.blocks.0.attn.qkv.lora_A.weight"
Q_A = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture
def good(tmp_path: Path, base: Base) -> Path:
    return random_adapter(tmp_path / "ansel", base, seed=1)


def refusal(folder: Path, base: Base, limits: AdapterLimits = LIMITS) -> str:
    with pytest.raises(AdapterRefused) as refused:
        adapter_format.read(folder, base, limits)
    reason = str(refused.value)
    assert reason.isprintable()
    assert len(reason) <= 300
    return reason


def reconfigure(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def retensor(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


def test_a_good_adapter_is_read(good: Path, base: Base) -> None:
    adapter = adapter_format.read(good, base, LIMITS)
    assert isinstance(adapter, Adapter)
    assert (adapter.name, adapter.weights.rank, adapter.weights.scaling) == ("ansel", 4, 2.0)
    assert set(adapter.weights.matrices) == {
        (layer, f"self_attn.{name}") for layer in range(base.layers) for name in ("q_proj", "v_proj")
    }
    assert len(adapter.revision) == 12


def test_the_revision_follows_the_bytes(good: Path, base: Base) -> None:
    before = adapter_format.read(good, base, LIMITS).revision
    assert adapter_format.read(good, base, LIMITS).revision == before
    reconfigure(good, lora_alpha=16)
    assert adapter_format.read(good, base, LIMITS).revision != before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "IA3"}, "type 'IA3'"),
        ({"base_model_name_or_path": "Qwen/Qwen2-VL-2B"}, "trained on 'Qwen/Qwen2-VL-2B'"),
        ({"base_model_name_or_path": None}, "an unnamed model"),
        ({"bias": "all"}, "changes biases"),
        ({"use_dora": True}, "uses use_dora"),
        ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "uses rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "uses alpha_pattern"),
        ({"a_feature_of_next_year": {"on": 1}}, "uses a_feature_of_next_year"),
        ({"init_lora_weights": "pissa"}, "changing the base model"),
        ({"\ud800\x1b[31m" + "x" * 10_000: 1}, "it uses \N{REPLACEMENT CHARACTER}[31mxxx"),
        ({"layers_to_transform": ["\ud800"]}, "in layer \N{REPLACEMENT CHARACTER}"),
        ({"r": 0}, "rank is 0"),
        ({"r": 100_000}, "rank is 100000"),
        ({"r": True}, "rank is True"),
        ({"r": "4"}, "rank is '4'"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf"),
        ({"lora_alpha": -1}, "lora_alpha is -1"),
        ({"target_modules": ["q_proj", "qkv"]}, "targets 'qkv'"),
        ({"target_modules": []}, "name nothing"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "lacks the matrices of self_attn.o_proj"),
        ({"r": 8}, "where [8, 64] fits"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    good: Path, base: Base, changes: dict[str, object], reason: str
) -> None:
    reconfigure(good, **changes)
    assert reason in refusal(good, base)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop(Q_A), "lacks one of the two matrices of self_attn.q_proj in layer 0"),
        (lambda t: [t.pop(name) for name in list(t) if ".layers.1." in name], "lacks the matrices"),
        (lambda t: t.clear(), "lacks the matrices"),
        (lambda t: t.update({VISION: torch.zeros(4, 32)}), "belongs to no Linear"),
        (lambda t: t.update({Q_A.replace("layers.0", "layers.99"): torch.zeros(4, 64)}), "belongs to no Linear"),
        (lambda t: t.update({Q_A.replace("lora_A", "lora_magnitude_vector"): torch.zeros(4)}), "belongs to no Linear"),
        (lambda t: t.update({Q_A: torch.zeros(4, 63)}), "where [4, 64] fits"),
        (lambda t: t.update({Q_A: torch.zeros(4, 64, dtype=torch.int32)}), "I32 [4, 64]"),
        (lambda t: t[Q_A].view(-1).__setitem__(3, float("nan")), "not finite"),
        (lambda t: t[Q_A].view(-1).__setitem__(3, float("inf")), "not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    good: Path, base: Base, change: Callable[[dict[str, torch.Tensor]], object], reason: str
) -> None:
    retensor(good, change)
    assert reason in refusal(good, base)


def test_a_flipped_byte_is_found_by_the_manifest(good: Path, base: Base) -> None:
    adapter_format.seal(good, base)
    adapter_format.read(good, base, LIMITS)
    path = good / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    assert "adapter_model.safetensors are not those" in refusal(good, base)


def test_a_changed_configuration_is_found_by_the_manifest(good: Path, base: Base) -> None:
    adapter_format.seal(good, base)
    reconfigure(good, lora_alpha=4)
    assert "adapter_config.json are not those" in refusal(good, base)


def test_an_adapter_of_other_weights_of_the_same_shape_is_refused(good: Path, base: Base) -> None:
    other = Base(base.name, "0" * 64, base.layers, base.shapes)
    adapter_format.seal(good, other)
    assert "trained on other weights" in refusal(good, base)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_file_that_is_cut_off_is_refused(good: Path, base: Base, keep: int) -> None:
    path = good / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "cut off" in refusal(good, base) or "bytes where its header promises" in refusal(good, base)


def test_a_header_that_lies_about_sizes_is_refused(good: Path, base: Base) -> None:
    path = good / "adapter_model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header[Q_A]["shape"] = [100_000, 64]
    written = json.dumps(header).encode()
    path.write_bytes(len(written).to_bytes(8, "little") + written + content[8 + length :])
    assert "describes" in refusal(good, base)


@pytest.mark.parametrize("changes", [{"lora_alpha": 10**400}, {"layers_to_transform": [[0]]}])
def test_a_configuration_of_strange_values_is_refused(good: Path, base: Base, changes: dict[str, object]) -> None:
    reconfigure(good, **changes)
    assert "cannot be read: " in refusal(good, base)


def test_a_header_nested_without_end_is_refused(good: Path, base: Base) -> None:
    header = b"[" * 100_000
    (good / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "cannot be read: " in refusal(good, base)


def test_weights_over_the_budget_are_refused(good: Path, base: Base) -> None:
    assert "more than the limit of 1,000" in refusal(good, base, AdapterLimits(max_bytes=1_000))


@pytest.mark.parametrize("name", ["__base__", "Ansel", "a" * 65, "an sel", "ansel.old"])
def test_a_name_that_no_request_can_carry_is_refused(good: Path, base: Base, name: str) -> None:
    assert "folder's name" in refusal(good.rename(good.parent / name), base)


def test_pickled_weights_are_refused(good: Path, base: Base) -> None:
    (good / "adapter_model.safetensors").rename(good / "adapter_model.bin")
    assert "only safetensors is loaded" in refusal(good, base)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, "x" * 2_000_000])
def test_a_configuration_that_is_no_object_is_refused(good: Path, base: Base, content: str) -> None:
    (good / "adapter_config.json").write_text(content)
    assert "adapter_config.json" in refusal(good, base)


def test_a_configuration_that_is_missing_is_refused(good: Path, base: Base) -> None:
    (good / "adapter_config.json").unlink()
    assert refusal(good, base) == "it has no adapter_config.json"


def test_a_manifest_of_another_format_is_refused(good: Path, base: Base) -> None:
    (good / "manifest.json").write_text(json.dumps({"format": 2, "base": {}, "files": {}}))
    assert "format 1" in refusal(good, base)


def test_a_hub_name_and_a_folder_are_the_same_base(good: Path, base: Base) -> None:
    reconfigure(good, base_model_name_or_path=f"Someone/{base.name.upper()}")
    assert adapter_format.read(good, base, LIMITS).weights.rank == 4
    assert adapter_config("x")["base_model_name_or_path"] == "x"
