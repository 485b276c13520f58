"""Log lines are whole, in both forms."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from services.core.telemetry.logs import JsonFormatter, TextFormatter, configure_logging


def record(**extra: object) -> logging.LogRecord:
    try:
        raise ValueError("deep")
    except ValueError:
        made = logging.LogRecord("mondrian.rpc", logging.INFO, "", 0, "%s ended", ("Score",), sys.exc_info())
    vars(made).update(extra)
    return made


def test_json_is_one_object_on_one_line() -> None:
    line = JsonFormatter().format(record(ms=1.5, request_id="r1"))
    assert "\n" not in line
    fields = json.loads(line)
    assert fields["message"] == "Score ended"
    assert (fields["ms"], fields["request_id"], fields["level"]) == (1.5, "r1", "info")
    assert "ValueError: deep" in fields["trace"]


def test_text_ends_with_the_extra_fields() -> None:
    made = record(ms=1.5)
    made.exc_info = None
    assert TextFormatter().format(made).endswith("Score ended ms=1.5")


def test_what_a_client_does_is_no_error_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging("info", "text")
        grpc_log = logging.getLogger("grpc._cython.cygrpc")
        for fault in ("ExecuteBatchError raised in core", "Unexpected [ValueError] raised"):
            grpc_log.error("%s by servicer method [%s]", fault, "/mondrian.gateway.v1.GatewayService/AnalyzeBatch")
        grpc_log.error("Invalid encoding on %s", b"Bearer 0123456789abcdef\xff")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    [line] = capsys.readouterr().err.splitlines()
    assert "Unexpected [ValueError]" in line
