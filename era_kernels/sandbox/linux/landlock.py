"""Restricts by Landlock the files that a process and its children may use; see landlock(7)."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence

from era_kernels.sandbox.linux.syscalls import call, check

# These have the same number on every architecture.
SYS_CREATE_RULESET, SYS_ADD_RULE, SYS_RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
_RIGHTS_V1 = (1 << 13) - 1  # the rights of the first version
_FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
_ALL_TCP, _ALL_SCOPES = 3, 3  # bind and connect; abstract unix sockets and signals
TRUNCATE_SINCE, _TCP_SINCE, SCOPES_SINCE = 3, 4, 6
_RIGHTS_SINCE = {2: 1 << 13, TRUNCATE_SINCE: TRUNCATE, 5: IOCTL_DEV}

READ = EXECUTE | READ_FILE | READ_DIR

# What opening a path fails with that leads to no file: links may lead in a circle.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def version() -> int:
    """Returns the version of Landlock in this kernel; 0 for none."""
    none = ctypes.c_size_t(0)
    return max(0, call(SYS_CREATE_RULESET, None, none, ctypes.c_uint32(_VERSION)))


def restrict(
    readable: Iterable[str], writable: Iterable[str], *, deny_network_and_ipc: bool
) -> None:
    """Allows this process and its children these paths and the files below them, no others.

    `deny_network_and_ipc`: also no TCP, no abstract unix sockets and no signals beyond this
    process and its children, as far as this kernel's version can deny them.
    Needs no_new_privs. Raises OSError.
    """
    abi_version = version()
    rights = _RIGHTS_V1
    for since, right in _RIGHTS_SINCE.items():
        rights |= right if abi_version >= since else 0
    ruleset = _create_ruleset(rights, abi_version, deny_network_and_ipc)
    try:
        for path in readable:
            _add_rule(ruleset, path, READ & rights)
        for path in writable:
            _add_rule(ruleset, path, rights & ~(MAKE_CHAR | MAKE_BLOCK))
        check(call(SYS_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)), "landlock_restrict_self")
    finally:
        os.close(ruleset)


def without_hidden(paths: Iterable[str], hidden: Sequence[str]) -> Iterator[str]:
    """Yields paths that allow what `paths` do, except what is at or below a hidden one.

    Rules only ever allow: what has a hidden path below it stands for what else it has now. Links in
    there are left out, since a rule for a link is one for its target.
    """
    real_hidden = [os.path.realpath(path) for path in hidden]
    for path in paths:
        real = os.path.realpath(path)
        if any(f"{real}/".startswith(f"{one}/") for one in real_hidden):
            continue
        if any(one.startswith(f"{real.rstrip('/')}/") for one in real_hidden):
            try:
                with os.scandir(real) as entries:
                    inner = [entry.path for entry in entries if not entry.is_symlink()]
            except OSError:  # what cannot be listed is not allowed at all
                continue
            yield from without_hidden(inner, real_hidden)
        else:
            yield path


def _create_ruleset(rights: int, abi_version: int, deny_network_and_ipc: bool) -> int:
    fields = [rights]
    if abi_version >= _TCP_SINCE:
        fields.append(_ALL_TCP if deny_network_and_ipc else 0)
    if abi_version >= SCOPES_SINCE:
        fields.append(_ALL_SCOPES if deny_network_and_ipc else 0)
    attributes = (ctypes.c_uint64 * len(fields))(*fields)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    result = call(SYS_CREATE_RULESET, ctypes.byref(attributes), size, ctypes.c_uint32(0))
    return check(result, "landlock_create_ruleset")


def _add_rule(ruleset: int, path: str, rights: int) -> None:
    """Adds a rule for a path; a path that this host does not have is ignored."""
    try:
        path_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _ABSENT:
            return
        raise
    try:
        if not stat.S_ISDIR(os.fstat(path_fd).st_mode):
            rights &= _FILE_RIGHTS
        rule = _PathBeneath(rights, path_fd)
        none = ctypes.c_uint32(0)
        result = call(SYS_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), none)
        check(result, f"landlock_add_rule {path}")
    finally:
        os.close(path_fd)
