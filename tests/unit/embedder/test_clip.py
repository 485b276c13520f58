"""The open_clip encoder: loads what is published, refuses the rest in one sentence, and computes as open_clip does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from services.core.errors import ConfigurationError
from services.embedder.clip import ClipEncoder, load_encoder
from services.embedder.encoder import encoder_id
from services.embedder.settings import EmbedderSettings
from tests.fakes.open_clip_folder import TINY, VIT_B_32, write_folder
from tests.pictures import picture


def load(folder: Path, **overrides: object) -> ClipEncoder:
    given = {"model_path": folder, "device": "cpu", "dtype": "float32", "torch_threads": 1, **overrides}
    return load_encoder(EmbedderSettings.load(**given))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ClipEncoder:
    return load(folder)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_it_says_what_it_is(encoder: ClipEncoder) -> None:
    assert (encoder.name, encoder.dimensions) == ("tiny", 64)
    assert encoder_id(encoder) == f"tiny@{encoder.space_id}"
    assert len(encoder.space_id) == 16


def test_embeddings_are_those_of_open_clip(encoder: ClipEncoder, folder: Path) -> None:
    import open_clip

    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    images = [picture(seed, (40, 40)) for seed in range(3)]
    texts = ["a ridge in morning light", "two trees", "x " * 200]
    with torch.inference_mode():
        wanted_images = model.encode_image(torch.stack([transform(one) for one in images]), normalize=True)
        wanted_texts = model.encode_text(tokenizer(texts), normalize=True)
    # Pixels may differ by a rounding.
    np.testing.assert_allclose(
        encoder.forward_images([encoder.pixels(one) for one in images]), wanted_images.numpy(), atol=1e-3
    )
    np.testing.assert_allclose(
        encoder.forward_texts([encoder.tokenize(one) for one in texts]), wanted_texts.numpy(), atol=1e-4
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_embeddings_have_unit_length_and_do_not_depend_on_the_batch(folder: Path, dtype: str) -> None:
    encoder = load(folder, dtype=dtype)
    pixels = [encoder.pixels(picture(seed)) for seed in range(9)]
    together = encoder.forward_images(pixels)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together.astype(np.float64), axis=1), 1.0, atol=1e-6)
    for one, vector in zip(pixels, together, strict=True):
        alone = encoder.forward_images([one])[0]
        assert float(alone @ vector) > (1 - 1e-5 if dtype == "float32" else 1 - 2e-3)


def test_bfloat16_is_another_space_and_nearly_the_same_direction(encoder: ClipEncoder, folder: Path) -> None:
    other = load(folder, dtype="bfloat16")
    assert other.space_id != encoder.space_id
    pixels = [encoder.pixels(picture(seed)) for seed in range(5)]
    cosines = (encoder.forward_images(pixels) * other.forward_images(pixels)).sum(axis=1)
    assert cosines.min() > 0.99


def test_the_space_follows_weights_and_preprocessing(encoder: ClipEncoder, copy: Path, tmp_path: Path) -> None:
    assert load(copy).space_id == encoder.space_id, "the place of the folder says nothing"
    config = json.loads((copy / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["resize_mode"] = "squash"
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    spaces = {encoder.space_id, load(copy).space_id, load(write_folder(tmp_path / "seed", seed=1)).space_id}
    assert len(spaces) == 3


def test_strangers_words_do_not_fill_the_memory(encoder: ClipEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.embedder.clip._MAX_REMEMBERED_WORDS", 10)
    for number in range(100):
        encoder.tokenize(f"zq{number}xv")
    assert len(encoder._tokenizer.cache) <= 12
    assert encoder.tokenize("a tree").shape == (77,)


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"does not exist; fetch .* `mondrian models pull`"):
        load(tmp_path / "nowhere", profile="full")
    with pytest.raises(ConfigurationError, match="make mini"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("missing", ["open_clip_config.json", "open_clip_model.safetensors"])
def test_a_missing_file_is_named(copy: Path, missing: str) -> None:
    (copy / missing).unlink()
    with pytest.raises(ConfigurationError, match=missing):
        load(copy, profile="full")


def test_a_pickle_is_never_opened(copy: Path) -> None:
    marker = copy / "opened"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (marker,)  # type: ignore[return-value]

    torch.save({"state_dict": Hostile()}, copy / "open_clip_pytorch_model.bin")
    weights = copy / "open_clip_model.safetensors"
    # With a published pickle beside it, the safetensors file is the one that is read, whatever its name.
    weights.rename(copy / "model.safetensors")
    load(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="a pickle, which is never loaded"):
        load(copy)
    assert not marker.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model_cfg": 3}'])
def test_a_broken_configuration_is_named(copy: Path, content: str) -> None:
    (copy / "open_clip_config.json").write_text(content)
    with pytest.raises(ConfigurationError, match=r"open_clip_config\.json"):
        load(copy)


def test_weights_that_do_not_fit_are_named(copy: Path) -> None:
    config = {"model_cfg": {**TINY, "embed_dim": 32}, "preprocess_cfg": {}}
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigurationError, match=r"open_clip_model\.safetensors does not fit"):
        load(copy)
    weights = copy / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ConfigurationError, match=r"open_clip_model\.safetensors does not fit"):
        load(copy)


def test_towers_of_other_libraries_are_refused(copy: Path) -> None:
    model = {**TINY, "text_cfg": {"hf_model_name": "bert-base-uncased"}}
    (copy / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    with pytest.raises(ConfigurationError, match="another library"):
        load(copy)


def test_vit_b_32_loads_as_it_is_published(tmp_path: Path) -> None:
    """The state dict of ViT-B-32 with random weights."""
    encoder = load(write_folder(tmp_path / "ViT-B-32", VIT_B_32), profile="full", dtype="auto")
    assert (encoder.name, encoder.dimensions) == ("ViT-B-32", 512)
    pixels = [encoder.pixels(picture(seed, (300, 260))) for seed in range(8)]
    assert pixels[0].shape == (224, 224, 3)
    vectors = encoder.forward_images(pixels)
    assert vectors.shape == (8, 512)
    assert encoder.forward_texts([encoder.tokenize("a mountain")]).shape == (1, 512)
