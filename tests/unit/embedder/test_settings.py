"""Where the encoder and the releases are, and what may be set."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.core.errors import ConfigurationError
from services.core.images.reading import ImageLimits
from services.core.settings import MINI_DIR
from services.embedder.settings import EmbedderSettings


def test_the_profile_names_the_encoder_and_a_path_overrides_it() -> None:
    assert EmbedderSettings.load().encoder_folder == MINI_DIR / "models" / "clip"
    full = EmbedderSettings.load(profile="full", models_dir=Path("/models"))
    assert full.encoder_folder == Path("/models/ViT-B-32")
    assert EmbedderSettings.load(model_path=Path("/x/y")).encoder_folder == Path("/x/y")


def test_releases_lie_beside_those_of_other_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONDRIAN_DATA_DIR", "/data")
    assert EmbedderSettings.load().releases_root == Path("/data/embedder")
    monkeypatch.setenv("MONDRIAN_EMBEDDER_DATA_DIR", "/own")
    assert EmbedderSettings.load().releases_root == Path("/own/embedder")


def test_limits_of_photographs_follow_the_settings() -> None:
    limits = ImageLimits.of(EmbedderSettings.load(max_image_bytes="2MiB", max_image_pixels=1000))
    assert (limits.max_bytes, limits.max_pixels) == (2 * 1024 * 1024, 1000)


def test_an_engine_that_is_not_installed_names_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert EmbedderSettings.load().engine == "torch"
    monkeypatch.setenv("MONDRIAN_EMBEDDER_ENGINE", "openvino")
    with pytest.raises(ConfigurationError, match=r"MONDRIAN_EMBEDDER_ENGINE: .*pip install .*\.\[embedder-cpu\]"):
        EmbedderSettings.load()


def test_exports_are_kept_beside_the_releases_unless_told_otherwise() -> None:
    assert EmbedderSettings.load(data_dir=Path("/data")).engine_cache == Path("/data/engines")
    assert EmbedderSettings.load(engine_cache_dir=Path("/cache")).engine_cache == Path("/cache")


def test_a_value_out_of_range_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONDRIAN_EMBEDDER_POLL_S", "0")
    with pytest.raises(ConfigurationError, match="MONDRIAN_EMBEDDER_POLL_S"):
        EmbedderSettings.load()
