"""Tests of the filter of what leaves a network namespace."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from era_kernels.netlink import NETLINK_NETFILTER, Netlink
from era_kernels.sandbox.linux import nftables, syscalls

ROOT = Path(__file__).parents[3]
RESOLVER = "198.51.100.3"
ALL = ("0.0.0.0", 0, True)
_GET_RULE, _FAMILY_INET = 10 << 8 | 7, 1  # nfnetlink


def _rules() -> list[bytes]:
    """Returns the rules of this namespace, as Linux tells them."""
    with Netlink(NETLINK_NETFILTER) as netlink:
        return [
            bytes(body)
            for _, body in netlink.dump(_GET_RULE, struct.pack(">BBH", _FAMILY_INET, 0, 0))
        ]


def _set_twice() -> None:
    """Sets a filter, and another after it, as one keeper of a way out does after the other."""
    syscalls.unshare(syscalls.CLONE_NEWNET)
    nftables.set_filter([ALL], [RESOLVER])
    count = len(_rules())
    nftables.set_filter([("45.33.32.77", 32, False), ALL], [RESOLVER])
    after = _rules()
    assert len(after) == count + 1, "rules of the former filter are left"
    refused, allowed = bytes([45, 33, 32, 77]), bytes(4)
    first = next(index for index, rule in enumerate(after) if refused in rule)
    assert first < len(after) - 1 and allowed in after[-1]


@pytest.mark.skipif(os.geteuid() != 0, reason="the namespace is made by root")
def test_a_filter_replaces_the_former_one() -> None:
    """Of access that is switched on again no rule of before is left, which would decide first."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.sandbox.linux.test_nftables"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    _set_twice()
