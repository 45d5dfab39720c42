"""Lists the TCP ports on which programs of one sandbox listen, from /proc. Blocking."""

from __future__ import annotations

import sys
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from era_kernels.models import ListeningPort
from era_kernels.sandbox.server.tcp_owners import (
    LISTENING,
    descriptor_targets,
    read_sockets,
    sandbox_pids,
)

MAX_PORTS = 1000  # that are listed


def list_ports(init_pid: int, *, is_own_network: bool) -> list[ListeningPort]:
    """Returns the ports, by number, with the name of a process that has each.

    With `is_own_network` they are all those of the init's network, and a process may be unknown;
    else they are those of the host that processes of the sandbox have.
    """
    tables = [Path(f"/proc/{init_pid}/net/{name}") for name in ("tcp", "tcp6")]
    sockets = [one for table in tables for one in read_sockets(table) if one.state == LISTENING]
    owners = _find_owners(init_pid, {one.inode for one in sockets})
    ports = {
        ListeningPort(*_parse_local(one.local), owners.get(one.inode))
        for one in sockets
        if is_own_network or one.inode in owners
    }
    return sorted(ports, key=lambda one: (one.port, one.address))[:MAX_PORTS]


def _find_owners(init_pid: int, inodes: set[int]) -> dict[int, str]:
    """Returns inode → the name of a process of the sandbox that has the socket."""
    owners: dict[int, str] = {}
    missing = {f"socket:[{inode}]": inode for inode in inodes}
    for pid in sandbox_pids(init_pid):
        if not missing:
            break
        found = [missing.pop(target) for target in descriptor_targets(pid) if target in missing]
        if found:
            owners.update(dict.fromkeys(found, _name(pid)))
    return owners


def _name(pid: int) -> str:
    """Returns the name that a process shows, which it may choose; empty when it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_bytes().rstrip(b"\n").decode(errors="replace")
    return ""


def _parse_local(local: bytes) -> tuple[int, str]:
    """Returns port and address from /proc, which has words in the machine's byte order."""
    address, _, port = local.partition(b":")
    words = (address[start : start + 8] for start in range(0, len(address), 8))
    packed = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
    kind = IPv4Address if len(packed) == 4 else IPv6Address
    return int(port, 16), str(kind(packed))
