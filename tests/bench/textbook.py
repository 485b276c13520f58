"""The server that a textbook would write around the same model, for comparison: grpcio threads, open_clip's own
preprocessing, float32, one photograph at a time. `python -m tests.bench.textbook --model FOLDER --port N`."""

from __future__ import annotations

import argparse
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from mondrian.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from mondrian.types.v1 import types_pb2
from PIL import Image

from services.core.models import torchvision_shim
from services.core.settings import available_cpus


class Textbook(embedder_pb2_grpc.EmbedderServiceServicer):
    """Answers Embed alone."""

    def __init__(self, folder: Path) -> None:
        torchvision_shim.install()
        import open_clip

        self._model, self._transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
        self._model.eval()

    def Embed(self, request: embedder_pb2.EmbedRequest, context: Any) -> embedder_pb2.EmbedResponse:
        """Returns the embedding of a photograph."""
        image = Image.open(io.BytesIO(request.image.content))
        with torch.no_grad():
            vector = self._model.encode_image(self._transform(image)[None], normalize=True)[0]
        return embedder_pb2.EmbedResponse(embedding=types_pb2.Embedding(values=vector.tolist()))


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(description="A textbook server.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(available_cpus())
    server = grpc.server(ThreadPoolExecutor(10), options=[("grpc.max_receive_message_length", 16 * 1024 * 1024)])
    # The other rpcs answer UNIMPLEMENTED.
    servicer = Textbook(options.model)  # type: ignore[abstract]
    embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(servicer, server)
    status = health.HealthServicer()
    status.set("mondrian.embedder.v1.EmbedderService", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    server.add_insecure_port(f"127.0.0.1:{options.port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
