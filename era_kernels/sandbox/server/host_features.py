"""Finds which kinds of isolation this host allows, by trying them in child processes."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from era_kernels.sandbox.linux import landlock as landlocks
from era_kernels.sandbox.linux import syscalls
from era_kernels.sandbox.server.pasta import PROGRAM

SECCOMP_MODE_FILTER = 2
EFAULT = 14

_CGROUP = Path("/sys/fs/cgroup")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class HostFeature:
    """One feature that isolation needs: whether it is available, and what was found."""

    name: str
    is_available: bool
    detail: str


def list_host_features() -> list[HostFeature]:
    """Returns all features that isolation can use (blocking, some milliseconds).

    The calling process must have no other threads: it is forked.
    """
    return [
        probe_namespaces(),
        probe_own_proc(),
        probe_landlock(),
        probe_seccomp(),
        probe_cgroups(),
        probe_tunnel(),
        probe_pasta(),
    ]


def probe_namespaces() -> HostFeature:
    """Tests whether a process can get its own mounts, processes and network."""
    return _try_feature(
        "namespaces", _enter_namespaces, f"mounts, processes and network, as {_user_kind()}"
    )


def probe_own_proc() -> HostFeature:
    """Tests whether namespaces can have their own /proc; many containers refuse it."""
    return _try_feature("own /proc", _mount_proc, "mounted in a process namespace")


def probe_landlock() -> HostFeature:
    """Tests whether the kernel has Landlock, and which version; see landlock(7)."""
    version = landlocks.version()
    detail = f"version {version}" if version else "this kernel has none"
    return HostFeature("Landlock", version > 0, detail)


def probe_seccomp() -> HostFeature:
    """Tests whether a process can filter its system calls: then no filter gives EFAULT."""
    none = ctypes.c_ulong(0)
    _libc.prctl(syscalls.PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), none, none, none)
    number = ctypes.get_errno()
    is_available = number == EFAULT
    return HostFeature(
        "seccomp", is_available, "filters can be set" if is_available else os.strerror(number)
    )


def probe_cgroups() -> HostFeature:
    """Tests whether we may make groups below our own, for memory and processes; makes none."""
    directories = _own_cgroups()
    read_only = [group for group in directories if not os.access(group, os.W_OK)]
    if not directories:
        return HostFeature("cgroups", False, "no hierarchy bounds memory and processes")
    if read_only:
        return HostFeature("cgroups", False, f"{read_only[0]} is not ours to write")
    return HostFeature("cgroups", True, f"memory and processes, version {3 - len(directories)}")


def probe_tunnel() -> HostFeature:
    """Tests whether a network namespace could get a connection to the outside."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return HostFeature("/dev/net/tun", False, error.strerror or str(error))
    return HostFeature("/dev/net/tun", True, "can be opened")


def probe_pasta() -> HostFeature:
    """Tests whether pasta is installed, and says what it would bring."""
    path = shutil.which(PROGRAM)
    if path is None:
        why = (
            "apt-get install passt gives sessions with internet access UDP, DNS and a way out for "
            "programs that know no proxy"
        )
        return HostFeature(PROGRAM, False, why)
    return HostFeature(PROGRAM, True, path)


def kernel_release() -> str:
    """Returns the system's name, the kernel's release and the architecture."""
    return f"{platform.system()} {platform.release()} {platform.machine()}"


# ---------------------------------------------------------------- trying


def _try_feature(name: str, attempt: Callable[[], None], detail: str) -> HostFeature:
    number = _in_child(attempt)
    return HostFeature(name, number == 0, os.strerror(number) if number else detail)


def _in_child(attempt: Callable[[], None]) -> int:
    """Runs an attempt in a forked process; returns its error number, 0 when it succeeds."""
    child = os.fork()
    if child == 0:
        number = 255
        try:
            attempt()
            number = 0
        except OSError as error:
            number = error.errno or 255
        finally:
            os._exit(number)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _enter_namespaces() -> None:
    """Unshares and uses the namespaces: some hosts allow the first and refuse the second."""
    user, group = os.getuid(), os.getgid()
    rootless = os.geteuid() != 0
    syscalls.unshare(syscalls.NAMESPACES | (syscalls.CLONE_NEWUSER if rootless else 0))
    if rootless:
        Path("/proc/self/setgroups").write_text("deny", "ascii")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", "ascii")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1", "ascii")
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)


def _mount_proc() -> None:
    _enter_namespaces()
    number = _in_child(lambda: syscalls.mount("proc", "/proc", "proc", 0))  # pid 1 of the namespace
    if number:
        raise OSError(number, os.strerror(number))


def _user_kind() -> str:
    return "root" if os.geteuid() == 0 else "an ordinary user"


def _own_cgroups() -> list[Path]:
    """Returns our directories in the hierarchies for memory and processes; see cgroups(7).

    Version 2 has one hierarchy, version 1 one for each; the list is empty with neither.
    """
    lines = _read_fields(Path("/proc/self/cgroup"), "\n")
    own = {names: path.lstrip("/") for _, names, path in (line.split(":", 2) for line in lines)}
    if "" in own:
        group = _CGROUP / own[""]
        if {"memory", "pids"} <= set(_read_fields(group / "cgroup.controllers", None)):
            return [group]
    return [_CGROUP / name / own[name] for name in ("memory", "pids") if name in own]


def _read_fields(file: Path, separator: str | None) -> list[str]:
    """Returns the fields in a kernel's file; none when the file does not exist."""
    try:
        return [field for field in file.read_text("utf-8").split(separator) if field]
    except OSError:
        return []
