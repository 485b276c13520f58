"""What the tests of the critic over the wire ask, and of which server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mondrian.critic.v1 import critic_pb2
from mondrian.types.v1 import types_pb2

from services.core.rpc.server import RunningServer
from services.critic import adapter_format
from services.critic.adapter_format import Base
from services.critic.component import CriticComponent
from services.critic.settings import CriticSettings
from services.critic.slots import SlotEngine
from tests.fakes.critic import photograph, random_adapter
from tests.pictures import encoded

in_one_loop = pytest.mark.asyncio(loop_scope="module")
"""Marks a test that runs in the event loop of its module, as the server does."""


def jpeg(seed: int = 0, size: tuple[int, int] = (64, 48)) -> bytes:
    return encoded(photograph(*size, seed), "JPEG", quality=90)


def settings_of(folder: Path, base: Base, adapters: Path) -> CriticSettings:
    """A critic of two slots, with a good adapter `ansel` and a bad one `okeefe`."""
    adapter_format.seal(random_adapter(adapters / "ansel", base, seed=1), base)
    random_adapter(adapters / "okeefe", base, seed=2, r=100_000)
    return CriticSettings(
        port=0, device="cpu", torch_threads=1, model_path=folder, adapters_dir=adapters, adapters_poll_s=0.02,
        max_batch=2, max_queue=2, max_context_tokens=4096, max_tokens=4000, max_image_tokens=32, drain_s=0,
        preparing_threads=1, default_timeout_s=1200.0,
    )  # fmt: skip


def request_of(advisor: str = "", max_tokens: int = 12, seed: int = 0, **fields: Any) -> critic_pb2.CritiqueRequest:
    config = critic_pb2.GenerationConfig(max_tokens=max_tokens)
    return critic_pb2.CritiqueRequest(
        image=types_pb2.Image(content=jpeg(seed)), advisor=advisor, generation_config=config, **fields
    )


def endless() -> critic_pb2.StreamCritiqueRequest:
    """A request that writes thousands of tokens."""
    return critic_pb2.StreamCritiqueRequest(request=request_of(max_tokens=4000))


def engine_of(server: RunningServer) -> SlotEngine:
    component = server.component
    assert isinstance(component, CriticComponent)
    engine = component.critiques().engine
    assert isinstance(engine, SlotEngine)
    return engine
