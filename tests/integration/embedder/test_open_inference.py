"""The Open Inference Protocol on a real server: our own stubs for every status, Triton's client for what it expects."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from inference import open_inference_pb2 as inference_pb2
from inference import open_inference_pb2_grpc as inference_pb2_grpc
from mondrian.embedder.v1 import embedder_pb2

from services.core.rpc.channels import channel_options
from services.core.rpc.server import RunningServer
from tests.integration.embedder.calls import Code, Service, image
from tests.integration.refusals import refused
from tests.pictures import encoded, photograph, picture

NAME = "inference.GRPCInferenceService"


class Served:
    """An embedder (at most 4 in a request, 4 waiting) and both clients."""

    def __init__(self, service: Service, channel: grpc.aio.Channel, address: str) -> None:
        self.service = service
        self.encoder = service.encoder
        self.channel = channel
        self.address = address
        self.stub: inference_pb2_grpc.GRPCInferenceServiceAsyncStub = inference_pb2_grpc.GRPCInferenceServiceStub(
            channel
        )

    async def infer(self, *contents: bytes, name: str = "fake", version: str = "") -> npt.NDArray[np.float32]:
        """Returns the embeddings of photographs, sent as bytes_contents."""
        request = inference_pb2.ModelInferRequest(model_name=name, model_version=version)
        tensor = request.inputs.add(name="image", datatype="BYTES", shape=[len(contents)])
        tensor.contents.bytes_contents.extend(contents)
        answer = await self.stub.ModelInfer(request, timeout=30)
        (output,) = answer.outputs
        return np.asarray(output.contents.fp32_contents, np.float32).reshape(output.shape)

    async def alone(self, content: bytes) -> Sequence[float]:
        """Returns the embedding of a photograph by our own contract."""
        return (await self.service.stub.Embed(embedder_pb2.EmbedRequest(image=image(content)))).embedding.values


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    service = Service(tmp_path)
    async with (
        RunningServer(service.component, service.settings) as server,
        grpc.aio.insecure_channel(server.address, options=channel_options()) as channel,
    ):
        service.connect(channel)
        # What the warm-up did is not counted.
        service.encoder.batches.clear()
        for done in (service.encoder.prepared, service.encoder.began, service.encoder.began):
            done.acquire()
        yield Served(service, channel, server.address)


async def test_the_embeddings_are_those_of_our_own_contract(served: Served) -> None:
    contents = [photograph(1), encoded(picture(2), "JPEG"), photograph(3), photograph(1)]
    rows = await served.infer(*contents)
    assert rows.shape == (4, 32)
    for content, row in zip(contents, rows, strict=True):
        assert list(row) == list(await served.alone(content))
    # One way in: what one contract has embedded, the other knows, and equal photographs are computed once.
    assert sum(served.encoder.batches) == 3


async def test_it_says_what_it_is(served: Served) -> None:
    assert (await served.stub.ServerLive(inference_pb2.ServerLiveRequest())).live
    assert (await served.stub.ServerReady(inference_pb2.ServerReadyRequest())).ready
    server = await served.stub.ServerMetadata(inference_pb2.ServerMetadataRequest())
    assert (server.name, list(server.extensions)) == ("mondrian-embedder", [])
    assert server.version
    space = served.encoder.space_id
    for name in ("fake", ""):
        model = await served.stub.ModelMetadata(inference_pb2.ModelMetadataRequest(name=name))
        assert (model.name, list(model.versions)) == ("fake", [space])
        (taken,), (given,) = model.inputs, model.outputs
        assert (taken.name, taken.datatype, list(taken.shape)) == ("image", "BYTES", [-1])
        assert (given.name, given.datatype, list(given.shape)) == ("embedding", "FP32", [-1, 32])
    ready = {
        (name, version): (
            await served.stub.ModelReady(inference_pb2.ModelReadyRequest(name=name, version=version))
        ).ready
        for name in ("fake", "resnet")
        for version in ("", space, "1")
    }
    assert {asked for asked, answer in ready.items() if answer} == {("fake", ""), ("fake", space)}


async def test_another_model_is_not_found(served: Served) -> None:
    for name, version in (("resnet", ""), ("", ""), ("fake", "1")):
        refusal = await refused(
            served.infer(photograph(1), name=name, version=version), Code.NOT_FOUND, "MODEL_NOT_FOUND"
        )
        assert "'fake'" in refusal.sentence
    await refused(
        served.stub.ModelMetadata(inference_pb2.ModelMetadataRequest(name="resnet")), Code.NOT_FOUND, "MODEL_NOT_FOUND"
    )
    assert (await served.infer(photograph(1), version=served.encoder.space_id)).shape == (1, 32)


async def test_each_fault_has_its_status_and_the_service_goes_on(served: Served) -> None:
    bad = Code.INVALID_ARGUMENT
    await refused(served.infer(b""), bad, "IMAGE_EMPTY")
    refusal = await refused(served.infer(photograph(1)[:200]), bad, "IMAGE_TRUNCATED")
    assert "Photograph" not in refusal.sentence
    refusal = await refused(served.infer(photograph(1), photograph(2), b"words"), bad, "IMAGE_UNDECODABLE")
    assert refusal.sentence.startswith("Photograph 3 of 3 cannot be used: ")
    refusal = await refused(served.infer(*[photograph(seed) for seed in range(5)]), bad, "INVALID_ARGUMENT")
    assert refusal.sentence == "The request has 5 photographs; send at most 4 at once."
    await refused(served.stub.ModelInfer(inference_pb2.ModelInferRequest(model_name="fake")), bad, "INVALID_ARGUMENT")
    assert (await served.infer(photograph(1))).shape == (1, 32)


async def test_when_full_the_whole_request_is_refused_and_what_it_began_is_given_up(served: Served) -> None:
    served.encoder.gate.clear()
    first = asyncio.create_task(served.infer(*[photograph(seed) for seed in range(4)]))
    # Its four permits are held once its first photographs are in the model.
    await asyncio.to_thread(served.encoder.began.acquire)
    second = asyncio.create_task(served.infer(*[photograph(seed) for seed in range(10, 13)]))
    for _ in range(7):
        await asyncio.to_thread(served.encoder.prepared.acquire)
    await refused(served.infer(*[photograph(seed) for seed in range(20, 24)]), Code.RESOURCE_EXHAUSTED, "OVERLOADED")
    served.encoder.gate.set()
    assert (await first).shape == (4, 32)
    assert (await second).shape == (3, 32)
    assert sum(served.encoder.batches) == 7


async def test_until_the_encoder_is_loaded_it_is_live_and_not_ready(tmp_path: Path) -> None:
    service = Service(tmp_path)
    server = RunningServer(service.component, service.settings)
    await server.listen()
    try:
        async with grpc.aio.insecure_channel(server.address) as channel:
            served = Served(service, channel, server.address)
            assert (await served.stub.ServerLive(inference_pb2.ServerLiveRequest())).live
            assert not (await served.stub.ServerReady(inference_pb2.ServerReadyRequest())).ready
            assert not (await served.stub.ModelReady(inference_pb2.ModelReadyRequest(name="fake"))).ready
            await refused(served.infer(photograph(1)), Code.UNAVAILABLE, "MODEL_LOADING")
            await refused(
                served.stub.ModelMetadata(inference_pb2.ModelMetadataRequest()), Code.UNAVAILABLE, "MODEL_LOADING"
            )
    finally:
        await server.stop()


async def test_health_and_reflection_name_it(served: Served) -> None:
    health = health_pb2_grpc.HealthStub(served.channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service=NAME))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(served.channel)
    requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
    async for found in reflection.ServerReflectionInfo(iter(requests)):
        assert NAME in {one.name for one in found.list_services_response.service}


TRITON = """
import json, sys
import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

address, *names = sys.argv[1:]
with triton.InferenceServerClient(address) as client:
    def infer(contents, shape=None, datatype="BYTES", model="fake", asked=None):
        tensor = triton.InferInput("image", shape or [len(contents)], datatype)
        tensor.set_data_from_numpy(np.array(contents, dtype=np.object_).reshape(shape or [len(contents)]))
        return client.infer(model, [tensor], request_id="9", outputs=asked)

    contents = [open(name, "rb").read() for name in names]
    one_by_one = [infer([content]).as_numpy("embedding")[0].tolist() for content in contents]
    answer = infer(contents, [len(contents), 1], asked=[triton.InferRequestedOutput("embedding")])
    together = answer.as_numpy("embedding")
    errors = []
    for wrong in (dict(contents=[b"words"]), dict(contents=contents, model="resnet"), dict(contents=contents * 3)):
        try:
            infer(**wrong)
        except InferenceServerException as error:
            errors.append([error.status(), error.message()])
    print(json.dumps({
        "ready": [client.is_server_live(), client.is_server_ready(), client.is_model_ready("fake"),
                  client.is_model_ready("resnet")],
        "server": client.get_server_metadata().name,
        "outputs": client.get_model_metadata("fake", as_json=True)["outputs"],
        "dtype": str(together.dtype),
        "id": answer.get_response().id,
        "one_by_one": one_by_one,
        "together": together.tolist(),
        "errors": errors,
    }))
"""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Returns a PNG and a JPEG."""
    paths = [tmp_path / "1.png", tmp_path / "2.jpg"]
    paths[0].write_bytes(photograph(1))
    paths[1].write_bytes(encoded(picture(2, (300, 200)), "JPEG"))
    return paths


async def test_the_client_of_triton_embeds_photographs(served: Served, files: list[Path]) -> None:
    """In a process of its own: its stubs define the names that ours define."""
    contents = [await asyncio.to_thread(path.read_bytes) for path in files]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", TRITON, served.address, *files, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    found = json.loads(printed)
    assert found["ready"] == [True, True, True, False]
    assert found["server"] == "mondrian-embedder"
    assert found["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": ["-1", "32"]}]
    assert (found["dtype"], found["id"]) == ("float32", "9")
    wanted = [list(await served.alone(content)) for content in contents]
    assert found["one_by_one"] == found["together"] == wanted
    assert [status for status, _ in found["errors"]] == [
        "StatusCode.INVALID_ARGUMENT",
        "StatusCode.NOT_FOUND",
        "StatusCode.INVALID_ARGUMENT",
    ]
    assert all(message.endswith(".") for _, message in found["errors"])
