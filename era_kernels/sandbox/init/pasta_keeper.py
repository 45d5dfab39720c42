"""Keeps the way out of one session's network: a tap device, a filter, and pasta, which serves it.

    server ──▶ zygote ──fork──▶ keeper ──fork──▶ pasta (passt.top): packets of the tap
                                                 become sockets of the host's network

The keeper joins the user namespace to which the session's network belongs, and with it loses all
rights but those over this network. It makes the device, sets the filter, and has pasta serve it.
pasta runs in a pid namespace of its own, and dies with the keeper; both join the session's
control groups. When the server closes the socket, or is gone, or pasta has ended, the device goes
and all connections through it are ended.

    → {"rules": [[address, length, allows]]}        new rules, in place of all others
    ← {"up": true} when packets flow, or {"failed": text}
    ← {"ended": text} when pasta has ended by itself
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from era_kernels.netlink import Netlink
from era_kernels.sandbox.init import fd_messages, isolation, launch
from era_kernels.sandbox.init.sandbox_spec import OutboundSpec
from era_kernels.sandbox.linux import nftables, syscalls, tap
from era_kernels.sandbox.linux.tap import Link

if TYPE_CHECKING:  # the zygote imports no more than it uses
    from era_kernels.models import JsonObject

# Networks of examples in documents (RFC 5737, RFC 3849), which belong to nobody. The filter lets
# nothing go there but lookups of names, which pasta takes to the host's own resolver.
LINKS = (
    Link("198.51.100.2", "198.51.100.1", "198.51.100.3"),
    Link("2001:db8:6572:61::2", "2001:db8:6572:61::1", "2001:db8:6572:61::3"),
)
START_TIMEOUT = 5.0  # seconds until pasta serves the device
MAX_OPEN_FILES = 4096  # of pasta: each connection is one
MAX_DATA = 256 * 1024 * 1024  # bytes that pasta may reserve; it takes 70 MB
_NS_GET_USERNS = 0xB701  # ioctl_ns(2)
_TUN_NUMBER = os.makedev(10, 200)
_WALLS_INTERVAL = 0.001  # seconds between two looks at what pasta has done for its own isolation
_MAX_WORDS = 2048  # bytes of what pasta writes to its stderr that are kept
_CAPABILITIES = (syscalls.CAP_NET_ADMIN, syscalls.CAP_SYS_ADMIN)  # in its user namespace


def run(control: socket.socket, network: int, spec: JsonObject) -> NoReturn:
    """Serves one network namespace until the server closes the socket; does not return."""
    try:
        keeper = Keeper(control, network, OutboundSpec.from_json(spec))
        try:
            keeper.open()
            keeper.serve()
        except OSError as error:
            with contextlib.suppress(OSError):
                fd_messages.send(control, {"failed": str(error.strerror or error)})
        finally:
            keeper.close()
    finally:
        os._exit(0)


class Keeper:
    """The device, the filter and pasta of one network."""

    def __init__(self, control: socket.socket, network: int, spec: OutboundSpec) -> None:
        self._control = control
        self._network = network
        self._spec = spec
        self._links = [one for one in LINKS if nftables.family_of(one.address) in spec.families]
        self._index: int | None = None  # of the device
        self._routes: frozenset[tap.Route] = frozenset()
        self._pid: int | None = None  # of pasta
        self._words = b""  # the last that it wrote
        self._stderr, self._stderr_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def open(self) -> None:
        """Makes the device, closed by the filter to all that the rules do not let out.

        Returns when pasta serves it. Raises OSError.
        """
        own = self._control.fileno(), self._network, self._stderr, self._stderr_write
        syscalls.close_except((0, 1, 2, *own))
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        groups = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in self._spec.cgroup_procs]
        isolation.offer_to_oom_killer()
        if self._spec.uid is not None:
            _show_tun_device()
        _join_owner(self._network, is_root=self._spec.uid is not None)
        go, ready = os.pipe2(os.O_CLOEXEC)
        # Forked in the host's network, where its sockets are to be.
        syscalls.unshare(syscalls.CLONE_NEWPID)
        self._pid = os.fork()
        if self._pid == 0:
            os.close(ready)
            self._become_pasta(go)
        os.close(go)
        try:
            syscalls.setns(self._network, syscalls.CLONE_NEWNET)
            with tap.watch_links() as watch:
                tap.remove()  # what a keeper that was killed has left: it is up
                self._index = tap.make_tap()
                os.write(ready, b"1")
                # While pasta starts, which takes longer. No packet flows before the device is up.
                self._set_rules(self._spec.rules)
                tap.set_up(self._index, self._links)
                self._wait_attached(watch)
            # Last: a packet that left before pasta reads would be lost, and sent again after 1 s.
            self._change_routes(self._spec.rules)
        finally:
            os.close(ready)
        fd_messages.send(self._control, {"up": True})
        self._join_cgroups(groups)

    def _join_cgroups(self, groups: Sequence[int]) -> None:
        """Makes pasta and this process members of the session's control groups. Raises OSError.

        Not before packets flow: Linux takes some milliseconds, code that takes all the processor
        that its session may have must not delay it, and what pasta takes for a start is not the
        session's to pay.
        """
        for group in groups:
            for pid in (self._pid, os.getpid()):
                os.write(group, b"%d" % (pid or 0))
            os.close(group)

    def serve(self) -> None:
        """Returns when the server has closed the socket, or pasta has ended. Raises OSError."""
        assert self._pid is not None
        ended = os.pidfd_open(self._pid)
        poll = select.poll()
        for descriptor in (self._control.fileno(), ended, self._stderr):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._stderr in ready:
                self._read_words()
            if ended in ready:
                fd_messages.send(self._control, {"ended": self._describe_end()})
                return
            if self._control.fileno() in ready:
                received = fd_messages.receive(self._control)
                if received is None:
                    return
                self._set_rules(received[0]["rules"])
                self._change_routes(received[0]["rules"])

    def close(self) -> None:
        """Ends pasta, the device, and the connections that led out through it."""
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
        if self._index is not None:
            tap.remove()
            refusing = frozenset(route for route in self._routes if not route[-1])
            with contextlib.suppress(OSError):  # these do not go with the device
                tap.change_routes(self._index, self._links, refusing, frozenset())

    def _set_rules(self, rules: Sequence[nftables.Rule]) -> None:
        resolvers = [link.resolver for link in self._links]
        try:
            nftables.set_filter(rules, resolvers)
        except OSError as error:
            why = f"the filter of packets (nf_tables) could not be set: {error.strerror}"
            raise OSError(error.errno, why) from error

    def _change_routes(self, rules: Sequence[nftables.Rule]) -> None:
        assert self._index is not None
        wanted = tap.wanted_routes(self._links, rules)
        tap.change_routes(self._index, self._links, self._routes, wanted)
        self._routes = wanted

    def _wait_attached(self, watch: Netlink) -> None:
        """Returns when pasta serves the device, and has given up all rights that it can do without.

        It opens the device first, and begins to read packets when its last wall, the filter of
        system calls, is there. Raises OSError.
        """
        assert self._index is not None and self._pid is not None
        deadline = time.monotonic() + START_TIMEOUT
        ended = os.pidfd_open(self._pid)
        waited: list[Any] = [watch, ended, self._control]
        step = START_TIMEOUT
        while (pause := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select(waited, [], [], min(pause, step))
            if watch not in waited and _has_filter(self._pid):
                os.close(ended)
                return
            if watch in ready:
                if any(tap.is_attached(self._index, body) for _, _, body in watch.receive()):
                    waited.remove(watch)
                    step = _WALLS_INTERVAL
            elif ended in ready:
                raise OSError(0, self._describe_end())
            elif self._control in ready:
                raise OSError(0, "the server does not want it any more")
        raise OSError(0, f"pasta did not serve the device within {START_TIMEOUT:g} seconds")

    def _describe_end(self) -> str:
        assert self._pid is not None
        _, status = os.waitpid(self._pid, 0)
        self._pid = None
        self._read_words()
        code = os.waitstatus_to_exitcode(status)
        how = f"signal {-code}" if code < 0 else f"exit {code}"
        words = " ".join(self._words.decode(errors="replace").split())
        return f"pasta has ended ({how})" + (f": {words}" if words else "")

    def _read_words(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._stderr, _MAX_WORDS):
                self._words = (self._words + data)[-_MAX_WORDS:]

    def _become_pasta(self, go: int) -> NoReturn:
        """Executes pasta in this fork, when the device is there."""
        try:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            if not os.read(go, 1):  # there is no keeper any more
                os._exit(0)
            for ignored in (*launch.IGNORED_SIGNALS, signal.SIGPIPE):  # pasta asks for that
                signal.signal(ignored, signal.SIG_DFL)
            os.dup2(self._network, 0)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(self._stderr_write, 2)
            syscalls.close_except((0, 1, 2))
            for number, value in (
                (resource.RLIMIT_CORE, 0),
                (resource.RLIMIT_DATA, MAX_DATA),
                (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
            ):
                _lower_limit(number, value)
            syscalls.drop_bounding_set(_CAPABILITIES)
            is_root = self._spec.uid is not None
            syscalls.drop_capabilities(_CAPABILITIES, () if is_root else _CAPABILITIES)
            os.execve(self._spec.pasta, [self._spec.pasta, *self._arguments(is_root)], {})
        except OSError as error:
            os.write(2, str(error).encode())
        finally:
            os._exit(127)

    def _arguments(self, is_root: bool) -> list[str]:
        """Returns what pasta is to do: serve the device, and open no port on either side."""
        found = ["--foreground", "--quiet", "--netns-only", "--netns", "/proc/self/fd/0"]
        found += ["--no-netns-quit", "--no-map-gw", "--ns-ifname", tap.NAME]
        found += ["--no-dhcp", "--no-dhcpv6", "--no-ra", "--no-icmp"]
        for option in ("-t", "-u", "-T", "-U"):
            found += [option, "none"]
        if is_root:
            found += ["--runas", "0"]
        for link in self._links:
            found += ["--address", link.address, "--gateway", link.gateway]
            found += ["--dns-forward", link.resolver]
            if nftables.family_of(link.address) == socket.AF_INET:
                found += ["--netmask", "32"]
        if len(self._links) == 1:
            is_v4 = nftables.family_of(self._links[0].address) == socket.AF_INET
            found.append("--ipv4-only" if is_v4 else "--ipv6-only")
        return found


def _show_tun_device() -> None:
    """Puts a device for tunnels into a mount namespace of this process that other users may open.

    Where that is not allowed, the mode of the host's own decides. Raises OSError.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    device = Path(tap.TUN_DEVICE)
    if device.stat().st_mode & 0o006 == 0o006:
        return
    syscalls.mount("tmpfs", str(device.parent), "tmpfs", syscalls.MS_NOSUID, "mode=755,size=4k")
    os.mknod(device, 0o020600, _TUN_NUMBER)
    device.chmod(0o666)


def _join_owner(network: int, *, is_root: bool) -> None:
    """Joins the user namespace to which a network namespace belongs. Raises OSError.

    As root, this process becomes the one user that it has; it keeps no right outside.
    """
    owner = fcntl.ioctl(network, _NS_GET_USERNS)
    syscalls.setns(owner, syscalls.CLONE_NEWUSER)
    os.close(owner)
    if is_root:
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def _has_filter(pid: int) -> bool:
    """Returns whether system calls of a process are filtered: proc(5), status."""
    text = Path(f"/proc/{pid}/status").read_text("utf-8", "replace")
    return "\nSeccomp:\t2" in text


def _lower_limit(number: int, value: int) -> None:
    _, hard = resource.getrlimit(number)
    bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(number, (bounded, bounded))
