"""Log lines are whole, in both forms."""

from __future__ import annotations

import json
import logging
import sys

from services.core.logs import JsonFormatter, TextFormatter


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
