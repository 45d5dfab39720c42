"""Log lines: what they hold, and that no value can forge a line."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from era_kernels.logs import HumanFormatter, JsonFormatter

HOSTILE = 'x" level=ERROR\n12:00:00.000 INFO web: forged'


def record(message: str = "answered", **extra: Any) -> logging.LogRecord:
    logger = logging.getLogger("era_kernels.web.routes")
    return logger.makeRecord(
        logger.name, logging.INFO, "file", 1, message, (), None, extra=extra or None
    )


def test_human_line() -> None:
    """Time, level, room and message, then what the call gave as extra."""
    line = HumanFormatter().format(record(method="GET", path="/health", status=200, note=""))
    clock, rest = line.split(" ", 1)
    assert len(clock) == len("12:00:00.000")
    assert rest == 'INFO web.routes: answered method=GET path=/health status=200 note=""'


def test_json_line() -> None:
    """One object with the same in that order; the time is UTC with milliseconds."""
    reported = json.loads(JsonFormatter().format(record(status=200, path="/ü", time="mine")))
    assert list(reported) == ["time", "level", "logger", "message", "status", "path"]
    assert reported.pop("time").endswith("Z")
    assert reported == {
        "status": 200,
        "path": "/ü",
        "level": "info",
        "logger": "era_kernels.web.routes",
        "message": "answered",
    }


@pytest.mark.parametrize("formatter", [HumanFormatter(), JsonFormatter()])
def test_one_line(formatter: logging.Formatter) -> None:
    """Line ends and terminal codes in a value or message stay inside their line."""
    for one in (record(HOSTILE), record(path=HOSTILE), record(path="\x1b[2J\u2028")):
        line = formatter.format(one)
        assert line.isprintable(), line


def test_values_are_quoted() -> None:
    """A value with a space, a quote or an equals sign cannot pass for another field."""
    line = HumanFormatter().format(record(path="/a status=500"))
    assert line.endswith('path="/a status=500"')


def test_unserialisable_extra() -> None:
    """A value that JSON does not know is shown as text; logging never raises."""
    assert json.loads(JsonFormatter().format(record(error=OSError(2, "no"))))["error"]


@pytest.mark.parametrize("formatter", [HumanFormatter(), JsonFormatter()])
def test_traceback(formatter: logging.Formatter) -> None:
    """An exception that is logged is shown whole."""
    one = record("failed")
    try:
        raise ValueError("boom")
    except ValueError:
        one.exc_info = sys.exc_info()
    assert "ValueError: boom" in formatter.format(one)


def test_configured() -> None:
    """Lines go to stderr; other libraries speak from warnings on, Python's warnings too."""
    code = (
        "import logging, warnings\nfrom era_kernels import logs\nlogs.configure('human')\n"
        "logging.getLogger('era_kernels.x').info('ours')\n"
        "logging.getLogger('asyncio').info('theirs')\n"
        "logging.getLogger('tornado.access').info('theirs')\n"
        "warnings.warn('careful')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "INFO x: ours" in done.stderr
    assert "careful" in done.stderr
    assert "theirs" not in done.stderr
