"""Wraps Linux calls that Python's standard library lacks: namespaces, mounts, rights, prctl(2)."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Collection, Iterable
from itertools import count

CLONE_VM = 0x00000100
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
NAMESPACES = (
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET
)

MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_REMOUNT = 32
MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE = 0x1000, 0x4000, 0x40000, 0x80000
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
AT_FDCWD, AT_RECURSIVE = -100, 0x8000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 47, 2, 4
LINUX_CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_READ_SEARCH, CAP_KILL, CAP_SETGID, CAP_SETUID = 2, 5, 6, 7
CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21
# These have the same number on every architecture.
SYS_CLOSE_RANGE = 436
SYS_OPENAT2 = 437
SYS_MOUNT_SETATTR = 442
RESOLVE_NO_MAGICLINKS, RESOLVE_BENEATH = 2, 8
_MAX_DESCRIPTOR = 0xFFFFFFFF
_IDLE_STACK = 16 * 1024  # bytes
_PTRACE_DETACH = 17

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
for _name in (
    "capset", "clone", "mount", "pivot_root", "prctl", "ptrace", "sethostname", "setns", "umount2",
    "unshare",
):  # fmt: skip
    getattr(_libc, _name)  # is looked up once, not in each fork
_pause = ctypes.cast(_libc.pause, ctypes.c_void_p)
_idle_stack = (ctypes.c_char * _IDLE_STACK)()
_idle_stack_top = ctypes.c_void_p((ctypes.addressof(_idle_stack) + _IDLE_STACK) & ~15)


class _SockFprog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def prctl(option: int, argument: int = 0) -> None:
    """Calls prctl(2) with one number as its argument. Raises OSError."""
    unused = ctypes.c_ulong(0)
    result = _libc.prctl(option, ctypes.c_ulong(argument), unused, unused, unused)
    check(result, f"prctl({option})")


def check(result: int, what: str) -> int:
    """Returns the result of a C library call. Raises OSError naming `what` when it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def call(number: int, *arguments: object) -> int:
    """Calls syscall(2), where the C library has no function; the result may be negative."""
    return int(_libc.syscall(number, *arguments))


# ---------------------------------------------------------------- namespaces and mounts


def unshare(flags: int) -> None:
    """Calls unshare(2). Raises OSError."""
    check(_libc.unshare(flags), "unshare")


def make_idle_child(namespaces: int) -> int:
    """Makes a child in new namespaces, which does nothing until it is killed: clone(2).

    Returns its pid. It shares this process's memory, so that Linux has nothing to copy, and runs
    pause(2) on a stack of its own: there is one at a time. Raises OSError.
    """
    flags = CLONE_VM | namespaces | signal.SIGCHLD
    return check(_libc.clone(_pause, _idle_stack_top, flags, None), "clone")


def setns(descriptor: int, kind: int) -> None:
    """Enters namespaces that a descriptor holds: setns(2). Raises OSError."""
    check(_libc.setns(descriptor, kind), "setns")


def mount(
    source: str | None, target: str, kind: str | None = None, flags: int = 0, options: str = ""
) -> None:
    """Calls mount(2). Raises OSError."""
    result = _libc.mount(
        _bytes(source), _bytes(target), _bytes(kind), ctypes.c_ulong(flags), _bytes(options or None)
    )
    check(result, f"mount {target}")


def mount_setattr(
    target: str, attributes: int, recursive: bool = True, propagation: int = 0
) -> None:
    """Sets attributes of a mount, and of all below it: mount_setattr(2). Raises OSError."""
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, propagation, 0)
    result = call(
        SYS_MOUNT_SETATTR,
        AT_FDCWD,
        _bytes(target),
        ctypes.c_uint(AT_RECURSIVE if recursive else 0),
        ctypes.byref(wanted),
        ctypes.c_size_t(ctypes.sizeof(wanted)),
    )
    check(result, f"mount_setattr {target}")


def pivot_root(new: str, old: str) -> None:
    """Calls pivot_root(2). Raises OSError."""
    check(_libc.pivot_root(_bytes(new), _bytes(old)), "pivot_root")


def detach_mount(target: str) -> None:
    """Detaches a mount at once, busy or not: umount2(2). Raises OSError."""
    check(_libc.umount2(_bytes(target), MNT_DETACH), f"umount {target}")


def set_host_name(name: str) -> None:
    """Calls sethostname(2). Raises OSError."""
    data = name.encode()
    check(_libc.sethostname(data, ctypes.c_size_t(len(data))), "sethostname")


# ---------------------------------------------------------------- rights


def drop_bounding_set(keep: Collection[int] = ()) -> None:
    """Keeps executed programs from gaining capabilities but these; needs CAP_SETPCAP."""
    for number in count():
        if number in keep:
            continue
        try:
            prctl(PR_CAPBSET_DROP, number)
        except OSError:  # past the last, or the right is missing; no_new_privs has the same effect
            break


def drop_capabilities(keep: Collection[int] = (), inherit: Collection[int] = ()) -> None:
    """Drops all capabilities of this process but those to keep. Raises OSError.

    Those of them that are in `inherit` are kept by programs that it executes, too.
    """
    none = ctypes.c_ulong(0)
    _libc.prctl(PR_CAP_AMBIENT, ctypes.c_ulong(PR_CAP_AMBIENT_CLEAR_ALL), none, none, none)
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    kept = sum(1 << number for number in keep)
    inherited = sum(1 << number for number in inherit)
    # capset(2): effective, permitted, inheritable; then the same for capabilities from 32 on.
    sets = (ctypes.c_uint32 * 6)(kept, kept, inherited)
    check(_libc.capset(ctypes.byref(header), ctypes.byref(sets)), "capset")
    for number in inherit:
        raised = ctypes.c_ulong(PR_CAP_AMBIENT_RAISE), ctypes.c_ulong(number)
        check(_libc.prctl(PR_CAP_AMBIENT, *raised, none, none), "prctl(PR_CAP_AMBIENT)")


def set_seccomp_filter(program: bytes) -> None:
    """Filters this process's system calls by a BPF program, for good. Raises OSError."""
    size = len(program) // 8  # of an instruction: seccomp(2), struct sock_filter
    code = ctypes.create_string_buffer(program, len(program))
    filled = _SockFprog(size, ctypes.addressof(code))
    mode, none = ctypes.c_ulong(2), ctypes.c_ulong(0)
    check(_libc.prctl(PR_SET_SECCOMP, mode, ctypes.byref(filled), none, none), "seccomp")


def detach_traced(pid: int, number: int) -> None:
    """Lets go a stopped child that we trace, and delivers the signal at which it stopped.

    At an execve(2) that is SIGTRAP, which is only for tracers. Raises OSError; see ptrace(2).
    """
    delivered = 0 if number == signal.SIGTRAP else number
    pointer = ctypes.c_void_p
    result = _libc.ptrace(ctypes.c_long(_PTRACE_DETACH), pid, pointer(0), pointer(delivered))
    check(result, "ptrace")


# ---------------------------------------------------------------- descriptors and threads


def close_except(keep: Iterable[int]) -> None:
    """Closes every descriptor of this process but these."""
    first = 0
    for descriptor in sorted(set(keep)):
        _close_range(first, descriptor - 1)
        first = descriptor + 1
    _close_range(first, _MAX_DESCRIPTOR)


def enter_beneath(path: str) -> None:
    """Changes to a directory below the present one; no link leads out: openat2(2), fchdir(2).

    Raises OSError.
    """
    flags, resolve = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, RESOLVE_BENEATH
    how = struct.pack("QQQ", flags, 0, resolve | RESOLVE_NO_MAGICLINKS)
    name = ctypes.c_char_p(os.fsencode(path))
    size = ctypes.c_size_t(len(how))
    result = call(SYS_OPENAT2, AT_FDCWD, name, ctypes.c_char_p(how), size)
    descriptor = check(result, f"the directory {path}")
    os.fchdir(descriptor)
    os.close(descriptor)


def list_descriptors() -> set[int]:
    """Returns the descriptors that this process has open."""
    with os.scandir("/proc/self/fd") as entries:
        names = [entry.name for entry in entries]
    # One of them was the directory itself, which is closed by now.
    return {int(name) for name in names if _is_open(int(name))}


def count_threads() -> int:
    """Returns the number of threads of this process, including those unknown to Python."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - Path would only wrap it


def _close_range(first: int, last: int) -> None:
    if first > last:
        return
    flags = ctypes.c_uint(0)
    if _libc.syscall(SYS_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), flags) == 0:
        return
    for descriptor in list_descriptors():  # before Linux 5.9
        if first <= descriptor <= last:
            os.close(descriptor)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
