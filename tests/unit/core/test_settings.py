"""Settings come from the environment, the service's own before the common ones, and are explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.core import settings
from services.core.devices import choose_device
from services.core.errors import ConfigurationError


class ToySettings(settings.ModelSettings):
    model_config = settings.service_config("MONDRIAN_TOY_")


def test_the_service_s_own_variable_wins_over_the_common_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONDRIAN_DATA_DIR", "/common")
    assert ToySettings.load().data_dir == Path("/common")
    monkeypatch.setenv("MONDRIAN_TOY_DATA_DIR", "/own")
    assert ToySettings.load().data_dir == Path("/own")
    assert ToySettings.load(data_dir=Path("/given")).data_dir == Path("/given")


def test_a_value_out_of_range_is_a_sentence_that_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONDRIAN_TOY_MAX_BATCH", "none")
    with pytest.raises(ConfigurationError, match="MONDRIAN_TOY_MAX_BATCH"):
        ToySettings.load()


@pytest.mark.parametrize("kind", [settings.CommonSettings, settings.ServiceSettings, settings.ModelSettings])
def test_every_setting_has_its_sentence(kind: type[settings.CommonSettings]) -> None:
    for name, field in kind.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("[::1]", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback_is_told_from_the_world(host: str, loopback: bool) -> None:
    assert settings.is_loopback(host) is loopback


def test_at_least_one_cpu_is_available() -> None:
    assert settings.available_cpus() >= 1


def test_a_gpu_that_is_not_there_is_a_sentence() -> None:
    import torch

    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ConfigurationError, match="torch sees"):
        choose_device(f"cuda:{torch.cuda.device_count()}")
