"""When the limits of sandboxes are checked."""

from __future__ import annotations

import pytest

from era_kernels.sandbox.server.limit_monitor import pause_after


@pytest.mark.parametrize(("seconds", "expected"), [(0.01, 0.5), (0.25, 1), (10, 2)])
def test_no_check_waits_for_long(seconds: float, expected: float) -> None:
    """Sessions can make a check long, and so keep those of all others rare, but not for minutes."""
    assert pause_after(seconds) == expected
