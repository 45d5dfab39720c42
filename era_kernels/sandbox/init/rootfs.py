"""Builds a sandbox's root file system, with what programs need and nothing else of the host.

All of this runs in the init, in its own mount namespace, before the init drops its rights. Paths
are plain text here: objects of pathlib would take as long as all the mounts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from era_kernels.sandbox.init.sandbox_spec import SandboxSpec
from era_kernels.sandbox.linux import syscalls

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# The names in /etc that programs look for; the rest of /etc stays hidden.
ETC = (
    "alternatives", "ca-certificates", "fonts", "gai.conf", "java", "ld.so.cache", "ld.so.conf",
    "ld.so.conf.d", "localtime", "magic", "mime.types", "nsswitch.conf", "os-release", "pki",
    "protocols", "services", "ssl/certs", "ssl/openssl.cnf", "terminfo", "timezone",
)  # fmt: skip
# The entries of /proc that control the kernel. Some of them check the uid alone, or nothing: anyone
# has Linux watch for shortages (`pressure`), and each such wish takes a process 10 ms to end.
READ_ONLY_PROC = ("bus", "fs", "irq", "pressure", "sys", "sysrq-trigger")
DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
HOST_NAME = "sandbox"
USER_NAMESPACE_UID = 1000  # in a user namespace

_NEW_ROOT = "/tmp"  # where the new root is built; any directory would do
_OLD_ROOT = "/.old"
_ROOT_SIZE = "1m"  # the new root holds directories and a few lines of text
_PAGE = 4096  # bytes that a non-empty file takes at least
_MIN_INODES = 1024  # of any file system in memory
_MAX_TERMINALS = 256  # of a session; all sessions share 3072 (kernel.pty.max, less its reserve)
_TMPFS_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV
_BIND_ATTRIBUTES = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
_READ_ONLY_ATTRIBUTES = _BIND_ATTRIBUTES | syscalls.MOUNT_ATTR_RDONLY


def build_base(spec: SandboxSpec) -> None:
    """Builds the part of the new root that is the same for all sessions. Raises OSError."""
    # Links are followed here: below the old root their absolute targets would be others.
    readable, hidden = _real_readable(spec), [os.path.realpath(path) for path in spec.hidden]
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
    syscalls.mount("tmpfs", _NEW_ROOT, "tmpfs", _TMPFS_FLAGS, f"mode=755,size={_ROOT_SIZE}")
    os.mkdir(_NEW_ROOT + _OLD_ROOT)
    syscalls.pivot_root(_NEW_ROOT, _NEW_ROOT + _OLD_ROOT)
    os.chdir("/")
    _bind_system()
    _make_devices()
    _mount_proc(spec.own_proc)
    _mount_tmpfs("/tmp")
    _bind_readable(readable, hidden)


def add_session(spec: SandboxSpec, uid: int) -> None:
    """Adds the session's own files and detaches the host's root. Raises OSError.

    `uid` is the session's uid in the sandbox.
    """
    for path, size in (("/dev/shm", spec.shm), ("/tmp", spec.tmp)):
        # Empty files do not count against the size, but take a kilobyte of memory each.
        bounds = f"size={size},nr_inodes={max(_MIN_INODES, size // _PAGE)}"
        syscalls.mount(None, path, None, syscalls.MS_REMOUNT | _TMPFS_FLAGS, bounds)
    for source, path in spec.writable:
        _bind(source, path, _BIND_ATTRIBUTES)
    for source, path in spec.mounts:
        # Private: mounts that the host makes below it later would not be read-only.
        _bind(source, path, _READ_ONLY_ATTRIBUTES, syscalls.MS_PRIVATE)
    _write_etc_files(uid, spec.home, spec.resolvers)
    syscalls.detach_mount(_OLD_ROOT)
    os.rmdir(_OLD_ROOT)
    syscalls.mount_setattr("/", _READ_ONLY_ATTRIBUTES, recursive=False)


def _bind_system() -> None:
    for path in SYSTEM:
        old = _OLD_ROOT + path
        if os.path.islink(old):
            os.symlink(os.readlink(old), path)
        elif os.path.isdir(old):
            _bind(path, path, _READ_ONLY_ATTRIBUTES)
    os.mkdir("/etc")
    for name in ETC:
        path = f"/etc/{name}"
        old = _OLD_ROOT + path
        if "/" not in name and os.path.islink(old):
            os.symlink(os.readlink(old), path)
        elif os.path.exists(old):
            _bind(path, path, _READ_ONLY_ATTRIBUTES)


def _make_devices() -> None:
    os.mkdir("/dev")
    bounds = f"mode=755,size=64k,nr_inodes={_MIN_INODES}"
    syscalls.mount("tmpfs", "/dev", "tmpfs", syscalls.MS_NOSUID, bounds)
    for name in DEVICES:
        _write_file(f"/dev/{name}")
        syscalls.mount(f"{_OLD_ROOT}/dev/{name}", f"/dev/{name}", None, syscalls.MS_BIND)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"/dev/{name}")
    os.symlink("/proc/self/fd", "/dev/fd")
    os.symlink("pts/ptmx", "/dev/ptmx")
    os.mkdir("/dev/pts")
    flags = syscalls.MS_NOSUID | syscalls.MS_NOEXEC
    options = f"newinstance,ptmxmode=0666,mode=620,max={_MAX_TERMINALS}"
    syscalls.mount("devpts", "/dev/pts", "devpts", flags, options)
    _mount_tmpfs("/dev/shm")


def _mount_proc(own: bool) -> None:
    os.mkdir("/proc")
    if own:
        syscalls.mount("proc", "/proc", "proc", _TMPFS_FLAGS | syscalls.MS_NOEXEC)
    else:
        syscalls.mount(f"{_OLD_ROOT}/proc", "/proc", None, syscalls.MS_BIND | syscalls.MS_REC)
    for name in READ_ONLY_PROC:
        path = f"/proc/{name}"
        if os.path.exists(path):
            syscalls.mount(path, path, None, syscalls.MS_BIND | syscalls.MS_REC)
            syscalls.mount_setattr(path, _READ_ONLY_ATTRIBUTES)


def _mount_tmpfs(path: str) -> None:
    """Mounts a tmpfs; its size is set for each session later."""
    os.mkdir(path)
    bounds = f"mode=1777,size={_ROOT_SIZE},nr_inodes={_MIN_INODES}"
    syscalls.mount("tmpfs", path, "tmpfs", _TMPFS_FLAGS, bounds)


def _real_readable(spec: SandboxSpec) -> dict[str, str]:
    """Returns the readable paths that are there, each with the real path that it leads to."""
    found = ((path, os.path.realpath(path)) for path in spec.readable)
    return {path: real for path, real in found if os.path.exists(real)}


def _bind_readable(readable: dict[str, str], hidden: list[str]) -> None:
    """Shows the readable paths (the interpreter and its packages), and covers the hidden ones.

    Both lead to real paths of the host. What is hidden is covered wherever it is shown: a readable
    path may be a link to what holds it.
    """
    shown = {one: one for one in SYSTEM if os.path.isdir(one) and not os.path.islink(one)}
    for path, real in readable.items():
        others = (*SYSTEM, *(other for other in readable if other != path))
        if not is_below(path, others) and not is_below(f"{real}/", hidden):
            _bind(real, path, _READ_ONLY_ATTRIBUTES)
            shown[path] = real
    for path, real in shown.items():
        for one in hidden:
            inner = path + one.removeprefix(real)
            if is_below(one, [real]) and os.path.isdir(inner):
                syscalls.mount("tmpfs", inner, "tmpfs", _TMPFS_FLAGS, "mode=000,size=4k")


def is_below(path: str, others: Iterable[str]) -> bool:
    """Returns whether the path lies below one of the others."""
    return any(path.startswith(other.rstrip("/") + "/") for other in others)


def _write_etc_files(uid: int, home: str, resolvers: Iterable[str]) -> None:
    """Writes the session's own versions of files that would describe the host."""
    texts = {
        "passwd": f"root:x:0:0:root:/:/bin/sh\nuser:x:{uid}:{uid}:user:{home}:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/:/bin/sh\n",
        "group": f"root:x:0:\nuser:x:{uid}:\nnogroup:x:65534:\n",
        "hosts": f"127.0.0.1 localhost {HOST_NAME}\n::1 localhost\n",
        "hostname": f"{HOST_NAME}\n",
        "resolv.conf": "".join(f"nameserver {address}\n" for address in resolvers),
    }
    for name, text in texts.items():
        _write_file(f"/etc/{name}", text.encode())


def _bind(source: str, target: str, attributes: int, propagation: int = 0) -> None:
    """Bind-mounts a path of the host, with all mounts below it."""
    old = _OLD_ROOT + source
    if os.path.isdir(old):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        _write_file(target)
    syscalls.mount(old, target, None, syscalls.MS_BIND | syscalls.MS_REC)
    syscalls.mount_setattr(target, attributes, propagation=propagation)


def _write_file(path: str, data: bytes = b"") -> None:
    """Makes a file where none is, and writes these bytes into it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
