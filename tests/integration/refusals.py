"""Calls that are to fail, and all that a client learns of the failure."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2

from services.core.errors import find_detail, reason_of, retry_delay_s, rpc_status_of


@dataclass(frozen=True)
class Refusal:
    """A failed call's status with its details."""

    code: grpc.StatusCode
    reason: str
    sentence: str
    field: str
    """The request's field at fault; empty where none is named."""
    retry_after_s: float | None


async def refused(call: Awaitable[object], code: grpc.StatusCode | None = None, reason: str | None = None) -> Refusal:
    """Returns how a call fails, and expects this code and this reason where they are given."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status_of(caught.value)
    wrong = error_details_pb2.BadRequest()
    field = str(wrong.field_violations[0].field) if find_detail(status, wrong) else ""
    refusal = Refusal(caught.value.code(), reason_of(status), str(status.message), field, retry_delay_s(status))
    assert (code or refusal.code, refusal.reason if reason is None else reason) == (refusal.code, refusal.reason)
    assert refusal.sentence
    assert "Traceback" not in refusal.sentence
    return refusal
