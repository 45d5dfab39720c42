"""The init's side of control groups: joining them."""

from __future__ import annotations

from pathlib import Path

import pytest

from era_kernels.sandbox.linux.cgroup import join_cgroups


def test_join_needs_cgroup_procs(tmp_path: Path) -> None:
    """Where joining fails, the first process must not go on."""
    with pytest.raises(OSError):
        join_cgroups([str(tmp_path / "nothing")])
