"""Answers as JSON: the contract's own messages with the contract's own field names."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from mondrian.gateway.v1 import gateway_pb2


def document(message: Message) -> dict[str, Any]:
    """Returns a message as JSON values: the field names of the .proto files, enum values by name, zeros included."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def as_json(message: Message) -> str:
    """Returns a message as an indented JSON document."""
    return json.dumps(document(message), indent=2, ensure_ascii=False)


def as_json_array(messages: list[gateway_pb2.AnalyzeBatchResponse]) -> str:
    """Returns the results of several photographs as a JSON array, each with its key: the file that it belongs to."""
    return json.dumps([document(message) for message in messages], indent=2, ensure_ascii=False)


def as_json_line(message: Message) -> str:
    """Returns a message as one line of JSON."""
    return json.dumps(document(message), ensure_ascii=False)


def without_thumbnails(response: gateway_pb2.AnalyzeResponse) -> gateway_pb2.AnalyzeResponse:
    """Returns a copy of an answer whose references carry no pictures; a report asks for them, JSON does not."""
    copy = gateway_pb2.AnalyzeResponse()
    copy.CopyFrom(response)
    for neighbor in copy.references.neighbors if copy.HasField("references") else ():
        neighbor.reference.ClearField("thumbnail_jpeg")
    return copy
