"""Asks a server's health: `python -m services.core.probe ADDRESS [SERVICE] [--timeout SECONDS]`.

For health checks of containers, and for people. Prints one sentence and ends with

    0  the service is SERVING
    1  the server answered, and the service is not SERVING (or the server has no service of that name)
    2  the arguments do not fit
    3  nobody answered within the time-out

No model library is imported, so that a probe costs a tenth of a second.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.core.rpc.channels import channel_options

DEFAULT_TIMEOUT_S = 3.0


class Verdict(NamedTuple):
    """What a probe found."""

    exit_code: int
    """0 serving, 1 not serving, 3 no answer."""
    sentence: str
    """The finding for a person."""


def ask(address: str, service: str = "", *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Verdict:
    """Returns whether `service` at `address` is SERVING; the empty name asks for the server as a whole.

    Args:
        address: host:port, or any target that gRPC resolves.
        service: the full name, as mondrian.embedder.v1.EmbedderService.
        timeout_s: seconds to wait, connecting included.
    """
    subject = f"{service} at {address}" if service else f"The server at {address}"
    with grpc.insecure_channel(address, options=channel_options()) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            # Waiting for the connection lets a server that is just starting answer within the time-out.
            reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s, wait_for_ready=True)
        except grpc.RpcError as error:
            code = error.code()
            if code == grpc.StatusCode.NOT_FOUND:
                return Verdict(1, f"The server at {address} has no service {service}.")
            if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
                return Verdict(3, f"{subject} did not answer within {timeout_s:g} s.")
            return Verdict(1, f"{subject} answered {code.name}: {error.details()}.")
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    return Verdict(0 if reply.status == health_pb2.HealthCheckResponse.SERVING else 1, f"{subject} is {status}.")


def _positive(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise ValueError(text)
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code of a probe; the sentence goes to stdout when serving, else to stderr."""
    parser = argparse.ArgumentParser(prog="python -m services.core.probe", description="Asks a gRPC server's health.")
    parser.add_argument("address", help="host:port of the server")
    parser.add_argument("service", nargs="?", default="", help="full service name; empty asks for the whole server")
    parser.add_argument("--timeout", type=_positive, default=DEFAULT_TIMEOUT_S, help="seconds to wait (default 3)")
    options = parser.parse_args(arguments)
    verdict = ask(options.address, options.service, timeout_s=options.timeout)
    print(verdict.sentence, file=sys.stdout if verdict.exit_code == 0 else sys.stderr)
    return verdict.exit_code


if __name__ == "__main__":
    sys.exit(main())
