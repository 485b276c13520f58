"""A real open_clip folder behind the server."""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio
import pytest
from mondrian.embedder.v1 import embedder_pb2, embedder_pb2_grpc

from services.core.rpc.channels import channel_options
from services.core.rpc.server import running
from services.embedder.component import EmbedderComponent
from services.embedder.loading import load
from services.embedder.settings import EmbedderSettings
from tests.fakes.open_clip_folder import write_folder
from tests.integration.embedder.calls import image
from tests.pictures import advisor_folder, encoded, picture


@pytest.mark.parametrize("engine", ["torch", "openvino"])
async def test_a_real_open_clip_folder_is_served(tmp_path: Path, engine: str) -> None:
    """precompute by its command, then the server, both with the same folder of random weights."""
    from services.embedder import precompute as command

    model = write_folder(tmp_path / "model")
    folder = advisor_folder(tmp_path / "ansel", range(5))
    overrides = {"model_path": model, "dtype": "float32", "device": "cpu", "torch_threads": 1, "engine": engine}
    settings = EmbedderSettings.load(port=0, data_dir=tmp_path / "data", **overrides)
    arguments = ["--advisor-dir", str(folder), "--advisor-id", "ansel", "--data-dir", str(settings.data_dir), "--quiet"]
    assert command.run(arguments, make_encoder=lambda _: load(settings)) == 0
    async with (
        running(EmbedderComponent(settings), settings) as address,
        grpc.aio.insecure_channel(address, options=channel_options()) as channel,
    ):
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        brighter = picture(3).point(lambda value: min(255, round(value * 1.02)))
        request = embedder_pb2.SearchReferencesRequest(advisor="ansel", image=image(encoded(brighter)))
        response = await stub.SearchReferences(request)
        assert not response.cached
        assert response.neighbors[0].reference.file_name == "003.png"
        assert response.neighbors[0].similarity > 0.99
        by_text = await stub.SearchReferences(embedder_pb2.SearchReferencesRequest(text="a ridge", top_k=5))
        assert len(by_text.neighbors) == 5
