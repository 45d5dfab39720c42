"""Builds the filter of system calls with libseccomp, as a BPF program.

libseccomp knows the numbers of every architecture; the server makes the program once, the init of
each sandbox loads its bytes. The rules deny what namespaces and missing capabilities still allow,
and parts of the kernel that no session needs and that had many security holes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import termios
from collections.abc import Iterable
from ctypes.util import find_library

from era_kernels.sandbox.linux.syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
)

CLONE_NEWTIME = 0x80
TIOCLINUX = 0x541C
AF_NETLINK, NETLINK_ROUTE = 16, 0
_LIBRARY = "libseccomp.so.2"

# seccomp.h
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NE, _EQ, _GT, _MASKED_EQ = 1, 4, 6, 7
_ACTION_BAD_ARCHITECTURE = 2
_UNKNOWN = -1
_SUCCESS = 0  # in place of an error: nothing is done, and 0 returned

# Denied with EPERM: new namespaces and mounts, the kernel's own tables, and ways to look out of
# the sandbox.
DENIED_SYSCALLS = (
    "unshare", "setns", "mount", "umount", "umount2", "pivot_root", "chroot",
    "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
    "bpf", "perf_event_open", "add_key", "request_key", "keyctl", "userfaultfd",
    "open_by_handle_at", "name_to_handle_at", "fanotify_init",
    "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot",
    "swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "syslog", "iopl", "ioperm",
    "settimeofday", "clock_settime", "clock_adjtime", "sethostname", "setdomainname", "vhangup",
    "open_tree_attr", "statmount", "listmount", "process_vm_readv", "process_vm_writev",
    "process_madvise", "pidfd_getfd", "kcmp", "move_pages", "migrate_pages", "modify_ldt",
    "memfd_secret", "listns",
)  # fmt: skip
# Where Linux has no IPC namespace for the session these objects are the host's, and outlive it.
# They are memory that no process has, which only a control group counts.
IPC_SYSCALLS = (
    "shmget", "shmat", "shmdt", "shmctl", "semget", "semop", "semtimedop", "semctl",
    "msgget", "msgsnd", "msgrcv", "msgctl", "mq_open", "mq_unlink", "ipc",
)  # fmt: skip
# Watches names that no directory's mode hides from CAP_DAC_READ_SEARCH; Landlock knows no watching.
WATCHING_SYSCALLS = ("inotify_add_watch",)
# Change how a process is scheduled; the first argument is its pid, 0 for the caller itself.
SCHEDULING_SYSCALLS = ("sched_setscheduler", "sched_setparam", "sched_setattr", "sched_setaffinity")
# Every architecture has the same numbers for calls as new as these, which an old libseccomp does
# not know by name.
NEW_SYSCALLS = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "clone3": 435, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442,
    "quotactl_fd": 443, "landlock_create_ruleset": 444, "memfd_secret": 447,
    "set_mempolicy_home_node": 450, "statmount": 457,
    "listmount": 458, "setxattrat": 463, "open_tree_attr": 467, "file_setattr": 469, "listns": 470,
}  # fmt: skip
# Denied with ENOSYS, as by an older kernel: libraries fall back to allowed calls. (The flags of
# clone3 are behind a pointer, which a filter cannot follow.)
# A ruleset of Landlock would keep files alive (tried) that have no name and that nobody finds.
# Contexts of asynchronous I/O have one bound for the whole host, fs.aio-max-nr.
# A byte that vmsplice puts into a pipe keeps a page of memory, of 2 MiB, that no process has.
# Policies of memory (NUMA) for each page of a file in memory are counted for nobody.
# The size of an attribute (below) is behind a pointer in setxattrat.
ENOSYS_SYSCALLS = (
    "clone3", "io_uring_setup", "io_uring_enter", "io_uring_register", "landlock_create_ruleset",
    "io_setup", "vmsplice", "setxattrat",
    "mbind", "set_mempolicy", "get_mempolicy", "set_mempolicy_home_node",
)  # fmt: skip
NAMESPACE_FLAGS = (
    CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER,
    CLONE_NEWPID, CLONE_NEWNET,
)  # fmt: skip
# What reserves the disk in an instant, which no server can watch. libc's posix_fallocate(3) writes
# zeros instead when it is told EOPNOTSUPP. Giving room back (linux/falloc.h) stays allowed.
FALLOC_FL_PUNCH_HOLE = 0x02
_IOCTL_NUMBER = 0xFFFF  # letter and number, whatever the size and the direction
_IOCTL_LETTER = 0xFF00
# Requests to file systems (linux/fs.h, linux/falloc.h, xfs_fs.h, ext4.h). Some reserve disk:
# RESVSP, ALLOCSP, a hint that has each small write reserve 1 GiB. Some have Linux walk the whole
# disk, or all of a file, in a step that no signal ends: GETFSMAP, FIEMAP, MIGRATE.
FILE_SYSTEM_LETTERS = ("X", "f")
# linux/btrfs.h: SNAP_CREATE, SUBVOL_CREATE and both again as V2. Others see a subvolume as another
# file system, which neither is measured nor given to the session's uid.
BTRFS_IOCTLS = tuple((0x94 << 8) | number for number in (1, 14, 23, 24))
INTERNET_FAMILIES = (socket.AF_INET, socket.AF_INET6)
# Kinds of sockets in those families whose modules Linux loads for anybody, and that had many holes.
_SOCKET_TYPE = 0xF  # the other bits are flags
SOCK_DCCP = 6
UNUSED_TYPES = (socket.SOCK_SEQPACKET, socket.SOCK_RDM, SOCK_DCCP)
IPPROTO_DCCP, IPPROTO_L2TP, IPPROTO_SMC = 33, 115, 256
UNUSED_PROTOCOLS = (IPPROTO_DCCP, IPPROTO_L2TP, socket.IPPROTO_SCTP, IPPROTO_SMC)
PR_SET_DUMPABLE = 4
# prctl(2): a core's other threads stand still while the caller runs; and, since Linux 6.17, a table
# of futexes of up to 1 GiB in one call of any process, which only a control group counts.
PR_SCHED_CORE, PR_FUTEX_HASH = 62, 78
# Programs of BPF that anybody may give to Linux: filters of sockets and of system calls. Linux
# turns them into machine code, which no control group counts and which is bounded for the whole
# host (net.core.bpf_jit_limit). Past that bound no init could load its filter any more.
SO_ATTACH_FILTER, SO_ATTACH_BPF = 26, 50
SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_EBPF = 51, 52
SOCKET_PROGRAMS = (
    SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_EBPF,
)  # fmt: skip
# Options whose data no control group counts, some 100 KiB for each socket: keys of TCP, lists of
# senders of a multicast group. The numbers are of linux/tcp.h and linux/in.h; MCAST_* are the same
# for both versions of IP.
SOL_IP, SOL_TCP, SOL_IPV6 = 0, 6, 41
TCP_MD5SIG, TCP_MD5SIG_EXT, TCP_AO_ADD_KEY = 14, 32, 38
IPV6_FLOWLABEL_MGR = 32  # labels of streams, of which the host has one table for all
SO_ZEROCOPY = 60  # a byte that waits to be sent holds its page, of up to 2 MiB
IP_BLOCK_SOURCE, IP_ADD_SOURCE_MEMBERSHIP, IP_MSFILTER = 38, 39, 41
MCAST_BLOCK_SOURCE, MCAST_JOIN_SOURCE_GROUP, MCAST_MSFILTER = 43, 46, 48
_OF_SENDERS = (MCAST_BLOCK_SOURCE, MCAST_JOIN_SOURCE_GROUP, MCAST_MSFILTER)
UNCOUNTED_OPTIONS = (
    (socket.SOL_SOCKET, SO_ZEROCOPY), (SOL_IPV6, IPV6_FLOWLABEL_MGR),
    *((SOL_TCP, option) for option in (TCP_MD5SIG, TCP_MD5SIG_EXT, TCP_AO_ADD_KEY)),
    *((SOL_IP, option) for option in (IP_BLOCK_SOURCE, IP_ADD_SOURCE_MEMBERSHIP, IP_MSFILTER)),
    *((level, option) for level in (SOL_IP, SOL_IPV6) for option in _OF_SENDERS),
)  # fmt: skip
# Calls that put pages into a pipe or a socket without copying them: one byte there holds its page,
# also when nothing else does, and a page of a file in memory may have 2 MiB.
PAGE_SYSCALLS = ("sendfile", "splice", "tee")
# Attributes of files; the fourth argument is the size. An access list (system.posix_acl_access) is
# one of them, and Linux keeps it beside the file's inode, where no control group counts it: 64 KiB
# for each empty file in memory. One of this size takes less than the inode, which is counted.
# Other attributes a group counts: without one none can be set.
ATTRIBUTE_SYSCALLS = ("setxattr", "lsetxattr", "fsetxattr")
MAX_ATTRIBUTE = 256  # bytes
# Locks on parts of files of which Linux tells no process: those of an open file, and those of a
# process that shared its descriptors with another one, not a thread of it, and has ended. The
# server counts all others by processes.
F_OFD_SETLK, F_OFD_SETLKW = 37, 38
CLONE_FILES, CLONE_THREAD = 0x400, 0x10000
# Wishes to be told what happens to a file: leases (F_SETLEASE, F_SETDELEG), changes of a directory,
# signals at input. Linux keeps any number of them in a list, which each change and each close of
# anybody walks from end to end, and no signal ends that. The watches of inotify are bounded.
WATCHING_FCNTL = (1024, 1040, 1026)  # F_SETLEASE, F_SETDELEG, F_NOTIFY
F_SETFL, O_ASYNC = 4, 0x2000
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
SECCOMP_SET_MODE_FILTER = 1  # of seccomp(2)
INIT = 1  # the init's pid in a namespace of its own
# A whole register for a C int: Linux ignores its upper half, so no rule may look at it.
_INT = 0xFFFFFFFF
# setpriority(2) and ioprio_set(2): what the second argument names.
_PRIO_PROCESS, _PRIO_PGRP, _PRIO_USER = 0, 1, 2
_IOPRIO_PROCESS, _IOPRIO_PGRP, _IOPRIO_USER = 1, 2, 3
_PERSONALITY_QUERY = 0xFFFFFFFF  # changes nothing


class _Comparison(ctypes.Structure):
    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    ]


def export_filter(
    *,
    has_namespaces: bool,
    counts_memory: bool = True,
    reads_past_modes: bool = False,
    may_hide_processes: bool = True,
) -> bytes | None:
    """Returns the filter as a BPF program (blocking); None where libseccomp is not installed.

    With namespaces the session has a network, IPC objects and pids of its own, in which its init
    is 1; else these are the host's, and the filter refuses what would reach them. Unless a control
    group `counts_memory`, it refuses IPC objects in any case, and to set attributes of files: each
    file may have any number of them. Code with `reads_past_modes` has CAP_DAC_READ_SEARCH. Code
    that may hide its processes does so from all but root, by PR_SET_DUMPABLE. Raises OSError.
    """
    library = _library()
    if library is None:
        return None
    absent = (
        *ENOSYS_SYSCALLS,
        *(() if has_namespaces and counts_memory else IPC_SYSCALLS),
        *(WATCHING_SYSCALLS if reads_past_modes else ()),
    )
    builder = _FilterBuilder(library)
    return builder.build(has_namespaces, may_hide_processes, counts_memory, absent)


def is_available() -> bool:
    """Returns whether libseccomp is installed."""
    return _library() is not None


def _library() -> ctypes.CDLL | None:
    for name in (_LIBRARY, find_library("seccomp")):
        try:
            if name:
                library = ctypes.CDLL(name)
                library.seccomp_init.restype = ctypes.c_void_p
                return library
        except OSError:
            continue
    return None


class _FilterBuilder:
    """Builds one filter."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ALLOW)))

    def build(
        self,
        has_namespaces: bool,
        may_hide_processes: bool,
        counts_memory: bool,
        absent: Iterable[str],
    ) -> bytes:
        """Adds all rules, exports the program and frees the filter. Raises OSError.

        Calls in `absent` are answered as by a kernel that does not have them.
        """
        try:
            kill = ctypes.c_uint32(_KILL)
            self._library.seccomp_attr_set(self._context, _ACTION_BAD_ARCHITECTURE, kill)
            for name in DENIED_SYSCALLS:
                self._deny(name, errno.EPERM)
            for name in absent:
                self._deny(name, errno.ENOSYS)
            for flag in NAMESPACE_FLAGS:
                self._deny("clone", errno.EPERM, (0, _MASKED_EQ, flag, flag))
            for request in (termios.TIOCSTI, TIOCLINUX):
                self._deny("ioctl", errno.EPERM, (1, _MASKED_EQ, _INT, request))
            self._deny_reserving()
            self._deny("personality", errno.EPERM, (0, _NE, _PERSONALITY_QUERY, 0))
            for option in (PR_SCHED_CORE, PR_FUTEX_HASH):
                self._deny("prctl", errno.EINVAL, (0, _MASKED_EQ, _INT, option))
            if not may_hide_processes:
                hide = (0, _MASKED_EQ, _INT, PR_SET_DUMPABLE)
                self._deny("prctl", errno.EPERM, hide, (1, _EQ, 0, 0))
            self._deny_programs()
            self._deny_influence(has_namespaces)
            self._deny_uncounted(counts_memory)
            self._deny_signals_of_files()
            families = (*INTERNET_FAMILIES, AF_NETLINK) if has_namespaces else ()
            self._deny_families((socket.AF_UNIX, *families))
            return self._export()
        finally:
            self._library.seccomp_release(self._context)

    def _deny_influence(self, has_namespaces: bool) -> None:
        """Denies changes of priority, processors and limits that are not the session's own.

        In a pid namespace those are the init's, which is trusted; else all but the caller's. The
        caller may be named by 0 only then: a filter does not know who calls. Reading is allowed.
        """

        def other(argument: int) -> tuple[int, int, int, int]:
            return (argument, _MASKED_EQ, _INT, INIT) if has_namespaces else (argument, _NE, 0, 0)

        for name in SCHEDULING_SYSCALLS:
            # Message libraries set the default, SCHED_OTHER, for threads that they name by number.
            is_excepted = name == "sched_setscheduler" and not has_namespaces
            self._deny(name, errno.EPERM, other(0), *([(1, _NE, 0, 0)] if is_excepted else []))
        self._deny("prlimit64", errno.EPERM, other(0), (2, _NE, 0, 0))  # new limits are given
        for name, process, others in (
            ("setpriority", _PRIO_PROCESS, (_PRIO_PGRP, _PRIO_USER)),
            ("ioprio_set", _IOPRIO_PROCESS, (_IOPRIO_PGRP, _IOPRIO_USER)),
        ):
            self._deny(name, errno.EPERM, (0, _MASKED_EQ, _INT, process), other(1))
            for which in others:
                self._deny(name, errno.EPERM, (0, _MASKED_EQ, _INT, which))

    def _deny_reserving(self) -> None:
        """Denies to reserve disk without writing, and what else file systems are asked for."""
        number = errno.EOPNOTSUPP
        self._deny("fallocate", number, (1, _MASKED_EQ, FALLOC_FL_PUNCH_HOLE, 0))
        self._deny("file_setattr", number)  # as FSSETXATTR
        for letter in FILE_SYSTEM_LETTERS:
            self._deny("ioctl", number, (1, _MASKED_EQ, _IOCTL_LETTER, ord(letter) << 8))
        for request in BTRFS_IOCTLS:
            self._deny("ioctl", number, (1, _MASKED_EQ, _IOCTL_NUMBER, request))

    def _deny_programs(self) -> None:
        """Denies programs of BPF, as a Linux does that was built without them."""
        for option in SOCKET_PROGRAMS:
            level = (1, _MASKED_EQ, _INT, socket.SOL_SOCKET)
            self._deny("setsockopt", errno.ENOPROTOOPT, level, (2, _MASKED_EQ, _INT, option))
        self._deny("seccomp", errno.EINVAL, (0, _MASKED_EQ, _INT, SECCOMP_SET_MODE_FILTER))
        mode = (1, _EQ, SECCOMP_MODE_FILTER, 0)
        self._deny("prctl", errno.EINVAL, (0, _MASKED_EQ, _INT, PR_SET_SECCOMP), mode)

    def _deny_uncounted(self, counts_memory: bool) -> None:
        """Bounds what sockets and files keep of Linux's memory that no control group counts.

        To ask for a larger receive buffer changes nothing, as where net.core.rmem_max is small:
        Linux says nothing then, either.
        """
        for level, option in UNCOUNTED_OPTIONS:
            of_level = (1, _MASKED_EQ, _INT, level)
            self._deny("setsockopt", errno.ENOPROTOOPT, of_level, (2, _MASKED_EQ, _INT, option))
        of_sockets = (1, _MASKED_EQ, _INT, socket.SOL_SOCKET)
        larger_buffer = (2, _MASKED_EQ, _INT, socket.SO_RCVBUF)
        self._deny("setsockopt", _SUCCESS, of_sockets, larger_buffer)
        for name in ATTRIBUTE_SYSCALLS:
            if counts_memory:
                self._deny(name, errno.E2BIG, (3, _GT, MAX_ATTRIBUTE, 0))
            else:  # as by a file system without attributes
                self._deny(name, errno.EOPNOTSUPP)
        for name in () if counts_memory else PAGE_SYSCALLS:
            self._deny(name, errno.EINVAL)  # as for files that cannot: programs copy then
        for command in (F_OFD_SETLK, F_OFD_SETLKW):
            self._deny("fcntl", errno.EINVAL, (1, _MASKED_EQ, _INT, command))
        shares_descriptors = (0, _MASKED_EQ, CLONE_FILES | CLONE_THREAD, CLONE_FILES)
        self._deny("clone", errno.EPERM, shares_descriptors)

    def _deny_signals_of_files(self) -> None:
        """Denies to be told by signals what happens to files, as file systems do that cannot."""
        for command in WATCHING_FCNTL:
            self._deny("fcntl", errno.EINVAL, (1, _MASKED_EQ, _INT, command))
        asynchronous = (2, _MASKED_EQ, O_ASYNC, O_ASYNC)
        self._deny("fcntl", errno.EINVAL, (1, _MASKED_EQ, _INT, F_SETFL), asynchronous)
        self._deny("ioctl", errno.ENOTTY, (1, _MASKED_EQ, _INT, termios.FIOASYNC))

    def _deny_families(self, allowed: tuple[int, ...]) -> None:
        """Denies all socket families but these, and all of netlink but NETLINK_ROUTE.

        Linux makes a socket, and loads the module for it, before it knows that there are no pairs.
        """
        number = errno.EAFNOSUPPORT
        for family in range(max(allowed)):
            if family not in allowed:
                self._deny("socket", number, (0, _EQ, family, 0))
        self._deny("socket", number, (0, _GT, max(allowed), 0))
        if AF_NETLINK in allowed:
            self._deny("socket", number, (0, _EQ, AF_NETLINK, 0), (2, _NE, NETLINK_ROUTE, 0))
        self._deny("socketpair", number, (0, _NE, socket.AF_UNIX, 0))
        for family in set(INTERNET_FAMILIES).intersection(allowed):
            for kind in UNUSED_TYPES:
                unused = (1, _MASKED_EQ, _SOCKET_TYPE, kind)
                self._deny("socket", errno.ESOCKTNOSUPPORT, (0, _EQ, family, 0), unused)
            for protocol in UNUSED_PROTOCOLS:
                unused = (2, _MASKED_EQ, _INT, protocol)
                self._deny("socket", errno.EPROTONOSUPPORT, (0, _EQ, family, 0), unused)

    def _deny(self, name: str, number: int, *comparisons: tuple[int, int, int, int]) -> None:
        syscall = self._library.seccomp_syscall_resolve_name(name.encode())
        if syscall == _UNKNOWN:  # in this version of libseccomp
            if name not in NEW_SYSCALLS:
                raise OSError(errno.ENOSYS, f"libseccomp does not know the system call {name}")
            syscall = NEW_SYSCALLS[name]
        array = (_Comparison * len(comparisons))(*(_Comparison(*one) for one in comparisons))
        result = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(_ERRNO | number), syscall, len(comparisons), array
        )
        if result < 0:
            raise OSError(-result, f"a rule for {name}: {os.strerror(-result)}")

    def _export(self) -> bytes:
        memory = os.memfd_create("filter", os.MFD_CLOEXEC)
        try:
            result = self._library.seccomp_export_bpf(self._context, memory)
            if result < 0:
                raise OSError(-result, f"the filter: {os.strerror(-result)}")
            return os.pread(memory, os.fstat(memory).st_size, 0)
        finally:
            os.close(memory)
