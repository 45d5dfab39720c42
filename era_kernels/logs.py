"""Formats log lines for people or as JSON, both with the fields of `extra`."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any, Literal

_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
}
# These log their internals at INFO, or requests, which the server's own lines log better.
_QUIET_LOGGERS = ("asyncio", "tornado", "traitlets", "py.warnings")


def configure(log_format: Literal["human", "json"]) -> None:
    """Makes the process log to stderr, from INFO on, warnings of Python included."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else HumanFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


class HumanFormatter(logging.Formatter):
    """Formats lines for people, in local time.

    Example: `12:30:00.123 INFO web.routes: answered status=200 path="/a b"`.
    """

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        name = record.name.removeprefix("era_kernels.")
        head = (
            f"{clock}.{int(record.msecs):03d} {record.levelname} {name}: {_escaped_message(record)}"
        )
        line = " ".join(
            [
                head,
                *(f"{key}={_quoted_value(value)}" for key, value in extra_fields(record).items()),
            ]
        )
        trace = self._format_traceback(record)
        return f"{line}\n{trace}" if trace else line

    def _format_traceback(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""


class JsonFormatter(logging.Formatter):
    """Formats an object a line: `time` (UTC), `level`, `logger`, `message`, fields of `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        head: dict[str, Any] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        # The head comes first, and no field of `extra` replaces a part of it.
        out = {**head, **extra_fields(record), **head}
        if record.exc_info:
            out["exception"] = self.formatException(record.exc_info)
        return json.dumps(out, default=str)


def extra_fields(record: logging.LogRecord) -> dict[str, object]:
    """Returns the fields that the log call gave as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD_ATTRIBUTES}


def _escaped_message(record: logging.LogRecord) -> str:
    """Returns the message with unprintable characters escaped, so that it cannot forge a line."""
    text = record.getMessage()
    return text if text.isprintable() else json.dumps(text)[1:-1]


def _quoted_value(value: object) -> str:
    """Returns a plain word unchanged and anything else quoted, so that it cannot forge a field."""
    text = str(value)
    plain = text.isprintable() and text and not set(text) & set(" \"'=")
    return text if plain else json.dumps(text, ensure_ascii=not text.isprintable())
