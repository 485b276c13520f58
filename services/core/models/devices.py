"""The device and the arithmetic of a model. torch is imported when called: gateway and command line never do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from services.core.errors import ConfigurationError, DeviceMemory
from services.core.settings import ModelSettings, available_cpus

if TYPE_CHECKING:
    import torch


def choose_device(setting: str) -> torch.device:
    """Returns the device that a setting names (`auto`, `cpu`, `cuda`, `cuda:N`).

    Raises:
        ConfigurationError: a GPU is named and is not there.
    """
    import torch

    if setting == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device("cuda:0" if setting == "cuda" else setting)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise ConfigurationError(
            f"The device is set to {setting}, but the GPUs that torch sees are {seen}: give this process a GPU, "
            "install a CUDA build of torch, or set the device to cpu."
        )
    return device


def choose_dtype(setting: str, device: torch.device) -> torch.dtype:
    """Returns the dtype that a setting names; `auto` is bfloat16 where the device computes in it, else float32."""
    import torch

    if setting != "auto":
        return torch.bfloat16 if setting == "bfloat16" else torch.float32
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else cpu_has_bfloat16()
    return torch.bfloat16 if native else torch.float32


def cpu_has_bfloat16() -> bool:
    """Returns whether the CPU multiplies bfloat16 itself (avx512_bf16, AMX or Arm bf16); emulation would be slower."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(f" {flag}" in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def prepare_device(settings: ModelSettings) -> tuple[torch.device, torch.dtype]:
    """Returns device and dtype after applying the thread count and the memory share of the settings.

    Raises:
        ConfigurationError: the device is not there.
    """
    import torch

    device = choose_device(settings.device)
    torch.set_num_threads(settings.torch_threads or available_cpus())
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(settings.device_memory_fraction, device)
    return device, choose_dtype(settings.dtype, device)


@contextmanager
def device_memory_guard() -> Iterator[None]:
    """Turns the device's out-of-memory error into DeviceMemory, after giving cached blocks back."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise DeviceMemory(
            "The device has too little free memory for this request: try again, or send a smaller one."
        ) from error
