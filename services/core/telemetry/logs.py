"""Logging: one line a record, as text or JSON, on stderr. Photographs and critiques never reach it."""

from __future__ import annotations

import json
import logging
import sys
from typing import Final

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """Time, level, logger, message, then the extra fields as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        extra = " ".join(f"{name}={value}" for name, value in _extra(record).items())
        line = super().format(record)
        return f"{line} {extra}" if extra else line


class JsonFormatter(logging.Formatter):
    """One JSON object a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the object on one line."""
        fields: dict[str, object] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


# The first is about a client that left before its answer came; the call's own line says CANCELLED. The second quotes a
# header that is not text and may be a token; such a token is not accepted anyway.
_CLIENTS_DOING: Final = ("ExecuteBatchError raised in core", "Invalid encoding on")


def worth_telling(record: logging.LogRecord) -> bool:
    """Returns False for the errors with tracebacks that gRPC logs about what a client did."""
    return not record.getMessage().startswith(_CLIENTS_DOING)


def configure_logging(level: str, form: str) -> None:
    """Sends every record of `level` (debug, info, warning, error) and above to stderr, as `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Model libraries are talkative about what a user cannot act on.
    for name in ("httpx", "urllib3", "PIL", "transformers", "open_clip", "timm", "asyncio", "grpc._cython"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It would quote a caller's malformed tracestate.
    logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)
    logging.getLogger("grpc._cython.cygrpc").addFilter(worth_telling)
