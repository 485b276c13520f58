"""What the model's device must hold, computed before it is allocated."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import torch

from services.core.errors import ConfigurationError
from services.critic.kv import pool_bytes
from services.critic.model import VisionLanguageModel
from services.critic.writer import EngineOptions

log = logging.getLogger("mondrian.critic")


def fit(model: VisionLanguageModel, options: EngineOptions, adapter_bytes: int) -> EngineOptions:
    """Returns the options with a slot no longer than the model's own reach, and logs what the device will hold.

    `adapter_bytes` is what adapters may take. Raises `ConfigurationError` when the slots (on a GPU: slots,
    adapters and photographs) do not fit beside the weights that are loaded already.
    """
    config = model.network.config.text_config
    options = dataclasses.replace(options, max_tokens=min(options.max_tokens, config.max_position_embeddings))
    slots = pool_bytes(
        layers=config.num_hidden_layers,
        slots=options.slots,
        kv_heads=config.num_key_value_heads,
        max_tokens=options.max_tokens,
        head_dim=config.head_dim,
        dtype=model.dtype,
    )
    weights = sum(p.numel() * p.element_size() for p in model.network.parameters())
    free = _free_bytes(model.device)
    log.info(
        "memory on %s: weights %s, %d slots of %d tokens %s, adapters up to %s, photographs up to %s; free before "
        "the slots: %s",
        model.device, _size(weights), options.slots, options.max_tokens, _size(slots), _size(adapter_bytes),
        _size(options.vision_cache_bytes), "unknown" if free is None else _size(free),
    )  # fmt: skip
    # A CPU's memory is shared and grows with what is used; a GPU's must be there for all that may come. Adapters count
    # twice: where one more does not fit into a slot, all are stacked anew beside what there was.
    needed = slots + (2 * adapter_bytes + options.vision_cache_bytes if model.device.type == "cuda" else 0)
    if free is not None and needed > free:
        raise ConfigurationError(
            f"{options.slots} slots of {options.max_tokens:,} tokens take {_size(slots)}, adapters up to twice "
            f"{_size(adapter_bytes)} and photographs up to {_size(options.vision_cache_bytes)}, and {model.device} has "
            f"{_size(free)} left: lower MONDRIAN_CRITIC_MAX_BATCH, MONDRIAN_CRITIC_MAX_CONTEXT_TOKENS, "
            "MONDRIAN_CRITIC_ADAPTERS_MAX_BYTES or MONDRIAN_CRITIC_VISION_CACHE_BYTES."
        )
    return options


def _free_bytes(device: torch.device) -> int | None:
    """Returns the memory that can still be allocated on a device, None where it cannot be told."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        allocated = torch.cuda.memory_allocated(device)
        # What torch holds and does not use counts as free; the process's share of the device is a limit of its own.
        share = torch.cuda.get_per_process_memory_fraction(device) * total
        return int(min(free + torch.cuda.memory_reserved(device) - allocated, share - allocated))
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def _size(count: int) -> str:
    return f"{count / 1024**3:.2f} GiB" if count >= 1024**3 else f"{count / 1024**2:.1f} MiB"
