"""Which field of a request a failed call blames."""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2

from services.core.errors import rpc_status_of


def field_of(error: grpc.RpcError) -> str:
    """Returns the field that a BadRequest names; empty without one."""
    bad = error_details_pb2.BadRequest()
    for detail in rpc_status_of(error).details:
        if detail.Unpack(bad):
            return str(bad.field_violations[0].field)
    return ""
