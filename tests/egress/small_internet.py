"""A small internet for tests: a host with a cable, and a router with all others behind it.

The process that calls `make` becomes the host: it gets a new network and mounts of its own. The
others live in one more process, which has every address of theirs, and serves on all of them:
TCP and UDP on port 8000 answer `world`, and port 53 of the router knows some names.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

from era_kernels.sandbox.linux import syscalls

PORT = 8000
HOST, ROUTER = "10.9.0.2", "10.9.0.1"
HOST6, ROUTER6 = "fd09::2", "fd09::1"
HOST_PUBLIC, HOST_PUBLIC6 = "45.33.32.5", "2606:4700:9::5"  # the host's own, beside those
PUBLIC, PUBLIC6 = "93.184.215.14", "2606:2800:21f::14"
PRIVATE, PRIVATE6 = "10.1.2.3", "fd77::3"
METADATA, METADATA6 = "169.254.169.254", "fd00:ec2::254"
OTHERS = {
    "private, 172.16/12": "172.16.5.5",
    "private, 192.168/16": "192.168.7.7",
    "shared by a carrier's customers": "100.64.1.1",
    "metadata of Alibaba's cloud": "100.100.100.200",
    "host agent of Azure": "168.63.129.16",
    "benchmarks": "198.18.0.9",
    "documentation": "203.0.113.9",
    "reserved": "240.0.0.9",
    "6to4": "2002:a01:203::1",
    "Teredo": "2001:0:a01:203::1",
    "NAT64": "64:ff9b::a01:203",
    "documentation, IPv6": "2001:db8::9",
}
# What the name server says; the names of `rebinding` take turns.
NAMES = {
    "world.example": [PUBLIC],
    "world6.example": [PUBLIC6],
    "private.example": [PRIVATE],
    "metadata.example": [METADATA],
    "host.example": [HOST],
}
REBINDING = [PUBLIC, PRIVATE]
_QUESTION = struct.Struct(">HHHHHH")


def run(*words: str) -> None:
    """Runs a command of iproute2."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


def make() -> subprocess.Popen[str]:
    """Makes this process the host of a new internet; returns the process with the others.

    That ends when its stdin is closed.
    """
    syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    resolver = Path("/run/era-resolv.conf")
    syscalls.mount("tmpfs", "/run", "tmpfs")
    resolver.write_text(f"nameserver {ROUTER}\noptions timeout:2 attempts:1\n")
    syscalls.mount(str(resolver), "/etc/resolv.conf", None, syscalls.MS_BIND)
    world = subprocess.Popen(
        [sys.executable, "-m", "tests.egress.small_internet"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert world.stdout is not None and world.stdout.readline() == "unshared\n"
    run("link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", str(world.pid))
    run("link", "set", "lo", "up")
    for address in (f"{HOST}/24", f"{HOST6}/64"):
        run("address", "add", address, "dev", "up0", *_nodad(address))
    for address in (HOST_PUBLIC, HOST_PUBLIC6):
        add_address(address)
    run("link", "set", "up0", "up")
    run("route", "add", "default", "via", ROUTER)
    run("-6", "route", "add", "default", "via", ROUTER6)
    assert world.stdin is not None
    world.stdin.write("go\n")
    world.stdin.flush()
    assert world.stdout.readline() == "serving\n"
    serve([("0.0.0.0", PORT), ("::", PORT)], [], b"host")
    return world


def open_tunnels_to_all() -> None:
    """Lets all users make tunnels, as most hosts do, in this process's mounts."""
    directory = Path("/dev/net")
    syscalls.mount("tmpfs", str(directory), "tmpfs")
    os.mknod(directory / "tun", 0o020666, os.makedev(10, 200))
    (directory / "tun").chmod(0o666)


def add_address(address: str) -> None:
    """Gives the host one more address."""
    run("address", "add", address, "dev", "lo", *_nodad(address))


def serve(tcp: list[tuple[str, int]], udp: list[tuple[str, int]], answer: bytes) -> None:
    """Answers on these addresses from threads, for as long as this process lives."""
    for address in tcp:
        listener = socket.create_server(
            address, family=_family(address[0]), dualstack_ipv6=False, backlog=512
        )
        threading.Thread(target=_serve_tcp, args=(listener, answer), daemon=True).start()
    for address in udp:
        receiver = socket.socket(_family(address[0]), socket.SOCK_DGRAM)
        receiver.bind(address)
        threading.Thread(target=_serve_udp, args=(receiver, answer), daemon=True).start()


def _serve_tcp(listener: socket.socket, answer: bytes) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_greet, args=(connection, answer), daemon=True).start()


def _greet(connection: socket.socket, answer: bytes) -> None:
    """Says who is there, and keeps the connection until the other end closes it."""
    with connection, suppress(OSError):
        connection.sendall(answer)
        while connection.recv(4096):
            pass


def _serve_udp(receiver: socket.socket, answer: bytes) -> None:
    while True:
        _, peer = receiver.recvfrom(4096)
        with suppress(OSError):
            receiver.sendto(answer, peer)


def _serve_names(receiver: socket.socket) -> None:
    asked: Counter[str] = Counter()
    while True:
        question, peer = receiver.recvfrom(4096)
        labels, position = [], _QUESTION.size
        while length := question[position]:
            labels.append(question[position + 1 : position + 1 + length].decode())
            position += 1 + length
        name, kind = ".".join(labels), struct.unpack_from(">H", question, position + 1)[0]
        known = [REBINDING[asked[name] % 2]] if name.startswith("rebinding") else NAMES.get(name)
        asked[name] += kind == 1
        wanted = {1: socket.AF_INET, 28: socket.AF_INET6}.get(kind)
        found = [one for one in known or () if _family(one) == wanted]
        head = _QUESTION.pack(
            struct.unpack_from(">H", question)[0], 0x8180 if known else 0x8183, 1, len(found), 0, 0
        )
        answers = b""
        for one in found:
            packed = socket.inet_pton(_family(one), one)
            answers += struct.pack(">HHHIH", 0xC00C, kind, 1, 0, len(packed)) + packed
        receiver.sendto(head + question[_QUESTION.size : position + 5] + answers, peer)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _nodad(address: str) -> list[str]:
    return ["nodad"] if ":" in address else []


def _be_the_others() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNET)
    print("unshared", flush=True)
    sys.stdin.readline()
    run("link", "set", "lo", "up")
    for address in (f"{ROUTER}/24", f"{ROUTER6}/64"):
        run("address", "add", address, "dev", "down0", *_nodad(address))
    run("link", "set", "down0", "up")
    hosts = [PUBLIC, PUBLIC6, PRIVATE, PRIVATE6, METADATA, METADATA6, *OTHERS.values()]
    for address in hosts:
        run("address", "add", address, "dev", "lo", *_nodad(address))
    for address in (HOST_PUBLIC, HOST_PUBLIC6):
        run("route", "add", address, "via", HOST6 if ":" in address else HOST)
    serve([("0.0.0.0", PORT), ("::", PORT)], [(one, PORT) for one in hosts], b"world")
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind((ROUTER, 53))
    threading.Thread(target=_serve_names, args=(receiver,), daemon=True).start()
    print("serving", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _be_the_others()
