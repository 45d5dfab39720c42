"""Attacks on what runs when: the init's priority, processors and limits, and those of others."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
from typing import Any

Host = dict[str, Any]
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
X86 = platform.machine() == "x86_64"
NUMBERS = {
    "sched_setscheduler": 144 if X86 else 119,
    "sched_setaffinity": 203 if X86 else 122,
    "sched_setparam": 142 if X86 else 118,
    "sched_setattr": 314 if X86 else 274,
    "setpriority": 141 if X86 else 140,
    "ioprio_set": 251 if X86 else 30,
    "prlimit64": 302 if X86 else 261,
}
ALIAS = 1 << 32  # the upper half of a register, which Linux ignores for an int
X32 = 0x40000000  # the bit of system calls in the ABI of that name
IDLE, PROCESS, GROUP, USER = 5, 0, 1, 2


def _call(name: str, *arguments: object) -> object:
    values = [ctypes.c_ulong(one) if isinstance(one, int) else one for one in arguments]
    if libc.syscall(ctypes.c_long(NUMBERS[name]), *values) < 0:
        raise OSError(ctypes.get_errno(), name)
    return name


def _zero() -> object:
    return ctypes.byref(ctypes.c_int(0))


def starve_init(host: Host) -> object:
    """Let the init run only when nothing else does, by sched_setscheduler."""
    return _call("sched_setscheduler", host["init"], IDLE, _zero())


def starve_init_alias(host: Host) -> object:
    """The same by another number of 64 bits that Linux takes for the same pid."""
    return _call("sched_setscheduler", host["init"] + ALIAS, IDLE, _zero())


def starve_init_attributes(host: Host) -> object:
    """The same by sched_setattr."""
    attributes = (ctypes.c_uint32 * 12)(48, IDLE)
    return _call("sched_setattr", host["init"], ctypes.byref(attributes), 0)


def parameters_of_init(host: Host) -> object:
    """Set the init's parameters of scheduling."""
    return _call("sched_setparam", host["init"], _zero())


def processor_of_init(host: Host) -> object:
    """Choose the processors on which the init may run."""
    first = ctypes.c_ulong(1 << min(os.sched_getaffinity(0)))
    return _call("sched_setaffinity", host["init"], 8, ctypes.byref(first))


def slow_init(host: Host) -> object:
    """Give the init the lowest priority."""
    return _call("setpriority", PROCESS, host["init"], 19)


def slow_init_alias(host: Host) -> object:
    """The same with aliases of both numbers."""
    return _call("setpriority", PROCESS + ALIAS, host["init"] + ALIAS, 19)


def slow_user(host: Host) -> object:
    """Give all processes of the uid the lowest priority."""
    return _call("setpriority", USER, os.getuid(), 19)


def slow_group(host: Host) -> object:
    """Give the init's process group the lowest priority."""
    return _call("setpriority", GROUP, os.getpgid(host["init"]), 19)


def slow_init_disk(host: Host) -> object:
    """Give the init the lowest priority at the disk."""
    return _call("ioprio_set", 1, host["init"], 3 << 13)


def slow_user_disk(host: Host) -> object:
    """Give all processes of the uid the lowest priority at the disk."""
    return _call("ioprio_set", 3, os.getuid(), 3 << 13)


def limit_init(host: Host) -> object:
    """Take the init its descriptors by prlimit."""
    return resource.prlimit(host["init"], resource.RLIMIT_NOFILE, (3, 3))


def limit_init_alias(host: Host) -> object:
    """The same by an alias of its pid."""
    limits = (ctypes.c_uint64 * 2)(3, 3)
    return _call("prlimit64", host["init"] + ALIAS, 7, ctypes.byref(limits), 0)


def limit_server(host: Host) -> object:
    """Take the server its descriptors or its processor time."""
    return resource.prlimit(host["server"], resource.RLIMIT_CPU, (1, 1))


def starve_server(host: Host) -> object:
    """Let the server run only when nothing else does."""
    return _call("sched_setscheduler", host["server"], IDLE, _zero())


def starve_neighbour(host: Host) -> object:
    """Let another session run only when nothing else does."""
    return _call("sched_setscheduler", host["neighbour_pid"], IDLE, _zero())


def other_abi(host: Host) -> object:
    """Make a system call by the ABI of x32, whose numbers no rule knows."""
    child = os.fork()
    if child == 0:
        os._exit(0 if libc.syscall(ctypes.c_long(X32 + 39)) >= 0 else 1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 0 and "called"


def stop_traced(host: Host) -> object:
    """Make the init a tracer that takes a stop for an end."""
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            while os.getppid() != host["init"]:
                pass
            libc.ptrace(0, 0, None, None)
            os.kill(os.getpid(), signal.SIGWINCH)
            os._exit(0)
        os._exit(0)
    os.waitpid(child, 0)
    return not os.path.exists(f"/proc/{host['init']}") and "the init is gone"


def host_shared_memory(host: Host) -> object:
    """Leave System V shared memory on the host."""
    got = libc.shmget(0, 4096, 0o1600)
    if got < 0:
        raise OSError(ctypes.get_errno(), "shmget")
    libc.shmctl(got, 0, None)
    return None if host["init"] == 1 else "left"


def host_message_queue(host: Host) -> object:
    """Leave a POSIX message queue on the host."""
    name = b"/era-%d" % os.getpid()
    flags = os.O_CREAT | os.O_RDWR
    got = ctypes.CDLL("librt.so.1", use_errno=True).mq_open(name, flags, 0o600, None)
    if got < 0:
        raise OSError(ctypes.get_errno(), "mq_open")
    os.close(got)
    return None if host["init"] == 1 else "left"
