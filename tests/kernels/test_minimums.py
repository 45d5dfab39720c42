"""What a kernelspec says a process must be able to reserve, where memory is bounded per process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from era_kernels.kernels.languages import Languages
from era_kernels.models import JsonObject, Limits, SessionPaths
from era_kernels.sandbox.init.sandbox_spec import IsolationKind, SandboxSpec
from era_kernels.sandbox.server.tiers import IsolationProfile, max_reserved
from tests.kernels.conftest import make_paths
from tests.kernels.test_languages import add_kernelspec
from tests.kernels.test_machine import run
from tests.kernels.test_tcp import open_host

MIB = 1024 * 1024
# Reserves so many MiB, and touches none of them.
RESERVE = """
import mmap
try:
    mmap.mmap(-1, {} << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    print("reserved")
except OSError as error:
    print(error.strerror)
"""
FLOOR = {"minimums": {"reserved_mb": 1024}}


@pytest.mark.parametrize("tier", [1, 3])
@pytest.mark.parametrize(
    ("metadata", "reserved"), [(FLOOR, "reserved"), ({}, "Cannot allocate memory")]
)
async def test_a_process_may_reserve_it(
    tmp_path: Path, tier: int, metadata: JsonObject, reserved: str
) -> None:
    """With the floor a process reserves more than the session may use, and no more than that."""
    keys = {"metadata": {"era_kernels": {"connects": True, **metadata}}}
    async with open_host(tier, tmp_path, keys=keys) as host:
        sandboxes = host._sandboxes
        sandboxes.profile = replace(sandboxes.profile, cgroup_limits=frozenset())
        paths, limits = make_paths(tmp_path / "one"), Limits(memory=256 * MIB)
        machine = await host.open("toy", paths, limits, {})
        assert (await run(machine, RESERVE.format(600)))[0] == reserved + "\n"
        assert (await run(machine, RESERVE.format(1100)))[0] == "Cannot allocate memory\n"


@pytest.mark.parametrize(
    ("memory", "floor", "groups", "expected"),
    [
        (256, 0, False, 256 * MIB),
        (256, 1024, False, 1024 * MIB),
        (2048, 1024, False, 2048 * MIB),
        (256, 1024, True, max_reserved(256 * MIB)),
        (None, 1024, False, None),
        (None, 1024, True, None),
    ],
)
def test_where_it_counts(
    memory: int | None, floor: int, groups: bool, expected: int | None
) -> None:
    """It raises a lower bound of a process; control groups allow more, and no limit stays none."""
    profile = IsolationProfile(
        1,
        SandboxSpec(kind=IsolationKind.USER),
        cgroup_limits=frozenset({"memory"} if groups else ()),
    )
    nowhere = Path("/nonexistent")
    paths = SessionPaths(nowhere, nowhere, nowhere)
    limits = Limits(memory=None if memory is None else memory * MIB)
    spec = profile.spec_for(paths, nowhere, limits, None, floor * MIB)
    assert spec.rlimits.get("RLIMIT_DATA") == expected


def test_it_is_read(tmp_path: Path) -> None:
    """`minimums.reserved_mb` is bytes in the kernelspec, and none where it is not said."""
    add_kernelspec(tmp_path / "specs", "one", era=FLOOR)
    add_kernelspec(tmp_path / "specs", "two")
    languages = Languages.load([tmp_path / "specs"])
    assert languages.resolve("one").default.min_reserved == 1024 * MIB
    assert languages.resolve("two").default.min_reserved == 0
