"""What the host allows is found out by trying, without a trace."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from era_kernels.sandbox.server import host_features

LIST_FEATURES = (
    "from era_kernels.sandbox.server import host_features\nimport os\n"
    "before = os.readlink('/proc/self/ns/mnt')\n"
    "features = host_features.list_host_features()\n"
    "assert os.readlink('/proc/self/ns/mnt') == before\n"
    "print([one.name for one in features], all(one.detail for one in features))"
)


def test_host_features() -> None:
    """Every feature has a detail, and the calling process stays in its namespaces."""
    done = subprocess.run(
        [sys.executable, "-c", LIST_FEATURES], capture_output=True, text=True, check=True
    )
    names = ["namespaces", "own /proc", "Landlock", "seccomp", "cgroups", "/dev/net/tun", "pasta"]
    assert done.stdout == f"{names} True\n"


def test_a_refusal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system refuses is no fact, with the system's reason."""

    def refuse() -> None:
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr(host_features, "_enter_namespaces", refuse)
    assert host_features.probe_namespaces() == host_features.HostFeature(
        "namespaces", False, os.strerror(errno.EPERM)
    )
    assert host_features.probe_own_proc().is_available is False


def test_a_child_that_breaks_is_a_refusal() -> None:
    """An attempt that fails in another way than by the system counts as failed."""
    assert host_features._in_child(lambda: [][0]) == 255
    assert host_features._in_child(lambda: None) == 0
