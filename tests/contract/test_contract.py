"""The contract keeps buf's STANDARD and COMMENTS rules in essence, and its fields never change in silence.

`python -m tests.contract.test_contract` writes the golden file anew, after a change that was meant.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import grpc_tools
import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_tools import protoc

from tests.contract.generate import differences, sources

ROOT = Path(__file__).resolve().parents[2] / "protos"
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "contract.json"
SERVICES = ("embedder", "critic", "scorer", "gateway")
FOREIGN = "inference/open_inference.proto"
"""A published protocol, whose names are not ours to choose."""


@lru_cache
def files() -> tuple[FileDescriptorProto, ...]:
    """Returns the descriptors of our protos, with their comments."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        includes = [f"-I{ROOT}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
        code = protoc.main(
            ["protoc", *includes, "--include_source_info", f"--descriptor_set_out={out}", *sources(ROOT)]
        )
        assert code == 0
        return tuple(FileDescriptorSet.FromString(out.read_bytes()).file)


def ours() -> tuple[FileDescriptorProto, ...]:
    """Returns the descriptors of the protos whose names are ours."""
    return tuple(file for file in files() if file.name != FOREIGN)


Element = tuple[str, str]  # full name, comment


def elements(file: FileDescriptorProto) -> Iterator[Element]:
    """Yields every service, rpc, message, field, oneof, enum and value of a file with its comment."""
    comments = {tuple(place.path): place.leading_comments.strip() for place in file.source_code_info.location}

    def message(path: tuple[int, ...], name: str, described: DescriptorProto) -> Iterator[Element]:
        yield name, comments.get(path, "")
        synthetic = {field.oneof_index for field in described.field if field.proto3_optional}
        for index, field in enumerate(described.field):
            yield f"{name}.{field.name}", comments.get((*path, 2, index), "")
        for index, oneof in enumerate(described.oneof_decl):
            if index not in synthetic:
                yield f"{name}.{oneof.name}", comments.get((*path, 8, index), "")
        for index, nested in enumerate(described.nested_type):
            if nested.options.map_entry:  # made by the compiler
                continue
            yield from message((*path, 3, index), f"{name}.{nested.name}", nested)

    for index, described in enumerate(file.message_type):
        yield from message((4, index), f"{file.package}.{described.name}", described)
    for index, enum in enumerate(file.enum_type):
        name = f"{file.package}.{enum.name}"
        yield name, comments.get((5, index), "")
        for number, value in enumerate(enum.value):
            yield f"{name}.{value.name}", comments.get((5, index, 2, number), "")
    for index, service in enumerate(file.service):
        name = f"{file.package}.{service.name}"
        yield name, comments.get((6, index), "")
        for number, method in enumerate(service.method):
            yield f"{name}.{method.name}", comments.get((6, index, 2, number), "")


def messages(file: FileDescriptorProto) -> Iterator[tuple[str, DescriptorProto]]:
    """Yields the messages of a file with their full names, nested ones behind those that hold them."""

    def nested(name: str, described: DescriptorProto) -> Iterator[tuple[str, DescriptorProto]]:
        yield name, described
        for one in described.nested_type:
            yield from nested(f"{name}.{one.name}", one)

    for described in file.message_type:
        yield from nested(f"{file.package}.{described.name}", described)


def enums() -> Iterator[EnumDescriptorProto]:
    """Yields every enum of the contract."""
    for file in files():
        yield from file.enum_type


def surface(files: Iterable[FileDescriptorProto]) -> dict[str, str]:
    """Returns what clients depend on: each field's number, label and type, each value's number, each rpc's shape."""
    found: dict[str, str] = {}
    for file in files:
        for name, message in messages(file):
            for field in message.field:
                kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
                label = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
                label = "optional " if field.proto3_optional else label
                found[f"{name}.{field.name}"] = f"{field.number} {label}{field.type_name.removeprefix('.') or kind}"
        for enum in file.enum_type:
            for value in enum.value:
                found[f"{file.package}.{enum.name}.{value.name}"] = str(value.number)
        for service in file.service:
            for method in service.method:
                ends = (
                    ("stream " if method.client_streaming else "") + method.input_type,
                    ("stream " if method.server_streaming else "") + method.output_type,
                )
                found[f"{file.package}.{service.name}.{method.name}"] = " -> ".join(ends)
    return found


def test_the_committed_stubs_are_what_the_protos_say() -> None:
    assert differences(ROOT) == []


def test_every_service_has_its_proto() -> None:
    expected = {f"mondrian/{name}/v1/{name}.proto" for name in (*SERVICES, "types")} | {FOREIGN}
    assert set(sources(ROOT)) == expected


@pytest.mark.parametrize("file", files(), ids=lambda file: file.name)
def test_every_element_has_a_comment_that_is_a_sentence(file: FileDescriptorProto) -> None:
    found = list(elements(file))
    assert found
    bare = [name for name, comment in found if not re.match(r"[A-Z].*[.:]", comment, re.DOTALL)]
    assert bare == []


@pytest.mark.parametrize("file", ours(), ids=lambda file: file.name)
def test_package_is_the_folder_and_carries_a_version(file: FileDescriptorProto) -> None:
    assert file.package == ".".join(Path(file.name).parent.parts)
    assert file.package.endswith(".v1")


def test_every_rpc_has_a_request_and_a_response_of_its_own() -> None:
    seen: list[str] = []
    for file in ours():
        for service in file.service:
            assert service.name.endswith("Service")
            for method in service.method:
                assert method.input_type == f".{file.package}.{method.name}Request"
                assert method.output_type == f".{file.package}.{method.name}Response"
                seen += [method.input_type, method.output_type]
    assert len(seen) == len(set(seen)) > 0


def test_enums_are_prefixed_and_begin_unspecified() -> None:
    for enum in enums():
        prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.name).upper()
        assert enum.value[0].name == f"{prefix}_UNSPECIFIED"
        assert all(value.name.startswith(f"{prefix}_") for value in enum.value)


def test_every_rpc_names_the_codes_that_it_can_end_with() -> None:
    codes = re.compile(r"INVALID_ARGUMENT|NOT_FOUND|RESOURCE_EXHAUSTED|UNAVAILABLE|Status codes as for")
    for file in files():
        comments = dict(elements(file))
        for service in file.service:
            name = f"{file.package}.{service.name}"
            assert "INTERNAL" in comments[name]
            for method in service.method:
                if method.name != "AnalyzeBatch":  # ends well: each failure is a result
                    assert codes.search(comments[f"{name}.{method.name}"]), method.name


def test_scores_are_no_doubles_and_names_are_snake_case() -> None:
    for file in ours():
        for message in file.message_type:
            for field in message.field:
                assert field.type != FieldDescriptorProto.TYPE_DOUBLE
                assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", field.name)


def test_the_foreign_protocol_is_exactly_what_its_clients_speak() -> None:
    """Field by field the protocol that Triton's client was generated from, which has more rpcs and messages."""
    # In a process of its own: one process cannot hold two files that define the same names.
    script = "import sys\nfrom tritonclient.grpc import service_pb2\n" + (
        "sys.stdout.buffer.write(service_pb2.DESCRIPTOR.serialized_pb)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=True)
    theirs = surface([FileDescriptorProto.FromString(done.stdout)])
    own = surface([file for file in files() if file.name == FOREIGN])
    assert len(own) > 50
    assert own.items() <= theirs.items()
    # What is shared is shared whole: no field of theirs would be dropped unread.
    shared = {name.rpartition(".")[0] for name in own if not name.startswith("inference.GRPCInferenceService.")}
    assert {name for name in theirs if name.rpartition(".")[0] in shared} == {
        name for name in own if name.rpartition(".")[0] in shared
    }


def test_no_field_changes_in_silence() -> None:
    assert surface(files()) == json.loads(GOLDEN.read_text())


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(surface(files()), indent=1, sort_keys=True) + "\n")
