"""Tensors of the Open Inference Protocol: what fits is read in either form, the rest refused in one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from inference import open_inference_pb2 as inference_pb2

from services.core.errors import InvalidArgument
from services.embedder import tensors

FILES = (b"first file", b"", b"\0second\xff" * 100)


def raw(*files: bytes) -> bytes:
    """Returns files as Triton's clients send them: the length of each before it."""
    return b"".join(len(one).to_bytes(4, "little") + one for one in files)


def request(
    files: tuple[bytes, ...] = FILES, *, shape: tuple[int, ...] | None = None, **changes: Any
) -> inference_pb2.ModelInferRequest:
    """Returns a request with the files in bytes_contents, and what `changes` change of its tensor."""
    made = inference_pb2.ModelInferRequest(model_name="m", id="7")
    given = {"name": "image", "datatype": "BYTES", "shape": (len(files),) if shape is None else shape, **changes}
    made.inputs.add(**given).contents.bytes_contents.extend(files)
    return made


def raw_request(content: bytes, shape: tuple[int, ...] = (3,)) -> inference_pb2.ModelInferRequest:
    """Returns a request with this content in raw_input_contents."""
    made = inference_pb2.ModelInferRequest(model_name="m", raw_input_contents=[content])
    made.inputs.add(name="image", datatype="BYTES", shape=shape)
    return made


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_both_forms_and_both_shapes_are_read(shape: tuple[int, ...]) -> None:
    assert tuple(tensors.photographs(request(shape=shape), 3)) == FILES
    assert tuple(tensors.photographs(raw_request(raw(*FILES), shape), 3)) == FILES


def with_output(name: str, parameter: str = "") -> inference_pb2.ModelInferRequest:
    made = request()
    output = made.outputs.add(name=name)
    if parameter:
        output.parameters[parameter].int64_param = 1
    return made


def with_parameter(name: str) -> inference_pb2.ModelInferRequest:
    made = request()
    made.inputs[0].parameters[name].string_param = "x"
    return made


def twice() -> inference_pb2.ModelInferRequest:
    made = request()
    made.raw_input_contents.append(raw(*FILES))
    return made


def two_inputs() -> inference_pb2.ModelInferRequest:
    made = request()
    made.inputs.add().CopyFrom(made.inputs[0])
    return made


def two_raws() -> inference_pb2.ModelInferRequest:
    made = raw_request(raw(*FILES))
    made.raw_input_contents.append(raw(*FILES))
    return made


WRONG = {
    "no input": (inference_pb2.ModelInferRequest(), "inputs"),
    "two inputs": (two_inputs(), "inputs"),
    "another name": (request(name="pixels"), "inputs"),
    "another datatype": (request(datatype="FP32"), "inputs.datatype"),
    "a scalar": (request(shape=()), "inputs.shape"),
    "none": (request((), shape=(0,)), "inputs.shape"),
    "any": (request(shape=(-1,)), "inputs.shape"),
    "a matrix": (request(shape=(1, 3)), "inputs.shape"),
    "three dimensions": (request(shape=(3, 1, 1)), "inputs.shape"),
    "more than came": (request(shape=(4,)), "inputs.shape"),
    "fewer than came": (request(shape=(2,)), "inputs.shape"),
    "more than came, raw": (raw_request(raw(*FILES), (4,)), "inputs.shape"),
    "fewer than came, raw": (raw_request(raw(*FILES), (2,)), "inputs.shape"),
    "too many": (request(FILES * 2), "inputs.shape"),
    "nothing came": (raw_request(b""), "inputs.shape"),
    "a length alone": (raw_request(raw(*FILES[:2]) + b"\5\0"), "raw_input_contents"),
    "a file without its end": (raw_request(raw(*FILES)[:-1]), "raw_input_contents"),
    "an endless file": (raw_request(b"\xff\xff\xff\xffx", (1,)), "raw_input_contents"),
    "a bare file": (raw_request(b"\xff\xd8\xff\xe0 a JPEG", (1,)), "raw_input_contents"),
    "both forms": (twice(), "raw_input_contents"),
    "two raw tensors": (two_raws(), "raw_input_contents"),
    "another output": (with_output("logits"), "outputs"),
    "a classification": (with_output("embedding", "classification"), "outputs.parameters"),
    "an output in shared memory": (with_output("embedding", "shared_memory_region"), "outputs.parameters"),
    "an input in shared memory": (with_parameter("shared_memory_byte_size"), "inputs.parameters"),
}


@pytest.mark.parametrize(("wrong", "field"), WRONG.values(), ids=WRONG.keys())
def test_what_does_not_fit_is_refused_in_one_sentence(wrong: inference_pb2.ModelInferRequest, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        tensors.photographs(wrong, 5)
    assert refused.value.field == field
    assert refused.value.message.endswith(".")
    assert len(refused.value.message) < 250


@pytest.mark.parametrize(
    "wrong", [request(shape=(1,)), raw_request(raw(*FILES), (1,)), raw_request(raw(*FILES[:2]), (1,))]
)
def test_no_number_is_told_that_was_not_counted(wrong: inference_pb2.ModelInferRequest) -> None:
    with pytest.raises(InvalidArgument, match="means 1 photograph, and more came"):
        tensors.photographs(wrong, 5)


def test_long_names_are_not_repeated_in_full() -> None:
    with pytest.raises(InvalidArgument) as refused:
        tensors.photographs(request(name="x" * 10_000), 5)
    assert len(refused.value.message) < 150


def test_the_answer_has_the_form_of_the_request() -> None:
    vectors = [np.arange(4, dtype=np.float32) + row for row in range(3)]
    wanted = np.stack(vectors)
    plain = tensors.response(request(), "m", "1", vectors)
    assert (plain.model_name, plain.model_version, plain.id) == ("m", "1", "7")
    assert (plain.outputs[0].name, plain.outputs[0].datatype) == ("embedding", "FP32")
    assert tuple(plain.outputs[0].shape) == (3, 4)
    np.testing.assert_array_equal(np.asarray(plain.outputs[0].contents.fp32_contents).reshape(3, 4), wanted)
    assert not plain.raw_output_contents
    packed = tensors.response(raw_request(raw(*FILES)), "m", "1", vectors)
    assert not packed.outputs[0].HasField("contents")
    (content,) = packed.raw_output_contents
    np.testing.assert_array_equal(np.frombuffer(content, "<f4").reshape(3, 4), wanted)
