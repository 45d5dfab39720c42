"""The filter of system calls is made by names, and refuses what would reach beyond the session."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from era_kernels.sandbox.linux import seccomp, syscalls
from tests.sandbox.linux import reserving

ROOT = Path(__file__).parents[3]
X86 = platform.machine() == "x86_64"
ALIAS = 1 << 32  # the upper half of a register, which Linux ignores for an int
EPERM, ENOSYS, ALLOWED = errno.EPERM, errno.ENOSYS, None
NO_FAMILY = errno.EAFNOSUPPORT
# The numbers of system calls on x86_64 and aarch64.
NUMBERS = {
    name: x86 if X86 else arm
    for name, x86, arm in (
        ("sched_setparam", 142, 118), ("sched_setscheduler", 144, 119),
        ("sched_getscheduler", 145, 120), ("sched_setaffinity", 203, 122),
        ("sched_getaffinity", 204, 123), ("sched_setattr", 314, 274), ("setpriority", 141, 140),
        ("getpriority", 140, 141), ("ioprio_set", 251, 30), ("ioprio_get", 252, 31),
        ("prlimit64", 302, 261), ("personality", 135, 92), ("kcmp", 312, 272),
        ("process_vm_readv", 310, 270), ("process_vm_writev", 311, 271), ("move_pages", 279, 239),
        ("migrate_pages", 256, 238), ("shmget", 29, 194), ("shmat", 30, 196), ("shmctl", 31, 195),
        ("semget", 64, 190), ("semctl", 66, 191), ("msgget", 68, 186), ("msgctl", 71, 187),
        ("mq_open", 240, 180), ("mq_unlink", 241, 181), ("socket", 41, 198),
        ("socketpair", 53, 199), ("io_setup", 206, 0), ("vmsplice", 278, 75),
        ("fcntl", 72, 25), ("clone", 56, 220), ("mbind", 237, 235),
        ("set_mempolicy", 238, 237), ("get_mempolicy", 239, 236),
        ("setxattr", 188, 5), ("lsetxattr", 189, 6), ("fsetxattr", 190, 7),
        ("prctl", 157, 167), ("ioctl", 16, 29), ("setsockopt", 54, 208), ("seccomp", 317, 277),
        *((n, k, k) for n, k in
        seccomp.NEW_SYSCALLS.items()),
    )
}  # fmt: skip
if X86:
    NUMBERS["modify_ldt"] = 154
FIRST_NEW = 424  # pidfd_send_signal, the first call with the same number everywhere
SELF, OTHER = "the caller", "another"
# Without arguments that could work: whoever is allowed gets another error, of Linux itself.
ALWAYS_DENIED = (
    "open_tree_attr", "statmount", "listmount", "process_vm_readv", "process_vm_writev",
    "process_madvise", "pidfd_getfd", "kcmp", "move_pages", "migrate_pages", "memfd_secret",
    "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
    "quotactl_fd", "listns", *(("modify_ldt",) if X86 else ()),
)  # fmt: skip
IPC = ("shmget", "shmat", "shmctl", "semget", "semctl", "msgget", "msgctl", "mq_open", "mq_unlink")
OTHER_POLICY, NICE_POLICY = 3, 5  # SCHED_BATCH, SCHED_IDLE
# name, arguments, and what each filter says: with namespaces, without.
CASES: list[tuple[str, tuple[object, ...], int | None, int | None]] = [
    *((name, (), EPERM, EPERM) for name in ALWAYS_DENIED),
    *((name, (), ALLOWED, ENOSYS) for name in IPC),
    ("file_setattr", (), errno.EOPNOTSUPP, errno.EOPNOTSUPP),
    *((name, (), ENOSYS, ENOSYS) for name in ("clone3", "io_uring_setup", "io_uring_enter")),
    *(
        (name, (pid, *more), in_namespace, EPERM)
        for name, more in (
            ("sched_setscheduler", (NICE_POLICY, 0)), ("sched_setparam", (0,)),
            ("sched_setattr", (0, 0)), ("sched_setaffinity", (0, 0)),
        )
        for pid, in_namespace in (
            (1, EPERM), (ALIAS + 1, EPERM), (7 * ALIAS + 1, EPERM), (SELF, ALLOWED),
            (OTHER, ALLOWED),
        )
    ),
    *((name, (0, *more), ALLOWED, ALLOWED) for name, more in (
        ("sched_setscheduler", (NICE_POLICY, 0)), ("sched_setscheduler", (OTHER_POLICY, 0)),
        ("sched_setparam", (0,)), ("sched_setattr", (0, 0)), ("sched_setaffinity", (0, 0)),
    )),
    ("sched_setscheduler", (SELF, 0, 0), ALLOWED, ALLOWED),  # as libzmq does, by thread ids
    ("sched_setscheduler", (1, 0, 0), EPERM, ALLOWED),
    ("sched_getscheduler", (1,), ALLOWED, ALLOWED),
    ("sched_getaffinity", (1, 0, 0), ALLOWED, ALLOWED),
    ("setpriority", (0, 1, 19), EPERM, EPERM),
    ("setpriority", (ALIAS, ALIAS + 1, 19), EPERM, EPERM),
    ("setpriority", (0, OTHER, 0), ALLOWED, EPERM),
    ("setpriority", (0, 0, 0), ALLOWED, ALLOWED),
    *(("setpriority", (which, who, 19), EPERM, EPERM) for which in (1, 2, ALIAS + 1, ALIAS + 2)
      for who in (0, 1)),
    ("getpriority", (0, 1), ALLOWED, ALLOWED),
    ("getpriority", (2, 0), ALLOWED, ALLOWED),
    ("ioprio_set", (1, 1, 0), EPERM, EPERM),
    ("ioprio_set", (ALIAS + 1, ALIAS + 1, 0), EPERM, EPERM),
    ("ioprio_set", (1, 0, 0), ALLOWED, ALLOWED),
    *(("ioprio_set", (which, who, 0), EPERM, EPERM) for which in (2, 3, ALIAS + 2, ALIAS + 3)
      for who in (0, 1)),
    ("ioprio_get", (1, 1), ALLOWED, ALLOWED),
    ("prlimit64", (1, 7, "limits", 0), EPERM, EPERM),
    ("prlimit64", (ALIAS + 1, 7, "limits", 0), EPERM, EPERM),
    ("prlimit64", (1, 7, 0, 0), ALLOWED, ALLOWED),
    ("prlimit64", (OTHER, 7, 0, 0), ALLOWED, ALLOWED),
    ("prlimit64", (OTHER, 99, "limits", 0), ALLOWED, EPERM),
    ("prlimit64", (0, 99, "limits", 0), ALLOWED, ALLOWED),
    ("io_setup", (1, 0), ENOSYS, ENOSYS),
    ("vmsplice", (), ENOSYS, ENOSYS),
    *((name, (), ENOSYS, ENOSYS) for name in (
        "mbind", "set_mempolicy", "get_mempolicy", "set_mempolicy_home_node", "setxattrat",
    )),
    *((name, (0, 0, 0, size, 0), errno.E2BIG, errno.E2BIG)
      for name in ("setxattr", "lsetxattr", "fsetxattr") for size in (257, 65536, ALIAS + 1)),
    *(("fcntl", (0, command, 0), errno.EINVAL, errno.EINVAL)
      for command in (37, 38, ALIAS + 37)),
    *(("fcntl", (0, command, 0), ALLOWED, ALLOWED) for command in (3, 5, 6, 7)),
    ("clone", (0x400 | 17, 0, 0, 0, 0), EPERM, EPERM),  # CLONE_FILES
    ("clone", (0x10400, 0, 0, 0, 0), ALLOWED, ALLOWED),  # a thread, without what that needs
    *((name, (0, 0, 0, size, 0), ALLOWED, ALLOWED)
      for name in ("setxattr", "lsetxattr", "fsetxattr") for size in (0, 256)),
    *(("prctl", (option, 2, 0, 0, 0), errno.EINVAL, errno.EINVAL)
      for option in (62, ALIAS + 62, 78, ALIAS + 78)),
    ("prctl", (3, 0, 0, 0, 0), ALLOWED, ALLOWED),  # PR_GET_DUMPABLE
    *(("setsockopt", (0, level, option, 0, 0), errno.ENOPROTOOPT, errno.ENOPROTOOPT)
      for level in (1, ALIAS + 1) for option in (26, 50, 51, 52, ALIAS + 26)),
    # SO_SNDBUF, SO_DETACH_FILTER, and 26 of another level
    *(("setsockopt", (0, *which, 0, 0), ALLOWED, ALLOWED) for which in ((1, 7), (1, 27), (41, 26))),
    # What no control group counts: keys of TCP, lists of senders, larger buffers (SO_RCVBUF).
    *(("setsockopt", (0, *which, 0, 0), errno.ENOPROTOOPT, errno.ENOPROTOOPT) for which in (
        (6, 14), (ALIAS + 6, 14), (6, 32), (6, 38), (0, 38), (0, 39), (0, 41), (0, 43), (0, 46),
        (0, 48), (41, 43), (41, 46), (41, 48), (41, ALIAS + 48),
    )),
    *(("setsockopt", (0, level, option, 0, 0), 0, 0)
      for level in (1, ALIAS + 1) for option in (8, ALIAS + 8)),
    # TCP_NODELAY, IP_ADD_MEMBERSHIP, IPV6_JOIN_GROUP, 8 of TCP
    *(("setsockopt", (0, *which, 0, 0), ALLOWED, ALLOWED)
      for which in ((6, 1), (0, 35), (41, 20), (6, 8))),
    ("socket", (16, 3, 0), ALLOWED, NO_FAMILY),
    ("socket", (16, 3, 9), NO_FAMILY, NO_FAMILY),
    *(("seccomp", (action, flags, 0), errno.EINVAL, errno.EINVAL)
      for action in (1, ALIAS + 1) for flags in (0, 8)),
    ("seccomp", (2, 0, 0), ALLOWED, ALLOWED),  # SECCOMP_GET_ACTION_AVAIL
    ("prctl", (22, 2, 0, 0, 0), errno.EINVAL, errno.EINVAL),
    ("prctl", (ALIAS + 22, 2, 0, 0, 0), errno.EINVAL, errno.EINVAL),
    ("prctl", (21, 0, 0, 0, 0), ALLOWED, ALLOWED),  # PR_GET_SECCOMP
    *(("socketpair", (family, 1, 0, 0), NO_FAMILY, NO_FAMILY)
      for family in (2, 10, 16, 17, 29, 30, 38, 40, ALIAS + 30)),
    ("socketpair", (1, 1, 0, 0), ALLOWED, ALLOWED),
    *(("socket", (family, kind, 0), errno.ESOCKTNOSUPPORT, NO_FAMILY)
      for family in (2, 10) for kind in (4, 5, 6, 5 | 0o2004000, ALIAS + 6)),
    *(("socket", (family, kind, protocol), errno.EPROTONOSUPPORT, NO_FAMILY)
      for family in (2, 10) for kind in (1, 2) for protocol in (33, 115, 132, 256, ALIAS + 132)),
    *(("socket", (family, kind, 0), ALLOWED, NO_FAMILY) for family in (2, 10) for kind in (1, 2)),
    *(("socket", (1, kind, 0), ALLOWED, ALLOWED) for kind in (1, 2, 5)),
    *(("ioctl", (0, 0x50009400 | number), errno.EOPNOTSUPP, errno.EOPNOTSUPP)
      for number in (1, 14, 23, 24)),
    ("ioctl", (0, 0x40049409, 0), ALLOWED, ALLOWED),  # FICLONE
    ("personality", (0xFFFFFFFF,), ALLOWED, ALLOWED),
    ("personality", (0x0040000,), EPERM, EPERM),
    ("personality", (0x0400000 + ALIAS,), EPERM, EPERM),
]  # fmt: skip
# Loads the filter and makes every call. Where it may it is a child of a pid 1 with its own uid, so
# that nothing but the filter protects that.
PROBE = """
import contextlib, ctypes, json, os, signal, sys, time
from era_kernels.sandbox.linux import syscalls
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
cases = json.load(sys.stdin)
def fork():
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os._exit(0)
is_root = os.geteuid() == 0
with contextlib.suppress(OSError):
    syscalls.unshare(syscalls.CLONE_NEWPID | (0 if is_root else syscalls.CLONE_NEWUSER))
fork()
if is_root:
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
another = os.fork()
if not another:
    time.sleep(30)
    os._exit(0)
if child := os.fork():
    os.waitpid(child, 0)
    os.kill(another, signal.SIGKILL)
    os._exit(0)
syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
syscalls.set_seccomp_filter(bytes.fromhex(sys.argv[1]))
names = {"the caller": os.getpid(), "another": another,
         "limits": ctypes.addressof((ctypes.c_uint64 * 2)(1 << 62, 1 << 62))}
outcomes = []
for number, arguments in cases:
    values = [ctypes.c_ulong(names.get(one, one)) for one in arguments]
    values += [ctypes.c_ulong(0)] * (6 - len(values))
    result = libc.syscall(ctypes.c_long(number), *values)
    outcomes.append(ctypes.get_errno() if result < 0 else 0)
print(json.dumps([os.getppid(), outcomes]))
"""


@cache
def outcomes(has_namespaces: bool) -> list[int]:
    """What every case gave: 0 or the errno."""
    return probe(
        seccomp.export_filter(has_namespaces=has_namespaces),
        [(NUMBERS[name], arguments) for name, arguments, _, _ in CASES],
    )


def probe(program: bytes | None, calls: list[Any]) -> list[int]:
    """What every call, by its number, gave under this filter: 0 or the errno."""
    assert program is not None
    done = subprocess.run(
        [sys.executable, "-c", PROBE, program.hex()],
        input=json.dumps(calls),
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    parent, found = json.loads(done.stdout)
    assert parent == 1 or os.geteuid() != 0
    return list(found)


pytestmark = pytest.mark.skipif(not seccomp.is_available(), reason="libseccomp is not installed")


@pytest.mark.parametrize("has_namespaces", [True, False])
def test_hidden_processes(has_namespaces: bool) -> None:
    """Where the server is an ordinary user, no process may hide from it (PR_SET_DUMPABLE)."""
    hide, show = (4, 0, 0, 0, 0), (4, 1, 0, 0, 0)
    calls = [(NUMBERS["prctl"], one) for one in (show, hide, (ALIAS + 4, *hide[1:]), show)]
    for may_hide, refused in ((True, 0), (False, EPERM)):
        program = seccomp.export_filter(has_namespaces=has_namespaces, may_hide_processes=may_hide)
        assert probe(program, calls) == [0, refused, refused, 0]


@pytest.mark.parametrize("has_namespaces", [True, False])
def test_attributes_that_nobody_counts(has_namespaces: bool) -> None:
    """Each file may have any number of attributes: without a control group none can be set."""
    names = ("setxattr", "lsetxattr", "fsetxattr")
    calls = [(NUMBERS[name], (0, 0, 0, size, 0)) for name in names for size in (0, 256, 257)]
    program = seccomp.export_filter(has_namespaces=has_namespaces, counts_memory=False)
    assert probe(program, calls) == [errno.EOPNOTSUPP] * len(calls)


@pytest.mark.parametrize("has_namespaces", [True, False])
def test_export(has_namespaces: bool) -> None:
    """A BPF program: whole instructions, and few enough to be quick."""
    program = seccomp.export_filter(has_namespaces=has_namespaces)
    assert program is not None
    assert len(program) % 8 == 0
    assert 50 < len(program) // 8 < 400


@pytest.mark.parametrize("has_namespaces", [True, False])
@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda index: str(CASES[index][:2]))
def test_call(index: int, has_namespaces: bool) -> None:
    """A call is refused with its error, or gets to Linux."""
    with_namespaces, without = CASES[index][2:]
    expected = with_namespaces if has_namespaces else without
    found = outcomes(has_namespaces)[index]
    if expected is not None:
        assert found == expected
    else:
        assert found not in (EPERM, ENOSYS), os.strerror(found)


def test_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """What libseccomp does not know by name is refused by number, and none is left out."""

    class Older:
        """A libseccomp that knows no call of Linux 5.1 and later."""

        def __getattr__(self, name: str) -> object:
            return getattr(library, name)

        def seccomp_syscall_resolve_name(self, name: bytes) -> int:
            known: int = library.seccomp_syscall_resolve_name(name)
            return -1 if known >= FIRST_NEW else known

    library = seccomp._library()
    same = [seccomp.export_filter(has_namespaces=True)]
    monkeypatch.setattr(seccomp, "_library", Older)
    same.append(seccomp.export_filter(has_namespaces=True))
    assert same[0] == same[1]
    monkeypatch.setattr(seccomp, "NEW_SYSCALLS", {})
    with pytest.raises(OSError, match=r"does not know the system call"):
        seccomp.export_filter(has_namespaces=True)


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libseccomp there is no filter, and that is said elsewhere."""
    monkeypatch.setattr(seccomp, "_library", lambda: None)
    assert seccomp.export_filter(has_namespaces=True) is None
    assert not seccomp.is_available()


@pytest.mark.skipif(not seccomp.is_available(), reason="libseccomp is not installed")
def test_disk_is_not_reserved(tmp_path: Path) -> None:
    """What takes disk without writing is refused; room is still given back, and libc writes."""
    program = seccomp.export_filter(has_namespaces=True)
    assert program is not None
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
            syscalls.set_seccomp_filter(program)
            os.write(write, json.dumps(reserving.outcomes(str(tmp_path / "file"))).encode())
        finally:
            os._exit(0)
    os.close(write)
    told = json.loads(os.read(read, 65536))
    os.close(read)
    os.waitpid(pid, 0)
    refused = {name: by for name, by in told.items() if name.startswith(("fallocate", "ioctl"))}
    assert set(refused.values()) == {"ENOTSUP"}, refused  # the same number
    assert (told["blocks"], told["libc"]) == ("0", "2")
    assert told["ruleset"] == "ENOSYS"  # it would keep files that have no name
    assert told["punch"] in ("0", str(errno.EOPNOTSUPP))  # as the file system says
