"""What the host allows is found out by trying, without a trace."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from era_kernels.sandbox import probe

FACTS = (
    "from era_kernels.sandbox import probe\nimport os\nbefore = os.readlink('/proc/self/ns/mnt')\n"
    "facts = probe.facts()\nassert os.readlink('/proc/self/ns/mnt') == before\n"
    "print([fact.name for fact in facts], all(fact.seen for fact in facts))"
)


def test_facts() -> None:
    """Every fact says what was seen, and the asking process stays where it was."""
    done = subprocess.run([sys.executable, "-c", FACTS], capture_output=True, text=True, check=True)
    names = ["namespaces", "own /proc", "Landlock", "seccomp", "cgroups", "/dev/net/tun"]
    assert done.stdout == f"{names} True\n"


def test_a_refusal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system refuses is no fact, with the system's reason."""

    def refuse() -> None:
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr(probe, "_enter_namespaces", refuse)
    assert probe.namespaces() == probe.Fact("namespaces", False, os.strerror(errno.EPERM))
    assert probe.own_proc().there is False


def test_a_child_that_breaks_is_a_refusal() -> None:
    """An attempt that fails in another way than by the system counts as failed."""
    assert probe._in_child(lambda: [][0]) == 255
    assert probe._in_child(lambda: None) == 0
