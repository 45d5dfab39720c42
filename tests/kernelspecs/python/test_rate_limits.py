"""How long a program waits for its own output."""

from __future__ import annotations

import runpy
import time
from pathlib import Path
from typing import Any

PACE = Path(__file__).parents[3] / "kernelspecs" / "python" / "era_pace.py"
pace: dict[str, Any] = runpy.run_path(str(PACE))
AT_ONCE: float = pace["AT_ONCE"]


def waited(allowance: Any, seconds: float) -> None:
    with allowance:
        time.sleep(seconds)


def test_allowance() -> None:
    """So much waiting at once and no more, until time has passed."""
    allowance = pace["Allowance"]()
    assert allowance.left()
    waited(allowance, AT_ONCE)
    assert not allowance.left()


def test_one_long_wait() -> None:
    """However long: it costs no more later than the bucket holds."""
    allowance = pace["Allowance"]()
    waited(allowance, 5 * AT_ONCE)
    assert not allowance.left()
    time.sleep(1.1 * AT_ONCE / pace["SHARE"])
    assert allowance.left()
