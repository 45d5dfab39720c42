"""How many sessions may have a kernel at once."""

from __future__ import annotations

import pytest

from era_kernels.errors import AtCapacity
from era_kernels.services.capacity import KernelLimiter


def test_kernels_are_limited() -> None:
    """When all are taken, the next caller is told to come again."""
    limiter = KernelLimiter(2)
    limiter.acquire("a")
    limiter.acquire("b")
    with pytest.raises(AtCapacity, match="max_kernels is 2") as caught:
        limiter.acquire("c")
    assert caught.value.retry_after
    assert "idle" in str(caught.value.hint)
    limiter.release("a")
    limiter.acquire("c")


def test_kernel_is_free_when_released_as_often_as_acquired() -> None:
    """A session has one seat for all its reasons, until the last of them is gone."""
    limiter = KernelLimiter(1)
    limiter.acquire("a")
    limiter.acquire("a")
    assert limiter.borrowed == 1
    limiter.release("a")
    with pytest.raises(AtCapacity):
        limiter.acquire("b")
    limiter.release("a")
    assert limiter.borrowed == 0


def test_reserved_kernel_is_released() -> None:
    """What is held is free afterwards, also after a failure."""
    limiter = KernelLimiter(1)
    with pytest.raises(RuntimeError), limiter.reserved("a"):
        assert limiter.borrowed == 1
        raise RuntimeError
    assert limiter.borrowed == 0


def test_refused_kernel_is_not_counted() -> None:
    """Who was refused holds nothing that could be freed."""
    limiter = KernelLimiter(0)
    with pytest.raises(AtCapacity), limiter.reserved("a"):
        pass
    assert limiter.borrowed == 0
