"""Settings come from the environment, the service's own before the common ones, and are explained."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.core import settings
from services.core.errors import ConfigurationError
from services.core.models import devices
from services.core.models.devices import choose_device
from services.gateway.settings import GatewaySettings


class ToySettings(settings.ModelSettings):
    model_config = settings.read_from("MONDRIAN_TOY_")


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


def test_every_setting_has_its_sentence() -> None:
    for name, field in settings.ReferenceSettings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


@pytest.mark.parametrize("value", ["inf", "1e12", "nan"])
@pytest.mark.parametrize("name", ["MAX_CONNECTION_AGE_S", "CONNECT_S", "CLIP_DEADLINE_S"])
def test_no_number_of_seconds_is_beyond_reach(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"MONDRIAN_GATEWAY_{name}", value)
    with pytest.raises(ConfigurationError, match=f"MONDRIAN_GATEWAY_{name}: "):
        GatewaySettings.load()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("[::1]", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback_is_told_from_the_world(host: str, loopback: bool) -> None:
    assert settings.is_loopback(host) is loopback


def test_at_least_one_cpu_is_available() -> None:
    assert settings.available_cpus() >= 1


def cgroup(root: Path, limits: dict[str, str], own: str) -> list[int]:
    """Returns the quotas found below `root` with these files, for a process whose cgroup file says `own`."""
    for name, content in limits.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (root / "own").write_text(own)
    return sorted(settings.quotas(root, root / "own"))


@pytest.mark.parametrize(
    ("limits", "own", "expected"),
    [
        ({"cpu.max": "max 100000\n"}, "0::/\n", []),
        ({"cpu.max": "200000 100000\n"}, "0::/\n", [2]),
        ({"cpu.max": "150000 100000\n"}, "0::/\n", [2]),
        ({"cpu.max": "5000 100000\n"}, "0::/\n", [1]),
        # A service of the host: its own quota and its slice's.
        ({"a.slice/cpu.max": "400000 100000\n", "a.slice/b/cpu.max": "max 100000\n"}, "0::/a.slice/b\n", [4]),
        # A container that sees its own cgroup at the top and its path from the host's.
        ({"cpu.max": "300000 100000\n"}, "0::/kubepods/pod1\n", [3]),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "1:cpu:/\n", [3]),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "1:cpu:/\n", []),
        ({"cpu.max": "nonsense\n"}, "0::/\n", []),
        ({"cpu.max": "1000 0\n"}, "0::/../../etc\n", []),
        ({}, "", []),
    ],
)
def test_the_cgroups_quota_is_found(tmp_path: Path, limits: dict[str, str], own: str, expected: list[int]) -> None:
    assert cgroup(tmp_path, limits, own) == expected


def test_threads_follow_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(settings, "quotas", lambda: [5, 3])
    assert settings.available_cpus() == 3
    before = torch.get_num_threads()
    try:
        devices.prepare_device(settings.ModelSettings.load(device="cpu"))
        assert torch.get_num_threads() == 3
        devices.prepare_device(settings.ModelSettings.load(device="cpu", torch_threads=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_gpu_that_is_not_there_is_a_sentence() -> None:
    import torch

    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ConfigurationError, match="that torch sees are"):
        choose_device(f"cuda:{torch.cuda.device_count()}")
