"""A server that is nice has a group of its own, as heavy as that of all its sessions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from era_kernels.sandbox.server.cgroup_hierarchies import SERVER_LEAF, find_controllers

ROOT = Path(__file__).parents[3]
# Tells the group of `cpu`, and its directory, before, while and after there are groups.
PROGRAM = """
import json
from era_kernels.own_cgroups import own_cgroups
from era_kernels.sandbox.server.cgroups import CgroupTree
def where():
    return str(own_cgroups()["cpu"])
found = [where()]
first, second = CgroupTree.open(), CgroupTree.open()
found += [where(), str(second.directories)]
second.close()
found.append(where())
first.close()
print(json.dumps([*found, where()]))
"""


@pytest.fixture
def parent() -> Path:
    """The group that servers of this process are in."""
    for one in find_controllers():
        if (one.name, one.version) == ("cpu", 1) and os.geteuid() == 0:
            return one.directory
    pytest.skip("needs root and control groups of version 1")


@pytest.mark.parametrize("niceness", [0, 5])
def test_a_nice_server(parent: Path, niceness: int) -> None:
    """It goes into the group and out of it; groups of others are made beside it."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True,
        preexec_fn=lambda: os.setpriority(os.PRIO_PROCESS, 0, niceness),
    )  # fmt: skip
    before, during, directories, between, after = json.loads(done.stdout)
    assert SERVER_LEAF not in directories
    assert before == after == str(parent)
    if niceness == 0:
        assert during == between == before
    else:
        assert during == between and Path(during).parent == parent
        assert Path(during).name.startswith(SERVER_LEAF)
        assert not Path(during).exists()


def test_what_a_killed_server_left(parent: Path) -> None:
    """The next server removes its group, and leaves those that somebody is in."""
    left = parent / f"{SERVER_LEAF}-0123456789ab"
    left.mkdir(exist_ok=True)
    program = "from era_kernels.sandbox.server.cgroups import CgroupTree; CgroupTree.open().close()"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    assert not left.exists()
