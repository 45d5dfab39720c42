"""Memory that was freed goes back to Linux, when things are calm."""

from __future__ import annotations

import pytest

from era_kernels.sandbox.linux.heap_trimmer import HeapTrimmer, find_trim, resident_bytes
from tests.waiting import until

MIB = 1024**2


@pytest.mark.parametrize(
    ("sizes", "times"),
    [
        ([100, 100, 100, 100], 0),  # nothing grew
        ([120, 90, 110, 110], 0),  # a little
        ([100, 400, 400, 100, 100], 2),  # once it is calm, and once more at rest
        ([100, 200, 300, 400, 500, 600, 700, 800], 2),  # a flood puts it off for a while
        ([100, 400, 400, 400, 400], 2),  # what is in use stays, and is not looked for forever
    ],
)
async def test_trimming_is_due(sizes: list[int], times: int) -> None:
    """After a growth, in calm moments, and not again while nothing more came."""
    trimmed: list[int] = []
    at = iter(sizes)
    size, looks = sizes[0], 0

    def resident() -> int:
        nonlocal size, looks
        size, looks = next(at, size), looks + 1
        return size * MIB

    trimmer = HeapTrimmer(lambda: trimmed.append(size), resident, interval=0.001)
    trimmer.start()
    await until(lambda: looks > 40)
    await trimmer.aclose()
    assert len(trimmed) == times


async def test_freed_memory_goes_back() -> None:
    """What lies between pieces that are in use is given back."""
    before = resident_bytes()
    kept = [bytearray(100_000) for _ in range(3000)]
    for index in range(0, len(kept), 2):
        kept[index] = bytearray(1)
    full = resident_bytes()
    trim = find_trim()
    assert trim is not None
    trim()
    assert resident_bytes() < full - (full - before) // 4
