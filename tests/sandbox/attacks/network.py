"""Attacks by sockets: out to the host, its network and its services."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

Host = dict[str, Any]


def _spoken(family: int, kind: int, address: object) -> object:
    with socket.socket(family, kind) as end:
        end.settimeout(2)
        end.connect(address)
        if kind == socket.SOCK_DGRAM:
            end.send(b"hello")
        return end.recv(16)


def tcp_to_host(host: Host) -> object:
    """Connect to a service on the host's loopback."""
    return _spoken(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", host["tcp"]))


def udp_to_host(host: Host) -> object:
    """Send a datagram to a service on the host's loopback."""
    return _spoken(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", host["udp"]))


def tcp_fast_open(host: Host) -> object:
    """Send data with the first packet, past checks of connect."""
    with socket.socket() as end:
        end.settimeout(2)
        end.sendto(b"hello", 0x20000000, ("127.0.0.1", host["tcp"]))
        return end.recv(16)


def multipath_tcp(host: Host) -> object:
    """Connect by MPTCP, which older rules forget."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as end:
        end.settimeout(2)
        end.connect(("127.0.0.1", host["tcp"]))
        return "connected"


def tcp_to_internet(host: Host) -> object:
    """Reach an address of the internet."""
    return _spoken(socket.AF_INET, socket.SOCK_STREAM, ("192.0.2.1", 80))


def udp_to_internet(host: Host) -> object:
    """Have a packet leave for a name server, as exfiltration by DNS does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        return end.sendto(b"x", ("192.0.2.1", 53))


def tcp_to_metadata(host: Host) -> object:
    """Ask a cloud's metadata service."""
    return _spoken(socket.AF_INET, socket.SOCK_STREAM, ("169.254.169.254", 80))


def tcp_over_ipv6(host: Host) -> object:
    """Reach the host's loopback by IPv6."""
    return _spoken(socket.AF_INET6, socket.SOCK_STREAM, ("::1", host["tcp"]))


def raw_socket(host: Host) -> object:
    """Make packets by hand."""
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).fileno()


def packet_socket(host: Host) -> object:
    """Listen to everything on the wire."""
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)).fileno()


def vsock(host: Host) -> object:
    """Talk to the hypervisor: network namespaces do not cover vsock."""
    return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).fileno()


def netlink_audit(host: Host) -> object:
    """Open another netlink protocol than the one that lists interfaces."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9).fileno()


def netlink_route_change(host: Host) -> object:
    """Change routes over netlink."""
    body = struct.pack("BBBBBBBBI", 2, 0, 0, 0, 254, 4, 0, 8, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as end:
        end.settimeout(2)
        end.send(struct.pack("IHHII", 16 + len(body), 24, 0x605, 1, 0) + body)
        error = struct.unpack("i", end.recv(4096)[16:20])[0]
    if error:
        raise OSError(-error, "netlink")
    return "changed"


def crypto_socket(host: Host) -> object:
    """Open AF_ALG, whose parsers have had holes."""
    return socket.socket(38, socket.SOCK_SEQPACKET, 0).fileno()


def abstract_socket(host: Host) -> object:
    """Connect to an abstract unix socket of the host."""
    return _spoken(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + host["abstract"])


def path_socket(host: Host) -> object:
    """Connect to a unix socket of the host that everybody may use."""
    return _spoken(socket.AF_UNIX, socket.SOCK_STREAM, host["path_socket"])


def private_socket(host: Host) -> object:
    """Connect to a unix socket of the host that only the server's user may use."""
    return _spoken(socket.AF_UNIX, socket.SOCK_STREAM, host["private_socket"])


def neighbour_port(host: Host) -> object:
    """Connect to the port on which another session's kernel listens, or a server of its user."""
    with socket.socket() as end:
        end.settimeout(2)
        end.connect(("127.0.0.1", 29787))
        return "connected"


def neighbour_storage(host: Host) -> object:
    """Use the storage of another session, by the socket on which the server listens to it."""
    address = host["neighbour_storage"]
    if isinstance(address, str):
        return _spoken(socket.AF_UNIX, socket.SOCK_STREAM, address)
    return _spoken(socket.AF_INET, socket.SOCK_STREAM, tuple(address))


def replace_storage_socket(host: Host) -> object:
    """Put a socket of one's own where the server listens to another session."""
    path = str(host["neighbour_storage"])
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(path)
        return path


def listen_on_host(host: Host) -> object:
    """Take a port of the host."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
    inodes = open("/proc/net/tcp").read()
    own = os.readlink("/proc/self/ns/net") != host["network"]
    return None if own else (port, len(inodes))


def list_connections(host: Host) -> object:
    """List the host's connections and listeners."""
    return [line for line in open("/proc/net/tcp") if f":{host['tcp']:04X}" in line]
