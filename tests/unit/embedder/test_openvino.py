"""The image tower on OpenVINO: torch's embeddings in a space of its own, checked, refused where they differ."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY

from services.core.errors import ConfigurationError
from services.embedder import openvino_encoder
from services.embedder.clip import ClipEncoder, load_encoder
from services.embedder.loading import load
from services.embedder.openvino_encoder import OpenVinoEncoder, load_openvino, space_of
from services.embedder.settings import EmbedderSettings
from tests.pictures import picture


def clip(dtype: str) -> ClipEncoder:
    return load_encoder(EmbedderSettings.load(device="cpu", dtype=dtype, torch_threads=1))


@pytest.fixture(scope="module")
def torch_encoder() -> ClipEncoder:
    return clip("float32")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def encoder(torch_encoder: ClipEncoder, cache: Path) -> OpenVinoEncoder:
    return load_openvino(torch_encoder, cache, 1)


def forbidden(clip: ClipEncoder) -> Any:
    raise AssertionError("exported again")


def test_embeddings_are_those_of_torch(encoder: OpenVinoEncoder, torch_encoder: ClipEncoder) -> None:
    pixels = [encoder.pixels(picture(seed, (90, 70))) for seed in range(9)]
    rows = encoder.forward_images(pixels)
    assert rows.dtype == np.float32
    assert rows.shape == (9, 512)
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(rows, torch_encoder.forward_images(pixels), atol=2e-3)
    for one, row in zip(pixels, rows, strict=True):
        np.testing.assert_allclose(encoder.forward_images([one])[0], row, atol=2e-3)
    tokens = [encoder.tokenize("a ridge at dawn")]
    np.testing.assert_array_equal(encoder.forward_texts(tokens), torch_encoder.forward_texts(tokens))


def test_bfloat16_keeps_the_bound_too(tmp_path: Path) -> None:
    """Emulated where the hardware has none."""
    rounded = clip("bfloat16")
    encoder = load_openvino(rounded, tmp_path, 1)
    assert encoder.space_id not in {rounded.space_id, space_of(clip("float32"))}


def test_it_is_a_space_of_its_own(encoder: OpenVinoEncoder, torch_encoder: ClipEncoder) -> None:
    assert (encoder.name, encoder.dimensions) == (torch_encoder.name, torch_encoder.dimensions)
    assert encoder.space_id == space_of(torch_encoder) != torch_encoder.space_id
    assert len(encoder.space_id) == 16


def test_the_fidelity_is_logged_and_a_metric(
    torch_encoder: ClipEncoder, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "mondrian.encoder"):
        load_openvino(torch_encoder, cache, 1)
    assert "on OpenVINO; against torch: cosine " in caplog.text
    for name in ("cosine", "centred_cosine", "nearest"):
        value = REGISTRY.get_sample_value("mondrian_embedder_engine_fidelity", {"measure": name})
        assert value is not None
        assert 0.97 < value <= 1.0001


def test_an_export_is_kept_and_read_again(
    encoder: OpenVinoEncoder, torch_encoder: ClipEncoder, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [path.name for path in cache.iterdir()] == [encoder.space_id]
    monkeypatch.setattr(openvino_encoder, "export", forbidden)
    assert load_openvino(torch_encoder, cache, 1).space_id == encoder.space_id


@pytest.mark.parametrize(
    "fault", ["no weights", "cut weights", "other weights", "no description", "half a description"]
)
def test_a_damaged_export_is_made_again(
    torch_encoder: ClipEncoder, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_openvino(torch_encoder, tmp_path, 1)
    (described,) = tmp_path.glob("*/*.xml")
    weights = described.with_suffix(".bin")
    match fault:
        case "no weights":
            weights.unlink()
        case "cut weights":
            weights.write_bytes(weights.read_bytes()[:1000])
        case "other weights":
            noise = np.random.default_rng(0).normal(0, 0.05, weights.stat().st_size // 4).astype(np.float32)
            weights.write_bytes(noise.tobytes())
        case "no description":
            described.write_bytes(b"")
        case _:
            described.write_bytes(described.read_bytes()[: described.stat().st_size // 2])
    load_openvino(torch_encoder, tmp_path, 1)
    monkeypatch.setattr(openvino_encoder, "export", forbidden)
    load_openvino(torch_encoder, tmp_path, 1)


def test_where_nothing_can_be_kept_it_serves_all_the_same(
    torch_encoder: ClipEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    assert load_openvino(torch_encoder, blocked / "engines", 1).dimensions == 512
    assert "cannot be kept" in caplog.text


def test_an_engine_that_changes_the_embeddings_is_refused(
    torch_encoder: ClipEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = torch_encoder.image_tower

    def coarse() -> torch.nn.Module:
        """Returns the tower with its weights rounded to 4 bits, as a careless quantisation would."""
        tower = exact()
        for weight in tower.parameters():
            step = weight.detach().abs().max() / 7
            weight.data = (weight.data / step).round() * step
        return tower

    monkeypatch.setattr(torch_encoder, "image_tower", coarse)
    with pytest.raises(
        ConfigurationError, match=r"mini-clip: .*centred cosine 0\.\d+ \(at least 0\.998\).*ENGINE=torch"
    ):
        load_openvino(torch_encoder, tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_is_refused(torch_encoder: ClipEncoder, tmp_path: Path) -> None:
    elsewhere = copy.copy(torch_encoder)
    elsewhere.device = torch.device("cuda:0")
    with pytest.raises(ConfigurationError, match="for CPUs, and the model is on cuda:0"):
        load_openvino(elsewhere, tmp_path, 1)


def test_the_setting_chooses_and_nothing_is_told_to_the_makers(tmp_path: Path) -> None:
    given = {"device": "cpu", "torch_threads": 1, "data_dir": tmp_path}
    assert isinstance(load(EmbedderSettings.load(**given)), ClipEncoder)
    assert isinstance(load(EmbedderSettings.load(**given, engine="openvino")), OpenVinoEncoder)
    assert len(list((tmp_path / "engines").iterdir())) == 1
    assert "openvino_telemetry" not in sys.modules
