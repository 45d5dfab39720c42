"""Late output waits for a token bucket, and a flush waits only within its budget."""

from __future__ import annotations

import runpy
import time
from pathlib import Path
from typing import Any

RATE_LIMITS = Path(__file__).parents[3] / "kernelspecs" / "python" / "era_kernel" / "rate_limits.py"
rate_limits: dict[str, Any] = runpy.run_path(str(RATE_LIMITS))
FLUSH_BURST_SECONDS: float = rate_limits["FLUSH_BURST_SECONDS"]


def waited(budget: Any, seconds: float) -> None:
    with budget:
        time.sleep(seconds)


def test_flush_budget() -> None:
    """Flushes wait within their budget, and again when time has passed."""
    budget = rate_limits["FlushBudget"]()
    assert budget.has_time()
    waited(budget, FLUSH_BURST_SECONDS)
    assert not budget.has_time()


def test_one_long_wait() -> None:
    """A long wait costs no more later than the bucket holds."""
    budget = rate_limits["FlushBudget"]()
    waited(budget, 5 * FLUSH_BURST_SECONDS)
    assert not budget.has_time()
    time.sleep(1.1 * FLUSH_BURST_SECONDS / rate_limits["FLUSH_SHARE"])
    assert budget.has_time()
