"""Attacks by code of a session that has a way out for packets; it runs in the session, as text.

Each function returns something true when it got through, and what it found; an OSError is what
stopped it. `host` names the addresses and ports of the small internet, see `small_internet.py`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Any

Host = dict[str, Any]
DEVICE = b"eth0"
WAIT = 1.5


def _talk(address: str, port: int, *options: tuple[int, int, bytes], source: str = "") -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as end:
        end.settimeout(WAIT)
        for level, name, value in options:
            end.setsockopt(level, name, value)
        if source:
            end.bind((source, 0))
        end.connect((address, port))
        return end.recv(16).decode() or "connected"


def _bound() -> tuple[int, int, bytes]:
    return socket.SOL_SOCKET, socket.SO_BINDTODEVICE, DEVICE


def _send(address: str, *options: tuple[int, int, bytes], port: int = 8000) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as end:
        end.settimeout(WAIT)
        for level, name, value in options:
            end.setsockopt(level, name, value)
        end.sendto(b"?", (address, port))
        return end.recv(16).decode()


def _ask_rtnetlink(kind: int, body: bytes, flags: int = 0x405) -> int:
    """Sends a request to Linux, and raises what it answers."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as end:
        end.settimeout(WAIT)
        end.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
        code = -struct.unpack_from("=i", end.recv(4096), 16)[0]
    if code:
        raise OSError(code, os.strerror(code))
    return 1


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def server_by_gateway(host: Host) -> object:
    """Reach the server's port through the gateway, which pasta takes for the host's loopback."""
    return _talk(host["gateway"], host["server"])


def server_by_address(host: Host) -> object:
    """Reach the host's service by its address, on a socket bound to the device."""
    return _talk(host["host"], 8000, _bound())


def server_by_public_address(host: Host) -> object:
    """The same by the host's public address over IPv6."""
    return _talk(host["host6"], 8000, _bound())


def loopback_through_device(host: Host) -> object:
    """Send packets for 127.0.0.1 out through the device."""
    return _talk("127.0.0.1", host["server"], _bound())


def any_through_device(host: Host) -> object:
    """Send packets for 0.0.0.0 out through the device."""
    return _talk("0.0.0.0", host["server"], _bound())


def other_session(host: Host) -> object:
    """Reach what another session listens on, by the address that all sessions have."""
    return _talk(host["address"], host["other"])


def other_session_by_gateway(host: Host) -> object:
    """The same through the gateway."""
    return _talk(host["gateway"], host["other"], _bound())


def dont_route(host: Host) -> object:
    """Reach a private address past all routes (SO_DONTROUTE)."""
    return _talk(host["private"], 8000, _bound(), (1, socket.SO_DONTROUTE, b"\1\0\0\0"))


def unicast_interface(host: Host) -> object:
    """Reach a private address by IP_UNICAST_IF."""
    index = struct.pack(">I", socket.if_nametoindex(DEVICE.decode()))
    return _send(host["private"], (socket.IPPROTO_IP, 50, index))


def source_route(host: Host) -> object:
    """Have a public host pass packets on to a private one (IP option LSRR)."""
    hop = socket.inet_aton(host["private"])
    return _talk(host["public"], 8000, (0, 4, bytes([131, 7, 4]) + hop + b"\0")) == "private"


def foreign_source(host: Host) -> object:
    """Send as another address, which needs no right (IP_FREEBIND)."""
    return _talk(host["public"], 8000, (0, 15, b"\1\0\0\0"), source=host["host"])


def loopback_source(host: Host) -> object:
    """Send as 127.0.0.1 out through the device."""
    return _talk(host["public"], 8000, _bound(), source="127.0.0.1")


def transparent_source(host: Host) -> object:
    """Send as any address (IP_TRANSPARENT)."""
    return _talk(host["public"], 8000, (0, 19, b"\1\0\0\0"), source=host["host"])


def broadcast(host: Host) -> object:
    """Send to all of the host's network."""
    return _send("255.255.255.255", _bound(), (1, socket.SO_BROADCAST, b"\1\0\0\0"))


def multicast(host: Host) -> object:
    """Send to a group of the host's network."""
    index = struct.pack("=4s4si", bytes(4), bytes(4), socket.if_nametoindex(DEVICE.decode()))
    return _send("224.0.0.251", (0, socket.IP_MULTICAST_IF, index))


def multicast_ipv6(host: Host) -> object:
    """Send to all nodes of the link over IPv6."""
    return _send("ff02::1", _bound())


def resolver_other_port(host: Host) -> object:
    """Reach another port of the resolver than that for names."""
    return _send(host["resolver"], port=8000)


def raw_socket(host: Host) -> object:
    """Make packets by hand."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as end:
        return end.sendto(b"x", (host["private"], 0))


def packet_socket(host: Host) -> object:
    """Put frames on the device."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3) as end:
        return end.fileno()


def ping(host: Host) -> object:
    """Send ICMP by a socket for pings."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as end:
        return end.sendto(struct.pack(">BBHHH", 8, 0, 0, 0, 1), (host["private"], 0))


def delete_route(host: Host) -> object:
    """Take away a route that refuses."""
    head = struct.pack("=8BI", socket.AF_INET, 8, 0, 0, 254, 4, 0, 8, 0)
    return _ask_rtnetlink(25, head + _attribute(1, bytes([10, 0, 0, 0])), 5)


def add_route(host: Host) -> object:
    """Add a route to a private address."""
    head = struct.pack("=8BI", socket.AF_INET, 32, 0, 0, 254, 4, 253, 1, 0)
    index = struct.pack("=i", socket.if_nametoindex(DEVICE.decode()))
    return _ask_rtnetlink(24, head + _attribute(1, bytes([10, 1, 2, 3])) + _attribute(4, index))


def add_address(host: Host) -> object:
    """Give the device another address."""
    index = socket.if_nametoindex(DEVICE.decode())
    head = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, index)
    return _ask_rtnetlink(20, head + _attribute(2, bytes([10, 9, 0, 2])))


def add_neighbour(host: Host) -> object:
    """Make a neighbour of the device."""
    index = socket.if_nametoindex(DEVICE.decode())
    head = struct.pack("=BxxxiHBB", socket.AF_INET, index, 0x80, 0, 0)
    return _ask_rtnetlink(28, head + _attribute(1, bytes([10, 1, 2, 3])) + _attribute(2, bytes(6)))


def device_flags(host: Host) -> object:
    """Change the device (ioctl)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        fcntl.ioctl(end, 0x8914, struct.pack("16sH22x", DEVICE, 0))
    return 1


def fill_neighbours(host: Host) -> object:
    """Make so many neighbours that the host's table of them, one for all, is full."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.setsockopt(*_bound())
        for number in range(3000):
            try:
                end.sendto(b"x", (f"10.77.{number >> 8}.{number & 255}", 9))
            except PermissionError:
                continue
    known = len(Path("/proc/net/arp").read_text().splitlines()) - 1
    if known > 2:
        return known
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def change_filter(host: Host) -> object:
    """Change the filter of packets (netlink of nf_tables)."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12).fileno()


def end_others_connections(host: Host) -> object:
    """End connections (netlink of sock_diag)."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4).fileno()


def open_tunnel(host: Host) -> object:
    """Serve the device in place of pasta."""
    return os.open("/dev/net/tun", os.O_RDWR)


def become_root_of_network(host: Host) -> object:
    """Become root in a user namespace, which would have rights over a network."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")
    return 1


def find_pasta(host: Host) -> object:
    """See the process of pasta."""
    names = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        names.append(comm.read_text().strip())
    found = [name for name in names if "pas" in name]
    if found:
        return found
    raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def kill_pasta(host: Host) -> object:
    """Kill pasta by its number on the host."""
    os.kill(host["pasta"], 9)
    return 1


def read_pasta(host: Host) -> object:
    """Read pasta's memory by its number on the host."""
    with Path(f"/proc/{host['pasta']}/mem").open("rb") as memory:
        return memory.read(1)


def run(host: Host) -> list[list[str]]:
    """Runs all attacks; returns the name, the words and the outcome of each."""
    found = []
    for name, attack in tuple(globals().items()):
        if callable(attack) and "host" in getattr(attack, "__annotations__", ()) and name != "run":
            try:
                told = f"got through: {attack(host)}"
            except TimeoutError:
                told = "no answer"
            except OSError as error:
                told = errno.errorcode.get(error.errno or 0, type(error).__name__)
            found.append([name, str(attack.__doc__), told])
    return found
