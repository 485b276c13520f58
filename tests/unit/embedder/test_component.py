"""A start that does not come to its end gives back what it has begun."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from services.core.errors import ConfigurationError
from services.embedder.component import EmbedderComponent
from services.embedder.settings import EmbedderSettings
from tests.fakes.encoder import FakeEncoder


def batchers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "batcher-encoder"}


async def test_a_warm_up_that_fails_leaves_no_thread_behind(tmp_path: Path) -> None:
    before, encoder = batchers(), FakeEncoder()
    encoder.failure = ConfigurationError("The device is gone.")
    with pytest.raises(ConfigurationError, match="device is gone"):
        await EmbedderComponent(EmbedderSettings.load(data_dir=tmp_path), lambda settings: encoder).start()
    assert batchers() == before


async def test_a_start_that_is_given_up_leaves_no_thread_behind(tmp_path: Path) -> None:
    before, encoder = batchers(), FakeEncoder()
    encoder.gate.clear()
    component = EmbedderComponent(EmbedderSettings.load(data_dir=tmp_path), lambda settings: encoder)
    loading = asyncio.create_task(component.start())
    await asyncio.to_thread(encoder.began.acquire)
    loading.cancel()
    encoder.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert batchers() == before
