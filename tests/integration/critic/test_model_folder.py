"""The folder of the model: as it is published, and damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from services.core.errors import ConfigurationError
from services.critic import checkpoint, prompts
from services.critic import model as models
from services.critic.adapter_format import Base
from services.critic.loading import load_model
from services.critic.settings import CriticSettings
from tests.fakes.critic import critique_messages, tiny_model_folder


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
    messages = critique_messages("What is strong?")
    rendered = model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
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
