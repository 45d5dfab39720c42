"""Attacks on processes: the server's, the zygote, the init and other sessions."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import struct
import termios
from typing import Any

Host = dict[str, Any]
libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def list_processes(host: Host) -> object:
    """See the server's command line."""
    return open(f"/proc/{host['server']}/cmdline").read() == host["server_cmdline"]


def signal_server(host: Host) -> object:
    """Signal the server."""
    os.kill(host["server"], 0)
    return open(f"/proc/{host['server']}/cmdline").read() == host["server_cmdline"]


def signal_neighbour(host: Host) -> object:
    """End a process of another session."""
    os.kill(host["neighbour_pid"], signal.SIGUSR1)
    return open(f"/proc/{host['neighbour_pid']}/cmdline").read() == host["neighbour_cmdline"]


def signal_everybody(host: Host) -> object:
    """Signal whatever can be signalled; the neighbour tells whether it was reached."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.kill(-1, signal.SIGUSR1)


def kill_init(host: Host) -> object:
    """End the sandbox's own init by a signal."""
    os.kill(1, signal.SIGKILL)
    os.kill(1, signal.SIGSEGV)


def trace_init(host: Host) -> object:
    """Trace the init."""
    return _checked(libc.ptrace(16, host["init"], None, None)) == 0 and "attached"


def trace_server(host: Host) -> object:
    """Trace the server."""
    return _checked(libc.ptrace(16, host["server"], None, None)) == 0 and "attached"


def read_init_memory(host: Host) -> object:
    """Read the init's memory, where its control socket's secrets would be."""
    return open(f"/proc/{host['init']}/mem", "rb").read(1)


def read_server_memory(host: Host) -> object:
    """Read the server's memory map."""
    return open(f"/proc/{host['server']}/maps").read()


def process_vm_read(host: Host) -> object:
    """Read another session's memory by process_vm_readv."""
    buffer = ctypes.create_string_buffer(16)

    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    mine, theirs = Vector(ctypes.addressof(buffer), 16), Vector(host["address"], 16)
    pid = host["server"]
    got = libc.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)
    return _checked(got) and buffer.raw.hex()


def steal_descriptor(host: Host) -> object:
    """Take a descriptor of the init by pidfd_getfd: its control socket."""
    pidfd = os.pidfd_open(host["init"])
    for number in range(64):
        got = libc.syscall(438, pidfd, number, 0)
        if got >= 0:
            return got
    raise OSError(ctypes.get_errno(), "pidfd_getfd")


def init_descriptors(host: Host) -> object:
    """Look at the init's control socket through /proc."""
    fd_directory = f"/proc/{host['init']}/fd"
    return [os.readlink(f"{fd_directory}/{number}") for number in os.listdir(fd_directory)]


def init_environment(host: Host) -> object:
    """Read the init's environment."""
    return open(f"/proc/{host['init']}/environ").read()


def server_environment(host: Host) -> object:
    """Read the server's environment, with its tokens."""
    return host["token"] in open(f"/proc/{host['server']}/environ").read()


def own_environment(host: Host) -> object:
    """Find the server's secrets in one's own environment."""
    return host["token"] in open("/proc/self/environ").read() + repr(os.environ)


def own_memory(host: Host) -> object:
    """Find the server's secrets in memory that was inherited by forking."""
    token = host["token"].encode()
    del host["token"]
    own = id(token)
    found = 0
    for line in open("/proc/self/maps"):
        span, modes = line.split()[:2]
        if not modes.startswith("rw") or "[v" in line:
            continue
        first, last = (int(part, 16) for part in span.split("-"))
        with open("/proc/self/mem", "rb") as memory:
            memory.seek(first)
            try:
                data = memory.read(last - first)
            except OSError:
                continue
        if not first <= own < last:
            found += data.count(token[::-1][::-1])
    return "inherited" if host.get("forked") and found else None


def inherited_descriptors(host: Host) -> object:
    """Find descriptors that were left open: sockets of the server, of the init."""
    names = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")
             if os.path.exists(f"/proc/self/fd/{name}")]  # fmt: skip
    return [name for name in names if name.startswith("socket:")]


def inject_terminal(host: Host) -> object:
    """Type into the terminal of whoever started the server."""
    fcntl.ioctl(os.open("/dev/tty", os.O_RDWR), termios.TIOCSTI, b"x")
    return "typed"


def inject_own_terminal(host: Host) -> object:
    """Use TIOCSTI at all, on a terminal of one's own."""
    _, end = os.openpty()
    os.setsid()
    fcntl.ioctl(end, termios.TIOCSCTTY, 0)
    fcntl.ioctl(end, termios.TIOCSTI, b"x")
    return "typed"


def join_host_namespace(host: Host) -> object:
    """Enter the namespaces of the server."""
    namespace = os.open(f"/proc/{host['server']}/ns/mnt", os.O_RDONLY)
    return _checked(libc.setns(namespace, 0)) == 0 and "entered"


def raise_own_limit(host: Host) -> object:
    """Raise a limit again."""
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))
    except ValueError as error:
        raise OSError(1, str(error)) from None
    return "raised"


def steal_priority(host: Host) -> object:
    """Take processors from others by priority."""
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    return "raised"


def real_time(host: Host) -> object:
    """Take a processor for good by real-time scheduling."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    return "real time"


def spare_from_oom(host: Host) -> object:
    """Make others pay when memory is short."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-1000")
    return open("/proc/self/oom_score_adj").read().strip() == "-1000"


def become_root(host: Host) -> object:
    """Change to another uid."""
    if os.getuid() == 0:
        os.setuid(12345)
        return "changed"
    os.setuid(0)
    return "root"


def gain_capability(host: Host) -> object:
    """Have a capability at all."""
    held = ("CapInh", "CapPrm", "CapEff", "CapAmb")  # no_new_privs makes the bounding set moot
    lines = [line for line in open("/proc/self/status") if line.startswith(held)]
    return [line for line in lines if int(line.split()[1], 16)]


def forge_message(host: Host) -> object:
    """Send the init an order, as the server would, through any socket in reach."""
    import socket

    for number in range(3, 64):
        try:
            with socket.socket(fileno=os.dup(number)) as end:
                end.send(struct.pack("b", 0) + b'{"op":"spawn"}')
                return number
        except OSError:
            continue
    return None
