"""Requests in their wire form, put together with no more than one copy of the photograph in them."""

from __future__ import annotations

from typing import Final

from google.protobuf.message import Message
from mondrian.critic.v1 import critic_pb2
from mondrian.embedder.v1 import embedder_pb2
from mondrian.scorer.v1 import scorer_pb2

_LENGTH_DELIMITED: Final = 2
# The field that holds the photograph in each request.
_IMAGE_FIELD: Final = {
    embedder_pb2.SearchReferencesRequest: embedder_pb2.SearchReferencesRequest.IMAGE_FIELD_NUMBER,
    critic_pb2.CritiqueRequest: critic_pb2.CritiqueRequest.IMAGE_FIELD_NUMBER,
    scorer_pb2.ScoreRequest: scorer_pb2.ScoreRequest.IMAGE_FIELD_NUMBER,
}


def serialized(request: Message, photograph: bytes) -> bytes:
    """Returns the wire form of `request` with `photograph` (a serialised types.v1.Image) as its image.

    Fields of a message may come in any order on the wire, so the photograph is put behind the others as it is: one
    copy of its bytes for each part instead of three (into the message, within it, out of it).
    """
    tag = _IMAGE_FIELD[type(request)] << 3 | _LENGTH_DELIMITED
    return b"".join((request.SerializeToString(), _varint(tag), _varint(len(photograph)), photograph))


def wrapped(field: int, message: bytes) -> bytes:
    """Returns the wire form of a message that holds nothing but `message`, serialised, in a field."""
    return b"".join((_varint(field << 3 | _LENGTH_DELIMITED), _varint(len(message)), message))


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
