"""A limiter bounds how many sessions have a kernel at once."""

from __future__ import annotations

import pytest

from era_kernels.errors import AtCapacity
from era_kernels.services.kernel_limiter import KernelLimiter


def test_kernels_are_limited() -> None:
    """When all kernels are taken, the next caller is refused with a time to retry."""
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
    """A session is counted once, until it has released as often as it acquired."""
    limiter = KernelLimiter(1)
    limiter.acquire("a")
    limiter.acquire("a")
    assert limiter.holder_count == 1
    limiter.release("a")
    with pytest.raises(AtCapacity):
        limiter.acquire("b")
    limiter.release("a")
    assert limiter.holder_count == 0


def test_reserved_kernel_is_released() -> None:
    """A reserved kernel is released afterwards, also after a failure."""
    limiter = KernelLimiter(1)
    with pytest.raises(RuntimeError), limiter.reserved("a"):
        assert limiter.holder_count == 1
        raise RuntimeError
    assert limiter.holder_count == 0


def test_refused_kernel_is_not_counted() -> None:
    """A refused caller is not counted."""
    limiter = KernelLimiter(0)
    with pytest.raises(AtCapacity), limiter.reserved("a"):
        pass
    assert limiter.holder_count == 0
