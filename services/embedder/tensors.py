"""Tensors of the Open Inference Protocol: photographs that come in, embeddings that go out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from inference import open_inference_pb2 as inference_pb2

from services.core.errors import InvalidArgument
from services.embedder.encoder import Vector

INPUT: Final = "image"
OUTPUT: Final = "embedding"
# Each asks for another way of passing a tensor, or for another answer: to ignore it would be to answer wrongly.
_REFUSED: Final = ("shared_memory_", "classification")
_LENGTH_BYTES: Final = 4

Request = inference_pb2.ModelInferRequest
Metadata = inference_pb2.ModelMetadataResponse.TensorMetadata


def input_metadata() -> Metadata:
    """Returns what goes in: any number of whole files."""
    return Metadata(name=INPUT, datatype="BYTES", shape=[-1])


def output_metadata(dimensions: int) -> Metadata:
    """Returns what comes out: one row a photograph."""
    return Metadata(name=OUTPUT, datatype="FP32", shape=[-1, dimensions])


def photographs(request: Request, at_most: int) -> Sequence[bytes]:
    """Returns the encoded photographs of a request, 1 to `at_most`, in its order.

    Raises:
        InvalidArgument: the tensors are not those of `input_metadata` and `output_metadata`, or there are too many.
    """
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
        names = ", ".join(repr(one.name[:40]) for one in request.inputs[:4]) or "none"
        raise InvalidArgument(f'The inputs are {names}; send one tensor named "{INPUT}".', field="inputs")
    tensor = request.inputs[0]
    if tensor.datatype != "BYTES":
        raise InvalidArgument(
            f"The datatype of {INPUT} is {tensor.datatype[:40]!r}; send BYTES, each element a whole file.",
            field="inputs.datatype",
        )
    _refuse(tensor.parameters, "inputs.parameters")
    for wanted in request.outputs:
        if wanted.name != OUTPUT:
            raise InvalidArgument(
                f'There is no output {wanted.name[:40]!r}; ask for "{OUTPUT}", or for none to get it.', field="outputs"
            )
        _refuse(wanted.parameters, "outputs.parameters")
    count = _count(tensor.shape, at_most)
    contents = _contents(request, count)
    if len(contents) != count:
        meant = f"{count} photograph{'s' if count > 1 else ''}"
        came = "more" if len(contents) > count else f"{len(contents)}"
        raise InvalidArgument(
            f"The shape {list(tensor.shape)} of {INPUT} means {meant}, and {came} came.",
            field="inputs.shape",
        )
    return contents


def response(request: Request, name: str, version: str, vectors: Sequence[Vector]) -> inference_pb2.ModelInferResponse:
    """Returns the answer with one row a vector, in the form (raw or not) in which the request came."""
    rows = np.stack(vectors)
    answer = inference_pb2.ModelInferResponse(model_name=name, model_version=version, id=request.id)
    tensor = answer.outputs.add(name=OUTPUT, datatype="FP32", shape=rows.shape)
    if request.raw_input_contents:
        answer.raw_output_contents.append(rows.astype("<f4").tobytes())
    else:
        tensor.contents.fp32_contents.extend(rows.reshape(-1).tolist())
    return answer


def _refuse(parameters: Iterable[str], field: str) -> None:
    for name in parameters:
        if name.startswith(_REFUSED):
            raise InvalidArgument(
                f"The parameter {name[:40]!r} is not served here; send the photographs in the request.", field=field
            )


def _count(shape: Sequence[int], at_most: int) -> int:
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1) or shape[0] < 1:
        raise InvalidArgument(
            f"The shape of {INPUT} is {list(shape[:8])}; send [n] or [n, 1] for n photographs.", field="inputs.shape"
        )
    if shape[0] > at_most:
        raise InvalidArgument(
            f"The request has {shape[0]:,} photographs; send at most {at_most} at once.", field="inputs.shape"
        )
    return shape[0]


def _contents(request: Request, count: int) -> Sequence[bytes]:
    """Returns the elements of the tensor; of raw contents at most one more than `count`."""
    tensor = request.inputs[0]
    if not request.raw_input_contents:
        return tensor.contents.bytes_contents
    if len(request.raw_input_contents) != 1 or tensor.HasField("contents"):
        raise InvalidArgument(
            "Send the photographs once: in contents.bytes_contents, or as the one string of raw_input_contents.",
            field="raw_input_contents",
        )
    raw = request.raw_input_contents[0]
    found: list[bytes] = []
    place = 0
    while place < len(raw) and len(found) <= count:
        begin = place + _LENGTH_BYTES
        place = begin + int.from_bytes(raw[place:begin], "little")
        if begin > len(raw) or place > len(raw):
            raise InvalidArgument(
                "raw_input_contents ends in the middle of a photograph; put the length of each in four bytes, "
                "little-endian first, before it.",
                field="raw_input_contents",
            )
        found.append(raw[begin:place])
    return found
