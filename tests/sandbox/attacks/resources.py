"""Attacks by quantity: memory, processes, files, descriptors."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any

Host = dict[str, Any]
MIB = 1024 * 1024


def heap_bomb(host: Host) -> object:
    """Take more memory than there is for the session."""
    held = []
    while len(held) * 16 * MIB < 2 * host["memory"]:
        held.append(bytearray(16 * MIB))
        time.sleep(0.01)
    time.sleep(5)
    return f"{len(held) * 16} MiB"


def memory_of_many(host: Host) -> object:
    """Take it in many processes, each within its bound."""
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            data = bytearray(host["memory"] // 2)
            data[::4096] = b"x" * len(data[::4096])
            time.sleep(6)
            os._exit(0)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    return statuses == [0] * 8 and "all lived"


def memfd_bomb(host: Host) -> object:
    """Take it as files in memory that no process maps."""
    files = [os.memfd_create(str(number)) for number in range(64)]
    chunk = bytes(MIB)
    for file in files:
        for _ in range(host["file_size"] // MIB):
            os.write(file, chunk)
        time.sleep(0.02)
    time.sleep(5)
    return f"{len(files) * host['file_size'] // MIB} MiB"


def shm_bomb(host: Host) -> object:
    """Take it as shared memory."""
    return _filled("/dev/shm", host["shm"])


def tmp_bomb(host: Host) -> object:
    """Take it as files of /tmp, which is memory too."""
    return _filled("/tmp", host["tmp"])


def _filled(directory: str, bound: int) -> object:
    total = 0
    for number in range(64):
        with open(f"{directory}/{number}", "wb", buffering=0) as file:
            for _ in range(4):
                total += file.write(bytes(MIB))
        if total > 2 * bound:
            return f"{total // MIB} MiB"
    return None


def pipe_bomb(host: Host) -> object:
    """Take the kernel's memory as full pipes."""
    import fcntl

    total = 0
    for _ in range(60):
        _, end = os.pipe()
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, MIB)
        os.set_blocking(end, False)
        total += os.write(end, bytes(MIB))
    return total > 64 * MIB and f"{total // MIB} MiB"


def fork_bomb(host: Host) -> object:
    """Fork until nothing is left."""
    count = 0
    for _ in range(host["processes"] * 3):
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
        count += 1
    time.sleep(3)
    return f"{count} processes"


def thread_bomb(host: Host) -> object:
    """Start threads until nothing is left."""
    threading.stack_size(64 * 1024)
    count = 0
    try:
        for _ in range(host["processes"] * 3):
            threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
            count += 1
    except RuntimeError as error:
        raise OSError(11, str(error)) from None
    time.sleep(3)
    return f"{count} threads"


def large_file(host: Host) -> object:
    """Write a file without end."""
    with open("large", "wb", buffering=0) as file:
        for _ in range(2 * host["file_size"] // MIB):
            file.write(bytes(MIB))
    return "written"


def sparse_file(host: Host) -> object:
    """Make a file that only seems large, to break who reads it."""
    with open("sparse", "wb") as file:
        file.truncate(1 << 40)
    return "1 TiB"


def fallocated_file(host: Host) -> object:
    """Reserve the disk without writing."""
    with open("reserved", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 4 * host["file_size"])
    return "reserved"


def reserve_by_call(host: Host) -> object:
    """Reserve the disk by fallocate itself, 16 MiB in each of many files."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    for number in range(64):
        file = os.open(f"r{number}", os.O_RDWR | os.O_CREAT)
        if libc.fallocate64(file, 0, ctypes.c_int64(0), ctypes.c_int64(host["file_size"])):
            raise OSError(ctypes.get_errno(), "fallocate")
    return "reserved"


def reserve_by_ioctl(host: Host) -> object:
    """Reserve it by FS_IOC_RESVSP, the older way."""
    import fcntl
    import struct

    file = os.open("r", os.O_RDWR | os.O_CREAT)
    wish = struct.pack("hhxxxxqqiI4i", 1, 0, 0, host["file_size"], 0, 0, 0, 0, 0, 0)
    fcntl.ioctl(file, 0x40305828, wish)
    return "reserved"


def _write_nameless(host: Host, open_file: Any, keep: Any = None) -> object:
    """Write twice what the workspace may hold to files that have no name."""
    held = []
    for number in range(2 * host["workspace"] // (8 * MIB)):
        file = open_file(f"u{number}")
        for _ in range(8):
            os.write(file, bytes(MIB))
        held.append(file if keep is None else keep(file))
    time.sleep(6)
    return f"{len(held) * 8} MiB"


def _unlinked(name: str) -> int:
    file = os.open(name, os.O_RDWR | os.O_CREAT)
    os.unlink(name)
    return file


def unlinked_files(host: Host) -> object:
    """Fill the disk with files that were unlinked while they are open."""
    return _write_nameless(host, _unlinked)


def temporary_files(host: Host) -> object:
    """Fill it with files that never had a name (O_TMPFILE)."""
    return _write_nameless(host, lambda name: os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600))


def mapped_files(host: Host) -> object:
    """Fill it with unlinked files that are mapped and not open."""
    import mmap

    def keep(file: int) -> mmap.mmap:
        mapped = mmap.mmap(file, 4096)
        os.close(file)
        return mapped

    return _write_nameless(host, _unlinked, keep)


def files_in_sockets(host: Host) -> object:
    """Fill it with files whose only descriptor lies in a socket."""

    def keep(file: int) -> object:
        ends = socket.socketpair()
        socket.send_fds(ends[0], [b"x"], [file])
        os.close(file)
        return ends

    return _write_nameless(host, _unlinked, keep)


def files_of_hidden_process(host: Host) -> object:
    """Fill it from a process that does not let itself be looked into."""
    import ctypes

    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    return _write_nameless(host, _unlinked)


def files_in_ruleset(host: Host) -> object:
    """Fill it with files that only a ruleset of Landlock keeps alive."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(444, None, ctypes.c_size_t(0), 1) < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    return "possible"


def files_of_the_unattended(host: Host) -> object:
    """Fill it from processes that nobody waits for, so that what they wrote is not told."""
    import signal

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for number in range(2 * host["workspace"] // MIB):
        if os.fork() == 0:
            file = os.open(f"c{number}", os.O_WRONLY | os.O_CREAT)
            os.write(file, bytes(MIB))
            os._exit(0)
        time.sleep(0.01)
    time.sleep(6)
    return "written"


def files_of_hard_names(host: Host) -> object:
    """Fill it below names that break those who read them as lines or as UTF-8."""
    for _ in range(20):
        name = b"\r\n (deleted) \xff" + b"d" * 200
        os.mkdir(name)
        os.chdir(name)
    for number in range(2 * host["workspace"] // (8 * MIB)):
        file = os.open(b"\n\xfe%d" % number, os.O_WRONLY | os.O_CREAT)
        for _ in range(8):
            os.write(file, bytes(MIB))
    time.sleep(6)
    return "written"


def many_files(host: Host) -> object:
    """Fill the disk with files that are each small enough."""
    for number in range(2 * host["workspace"] // (4 * MIB)):
        with open(f"part{number}", "wb") as file:
            file.write(bytes(4 * MIB))
    time.sleep(6)
    return "written"


def many_descriptors(host: Host) -> object:
    """Open files until the host has none left."""
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(2 * host["open_files"])]
    return f"{len(held)} descriptors"


def many_sockets(host: Host) -> object:
    """Open sockets until the host has none left."""
    held = [socket.socketpair() for _ in range(host["open_files"])]
    return f"{len(held)} pairs"


def core_dump(host: Host) -> object:
    """Have the system write a core dump."""
    child = os.fork()
    if child == 0:
        os.abort()
    _, status = os.waitpid(child, 0)
    return os.WCOREDUMP(status) and "dumped"
