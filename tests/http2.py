"""Calls as no client library makes them, in raw frames of HTTP/2."""

from __future__ import annotations

import asyncio
from typing import Final

SOON: Final = 60.0
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4


def _frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


async def answer_of(
    port: int, path: bytes, message: bytes = b"", headers: tuple[tuple[bytes, bytes], ...] = ()
) -> bytes:
    """Returns the bytes of a server's frames in answer to a unary call, as soon as they tell its status.

    `message` is a serialised request of 16 KB at most; headers have 126 bytes at most.
    """
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"x"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *headers,
    )
    # Each header as it is, and not remembered.
    block = b"".join(b"\0" + bytes([len(key)]) + key + bytes([len(value)]) + value for key, value in fields)
    body = b"\0" + len(message).to_bytes(4, "big") + message
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_PREFACE + _frame(_SETTINGS, 0, 0))
    writer.write(_frame(_HEADERS, _END_HEADERS, 1, block) + _frame(_DATA, _END_STREAM, 1, body))
    answer = b""
    while b"grpc-status" not in answer:
        piece = await asyncio.wait_for(reader.read(65_536), SOON)
        assert piece, "the server hung up"
        answer += piece
    writer.close()
    return answer
