"""Every failure that a caller can see, in one table.

    MondrianError
      InvalidArgument          the request is wrong
        InvalidImage           the photograph cannot be used
        InvalidText            the words cannot be used
        InvalidEmbedding       the embedding cannot be used
      Unauthenticated          the caller shows no token that is accepted
      AdvisorNotFound, ReferenceNotFound, ModelNotFound
      EncoderMismatch          the embedding belongs to another encoder's space
      Overloaded               no permit: try again later
      DeviceMemory             the device ran out of memory
      NotReady, Draining, EngineStopped, NoRelease, BackendUnavailable
      QueuedTooLong            the deadline passed, or would pass, while waiting
      Forwarded                another service's status, passed on as it is
    ConfigurationError         start-up cannot go on; printed as one sentence, exit code 2
      ReleaseDamaged, WriterBusy

A message is one sentence for the person who can act on it, and never holds a photograph, a critique or a path of a
request. Anything that is not a MondrianError reaches the caller as INTERNAL with a fixed message and a request id.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, cast

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from mondrian.types.v1 import types_pb2

DOMAIN: Final = "mondrian"
# Details travel in a header; servers and proxies commonly cap all headers at 8 KiB.
MAX_MESSAGE_CHARS: Final = 2_000


class MondrianError(Exception):
    """A failure with a place in the table.

    `reason` replaces the table's reason where one class covers several; `metadata` travels in ErrorInfo;
    `retry_after_s` (seconds) becomes RetryInfo, `default_retry_s` where it is None; `field` names the request's field
    in BadRequest.
    """

    default_retry_s: ClassVar[float | None] = None

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: dict[str, str] | None = None,
        retry_after_s: float | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or row_of(type(self)).reason
        self.metadata = metadata or {}
        self.retry_after_s = self.default_retry_s if retry_after_s is None else retry_after_s
        self.field = field


class InvalidArgument(MondrianError):
    """The request is wrong, and will be wrong again."""


class InvalidImage(InvalidArgument):
    """The photograph is empty, not a photograph, damaged, or beyond the limits."""


class InvalidText(InvalidArgument):
    """The words are empty or too long."""


class InvalidEmbedding(InvalidArgument):
    """The embedding has the wrong length or a value that is not finite."""


class Unauthenticated(MondrianError):
    """The call carries no bearer token that is accepted."""


class AdvisorNotFound(MondrianError):
    """No such advisor in the release."""


class ReferenceNotFound(MondrianError):
    """No such reference in the release."""


class ModelNotFound(MondrianError):
    """The service has no such model, or not in that version."""


class EncoderMismatch(MondrianError):
    """The embedding was made by another encoder."""


class Overloaded(MondrianError):
    """No permit is free; RetryInfo says when to try again."""


class DeviceMemory(MondrianError):
    """The device ran out of memory."""

    # What took it is being given back, or belongs to requests that end soon.
    default_retry_s = 1.0


class NotReady(MondrianError):
    """The model is still being loaded."""


class Draining(MondrianError):
    """The process is leaving; another replica answers."""


class EngineStopped(MondrianError):
    """The engine's thread has ended; the process is about to be replaced."""


class NoRelease(MondrianError):
    """Nothing has been pre-computed yet."""


class BackendUnavailable(MondrianError):
    """The gateway cannot reach a service."""


class QueuedTooLong(MondrianError):
    """The deadline passed, or would pass, while waiting."""


class Forwarded(MondrianError):
    """Another service's failure, passed on with its code, reason and details."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message, reason=reason_of(status), retry_after_s=retry_delay_s(status))
        self.status = status


@contextlib.contextmanager
def fields_of(name: str) -> Iterator[None]:
    """Puts `name` before the fields that errors name: "mode" becomes "request.mode" while the message in the field
    "request" is checked."""
    try:
        yield
    except MondrianError as error:
        if error.field is not None:
            error.field = f"{name}.{error.field}"
        raise


class ConfigurationError(Exception):
    """Start-up cannot go on: one sentence that says what to mend."""


class ReleaseDamaged(ConfigurationError):
    """A release's bytes are not those that were published."""


class WriterBusy(ConfigurationError):
    """Another process is writing to the same folder."""


@dataclass(frozen=True)
class Row:
    """The status code and the default reason of an exception."""

    code: grpc.StatusCode
    reason: str


TABLE: Final[dict[type[MondrianError], Row]] = {
    InvalidArgument: Row(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    InvalidImage: Row(grpc.StatusCode.INVALID_ARGUMENT, "IMAGE_UNDECODABLE"),
    InvalidText: Row(grpc.StatusCode.INVALID_ARGUMENT, "TEXT_INVALID"),
    InvalidEmbedding: Row(grpc.StatusCode.INVALID_ARGUMENT, "EMBEDDING_INVALID"),
    Unauthenticated: Row(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    AdvisorNotFound: Row(grpc.StatusCode.NOT_FOUND, "ADVISOR_NOT_FOUND"),
    ReferenceNotFound: Row(grpc.StatusCode.NOT_FOUND, "REFERENCE_NOT_FOUND"),
    ModelNotFound: Row(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    EncoderMismatch: Row(grpc.StatusCode.FAILED_PRECONDITION, "ENCODER_MISMATCH"),
    Overloaded: Row(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
    DeviceMemory: Row(grpc.StatusCode.RESOURCE_EXHAUSTED, "DEVICE_MEMORY"),
    NotReady: Row(grpc.StatusCode.UNAVAILABLE, "MODEL_LOADING"),
    Draining: Row(grpc.StatusCode.UNAVAILABLE, "DRAINING"),
    EngineStopped: Row(grpc.StatusCode.UNAVAILABLE, "ENGINE_STOPPED"),
    NoRelease: Row(grpc.StatusCode.UNAVAILABLE, "NO_RELEASE"),
    BackendUnavailable: Row(grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE"),
    QueuedTooLong: Row(grpc.StatusCode.DEADLINE_EXCEEDED, "QUEUED_TOO_LONG"),
}


CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
"""gRPC's status codes by their numbers."""


def row_of(kind: type[MondrianError]) -> Row:
    """Returns the row of an exception class, or that of its nearest ancestor in the table."""
    for ancestor in kind.__mro__:
        if ancestor in TABLE:
            return TABLE[ancestor]
    return Row(grpc.StatusCode.INTERNAL, "INTERNAL")


def code_of(error: MondrianError) -> grpc.StatusCode:
    """Returns the gRPC status code of an error."""
    if isinstance(error, Forwarded):
        return CODES.get(error.status.code, grpc.StatusCode.UNKNOWN)
    return row_of(type(error)).code


def _packed(
    message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def to_rpc_status(error: MondrianError) -> status_pb2.Status:
    """Returns the AIP-193 status: code, message, and ErrorInfo with BadRequest or RetryInfo where they apply."""
    if isinstance(error, Forwarded):
        return error.status
    message = error.message[:MAX_MESSAGE_CHARS]
    details = [_packed(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata))]
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=message)
        details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=code_of(error).value[0], message=message, details=details)


def internal_status(request_id: str) -> status_pb2.Status:
    """Returns the status of a failure that is not in the table; only the request id leads to its cause."""
    info = error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata={"request_id": request_id})
    message = f"The service failed; its log tells why under request id {request_id}."
    return status_pb2.Status(code=code_pb2.INTERNAL, message=message, details=[_packed(info)])


def rpc_status_of(error: grpc.RpcError) -> status_pb2.Status:
    """Returns the status that a failed call carries, its details included where the server sent any."""
    code: grpc.StatusCode = error.code()
    for key, value in cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ()):
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            # Of a stranger it may be anything; its code and sentence hold all the same.
            with contextlib.suppress(DecodeError):
                status = status_pb2.Status.FromString(value)
                if status.code == code.value[0]:
                    return status
    return status_pb2.Status(code=code.value[0], message=error.details() or code.name)


def reason_of(status: status_pb2.Status) -> str:
    """Returns the reason of a status's ErrorInfo; empty where it has none."""
    info = error_details_pb2.ErrorInfo()
    return str(info.reason) if find_detail(status, info) else ""


def retry_delay_s(status: status_pb2.Status) -> float | None:
    """Returns the seconds after which a status's RetryInfo says to try again; None where it has none."""
    retry = error_details_pb2.RetryInfo()
    return float(retry.retry_delay.ToNanoseconds()) / 1e9 if find_detail(status, retry) else None


def find_detail(status: status_pb2.Status, detail: Message) -> bool:
    """Returns whether a status has a detail of the kind of `detail`, which is filled from it."""
    for packed in status.details:
        with contextlib.suppress(DecodeError):
            if packed.Unpack(detail):
                return True
    return False


def status_of(error: MondrianError) -> types_pb2.Status:
    """Returns an error in the contract's own form."""
    return in_contract(to_rpc_status(error))


def in_contract(status: status_pb2.Status) -> types_pb2.Status:
    """Returns a status in the contract's own form."""
    return types_pb2.Status(code=status.code, reason=reason_of(status), message=status.message)
