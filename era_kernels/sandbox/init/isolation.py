"""Applies the isolation of a sandbox: namespaces, a new root, no network, no rights.

`enter_namespaces` is called in the process that the zygote forked, `setup_mounts` in the init
before its session is known, `apply` when the session is known. A failure in any of them ends the
sandbox before any code of a session has run. `enter_session` is called in every process that the
init forks, before it becomes a program.
"""

from __future__ import annotations

import base64
import fcntl
import os
import resource
import signal
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress

from era_kernels.sandbox.init import rootfs
from era_kernels.sandbox.init.sandbox_spec import IsolationKind, SandboxSpec
from era_kernels.sandbox.linux import landlock, syscalls

SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
# Linux makes these in every network namespace when their modules are loaded; they are down.
UNUSED_INTERFACES = (
    "erspan",
    "gre",
    "gretap",
    "ifb",
    "ip_vti",
    "ip6_vti",
    "ip6gre",
    "ip6tnl",
    "sit",
    "tunl",
)
# Thousandths of the host's memory that a process counts as if it had them, too, when Linux chooses
# one to end.
OOM_SCORE = 500
TCP_BUFFERS = "/proc/sys/net/ipv4/tcp_rmem"  # of the network that the reader is in
MAX_TCP_BUFFER = 256 * 1024  # bytes
WRITABLE_PATHS = ("/tmp", "/dev")  # in namespaces, where they are the session's own
# Without namespaces: devices that programs need, and that cannot harm others.
OPEN_DEVICES = tuple(f"/dev/{name}" for name in rootfs.DEVICES)
# What an init with a uid of its own needs: to signal the session's processes, and to make new ones.
INIT_CAPABILITIES = (syscalls.CAP_KILL, syscalls.CAP_SETGID, syscalls.CAP_SETUID)
# What code itself has where only root may reach the interpreter: no mode hinders reading.
READING_CAPABILITIES = (syscalls.CAP_DAC_READ_SEARCH,)
READABLE_PATHS = (*rootfs.SYSTEM, *(f"/etc/{name}" for name in rootfs.ETC), "/proc", *OPEN_DEVICES)


def offer_to_oom_killer() -> None:
    """Makes Linux end sessions before the server, should the host itself have no memory left.

    Only processes with CAP_SYS_RESOURCE can take that back. Of sessions it still ends the largest.
    """
    with suppress(OSError):  # a container may have this file read-only
        _write("/proc/self/oom_score_adj", str(OOM_SCORE))


def fork_into_pid_namespace() -> int:
    """Forks; the fork is pid 1 of a new pid namespace. Returns as os.fork(). Raises OSError.

    Only root can do this: this process itself stays where it is, as do its next children.
    """
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.unshare(syscalls.CLONE_NEWPID)
        pid = None
        try:
            pid = os.fork()
        finally:
            if pid != 0:
                _return_to(own)
    finally:
        os.close(own)
    return pid


def _return_to(pid_namespace: int) -> None:
    """Has the next children in this pid namespace again, or ends this process."""
    try:
        syscalls.setns(pid_namespace, syscalls.CLONE_NEWPID)
    except OSError:  # it could make no child any more
        os._exit(1)


def enter_namespaces(spec: SandboxSpec) -> None:
    """Enters new namespaces of all kinds but pids, as root. Raises OSError."""
    namespaces = syscalls.NAMESPACES & ~syscalls.CLONE_NEWPID
    if spec.network_uid is not None:
        _enter_network_of(spec.network_uid)
        namespaces &= ~syscalls.CLONE_NEWNET
    syscalls.unshare(namespaces)


def enter_namespaces_and_fork(pid_fd: int) -> None:
    """Enters new namespaces as an ordinary user and forks; only the fork, pid 1 there, returns.

    The pid of the fork as the zygote sees it is written to `pid_fd`. Raises OSError.
    """
    user, group = os.geteuid(), os.getegid()
    syscalls.unshare(syscalls.NAMESPACES | syscalls.CLONE_NEWUSER)
    _map_user(user, group)
    pid = os.fork()
    if pid:
        os.write(pid_fd, b"%d" % pid)
        os._exit(0)
    os.close(pid_fd)


def _enter_network_of(uid: int) -> None:
    """Enters a new network namespace, which belongs to a user namespace with one user in it.

    Whoever serves the network joins that user namespace later, and has rights over the network
    alone, none over the host. Leaves a child that has been killed. Raises OSError.
    """
    pid = syscalls.make_idle_child(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNET)
    try:
        child = os.pidfd_open(pid)
        # Here /proc still shows the host's processes, and the pid is one of the new namespace.
        fields = _read(f"/proc/self/fdinfo/{child}").split()
        number = int(fields[fields.index(b"Pid:") + 1])
        for name in ("uid_map", "gid_map"):
            _write(f"/proc/{number}/{name}", f"0 {uid} 1")
        syscalls.setns(child, syscalls.CLONE_NEWNET)
        os.close(child)
    finally:
        os.kill(pid, signal.SIGKILL)


def setup_mounts(spec: SandboxSpec) -> None:
    """Sets up the mounts and network that are the same for all sessions. Raises OSError."""
    if spec.has_namespaces:
        _bound_tcp_buffers()  # before /proc/sys becomes read-only
        rootfs.build_base(spec)
        _loopback_up()
        syscalls.set_host_name(rootfs.HOST_NAME)
        with suppress(ChildProcessError):  # what `_enter_network_of` left has ended meanwhile
            os.waitpid(-1, 0)


def apply(spec: SandboxSpec) -> None:
    """Applies the isolation to this process and drops its rights, for good. Raises OSError.

    Where the session has a uid of its own the init gets another, so that code can neither signal
    nor trace it, nor change its limits or priority.
    """
    if spec.has_namespaces:
        inner_uid = rootfs.USER_NAMESPACE_UID if spec.uid is None else spec.uid
        rootfs.add_session(spec, inner_uid)
        _verify()
    code_capabilities = _code_capabilities(spec)
    syscalls.drop_bounding_set(code_capabilities)
    if spec.kind is not IsolationKind.NONE:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if spec.landlock and spec.kind is not IsolationKind.NONE:
        _apply_landlock(spec)
    if spec.uid is None or spec.init_uid is None:
        _set_rlimits(spec)
        syscalls.drop_capabilities()
    else:
        syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
        _set_user(spec.init_uid, spec)
        kept = (*INIT_CAPABILITIES, *code_capabilities)
        syscalls.drop_capabilities(keep=kept)
        syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 0)
    # Code may have the same uid: it must not trace its init, nor read its memory.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    if spec.seccomp_program:  # which may refuse what was just done
        syscalls.set_seccomp_filter(base64.b64decode(spec.seccomp_program))


def enter_session(spec: SandboxSpec) -> None:
    """Gives this process the session's uid and limits, and takes its rights. Raises OSError.

    Does nothing where the init itself has them. The process stays as untraceable as its init.
    """
    if spec.uid is not None and spec.init_uid is not None:
        _set_rlimits(spec)
        _set_user(spec.uid, spec)
        kept = _code_capabilities(spec)
        syscalls.drop_capabilities(keep=kept, inherit=kept)


def _code_capabilities(spec: SandboxSpec) -> Sequence[int]:
    """Returns the capabilities that code of the session keeps."""
    return READING_CAPABILITIES if spec.reads_past_modes else ()


def _set_user(uid: int, spec: SandboxSpec) -> None:
    os.setgroups([] if spec.traverse_gid is None else [spec.traverse_gid])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _map_user(user: int, group: int) -> None:
    """Maps this user to the session's user in the namespace, where no other user exists."""
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{rootfs.USER_NAMESPACE_UID} {user} 1")
    _write("/proc/self/gid_map", f"{rootfs.USER_NAMESPACE_UID} {group} 1")


def _bound_tcp_buffers() -> None:
    """Bounds the receive buffers to which Linux lets connections of this network grow.

    A socket's error queue may take as much, and no control group counts it.
    """
    with suppress(OSError):  # a container may have this file read-only
        least, initial, _ = _read(TCP_BUFFERS).split()
        largest = max(MAX_TCP_BUFFER, int(initial))
        _write(TCP_BUFFERS, f"{int(least)} {int(initial)} {largest}")


def _read(path: str) -> bytes:
    """Reads a short file of Linux in one call."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def _write(path: str, text: str) -> None:
    """Writes to a file of Linux in one call; a text codec may not be imported yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP))


def _verify() -> None:
    """Checks the parts of isolation that a bug could leave out unseen. Raises OSError."""
    names = {name.rstrip("0123456789") for _, name in socket.if_nameindex()}
    foreign = sorted(names - {"lo", *UNUSED_INTERFACES})
    if os.getpid() != 1 or foreign:
        raise OSError(0, f"the sandbox is not closed: pid {os.getpid()}, interfaces {foreign}")
    if os.path.lexists("/.old"):
        raise OSError(0, "the host's files are still in sight")


def _apply_landlock(spec: SandboxSpec) -> None:
    if spec.has_namespaces:
        inside = [path for _, path in spec.writable]
        if spec.uid is not None:  # else the uid may be root's, which much in /proc trusts
            inside.append("/proc")
        landlock.restrict(("/",), (*WRITABLE_PATHS, *inside), deny_network_and_ipc=False)
        return
    own = (path for path, _ in spec.writable)
    readable = landlock.without_hidden((*READABLE_PATHS, *spec.readable), spec.hidden)
    landlock.restrict(readable, (*OPEN_DEVICES, *own), deny_network_and_ipc=True)


def _set_rlimits(spec: SandboxSpec) -> None:
    """Sets limits of this process and its children, at most to the present hard limits."""
    for name, value in spec.rlimits.items():
        number = getattr(resource, name)
        _, hard_limit = resource.getrlimit(number)
        bounded = value if hard_limit == resource.RLIM_INFINITY else min(value, hard_limit)
        resource.setrlimit(number, (bounded, bounded))
