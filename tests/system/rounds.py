"""Says how often the tests of crashes kill a server: in short, and in full."""

from __future__ import annotations

import pytest


def rounds_of_kills(long_timeout: int) -> pytest.MarkDecorator:
    """Parametrizes `rounds`; the full figure may take so many seconds."""
    full = [pytest.mark.long, pytest.mark.timeout(long_timeout)]
    return pytest.mark.parametrize(
        "rounds", [pytest.param(5, id="short"), pytest.param(50, id="long", marks=full)]
    )
