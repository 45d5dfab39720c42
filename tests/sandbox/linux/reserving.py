"""Ways to reserve disk without writing, to be tried behind the filter: one errno for each."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO, INSERT = 1, 2, 8, 16, 32
MIB = 1024 * 1024
_LIBC = ctypes.CDLL(None, use_errno=True)


def fallocate(file: int, mode: int, size: int = MIB) -> int:
    """The errno of fallocate(2), 0 when it worked."""
    result = _LIBC.fallocate64(file, mode, ctypes.c_int64(0), ctypes.c_int64(size))
    return ctypes.get_errno() if result else 0


def space_request(file: int, number: int) -> int:
    """The errno of an old ioctl with the `struct space_resv` of linux/falloc.h, of 1 MiB."""
    argument = struct.pack("hhxxxxqqiI4i", 1, 0, 0, MIB, 0, 0, 0, 0, 0, 0)
    request = (1 << 30) | (len(argument) << 16) | (ord("X") << 8) | number
    try:
        fcntl.ioctl(file, request, argument)
    except OSError as error:
        return error.errno or 0
    return 0


def outcomes(path: str) -> dict[str, str]:
    """What each way was answered, and what libc's own function did."""
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    tried = {f"fallocate {mode}": fallocate(file, mode) for mode in (0, KEEP_SIZE, ZERO, INSERT)}
    tried |= {f"ioctl {number}": space_request(file, number) for number in (10, 36, 40, 42, 57)}
    blocks = os.fstat(file).st_blocks
    os.pwrite(file, bytes(MIB), 0)
    punched = fallocate(file, KEEP_SIZE | PUNCH_HOLE)
    os.posix_fallocate(file, 0, 2 * MIB)
    size = os.fstat(file).st_size
    os.close(file)
    named = {name: errno.errorcode.get(number, "worked") for name, number in tried.items()}
    ruleset = _LIBC.syscall(444, None, ctypes.c_size_t(0), 1)  # landlock_create_ruleset(2): version
    named["ruleset"] = "worked" if ruleset >= 0 else errno.errorcode[ctypes.get_errno()]
    return {**named, "blocks": str(blocks), "punch": str(punched), "libc": str(size // MIB)}
