"""Attacks on another session of the same server, of which the code has found out all names."""

from __future__ import annotations

import ctypes
import os
import socket
from typing import Any

Host = dict[str, Any]
libc = ctypes.CDLL(None, use_errno=True)
IN_ALL_EVENTS = 0xFFF


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _received(address: str) -> bytes:
    """What somebody who connects there is sent, or `connected` when nothing comes."""
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(2)
        end.connect(address)
        try:
            end.send(b"hello")
            return end.recv(64)
        except TimeoutError:
            return b"connected"


def find_socket_names(host: Host) -> object:
    """Find the names of another session's sockets in /proc/net/unix."""
    return host["neighbour_channel"] in open("/proc/net/unix").read()


def read_kernel_channel(host: Host) -> object:
    """Connect where the server waits for the kernel of another session, to be taken for it."""
    return _received(host["neighbour_channel"])


def read_kernel_channel_by_descriptor(host: Host) -> object:
    """Do so by a descriptor of the socket's path, which no later change of names would hit."""
    path = os.open(host["neighbour_channel"], os.O_PATH)
    return _received(f"/proc/self/fd/{path}")


def replace_kernel_channel(host: Host) -> object:
    """Put a socket of one's own where the kernel of another session connects."""
    os.unlink(host["neighbour_channel"])
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(host["neighbour_channel"])
    return "replaced"


def take_kernel_socket_name(host: Host) -> object:
    """Bind a socket in another session's runtime directory before its kernel does."""
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(f"{host['neighbour_runtime']}/k-2")
    return "bound"


def move_socket_over_name(host: Host) -> object:
    """Move a socket of one's own to a name in another session's runtime directory."""
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("mine")
        os.rename("mine", f"{host['neighbour_runtime']}/k-2")
    return "moved"


def keep_link_to_socket(host: Host) -> object:
    """Keep a link to a socket of another session, for when its name is gone."""
    os.link(host["neighbour_channel"], "kept")
    return "linked"


def read_connection_file(host: Host) -> object:
    """Read what lies in another session's runtime directory, as the key of its kernel does."""
    return os.listdir(host["neighbour_runtime"])


def program_socket(host: Host) -> object:
    """Connect to a unix socket that a program of another session has as a file."""
    return _received(host["neighbour_socket"])


def abstract_program_socket(host: Host) -> object:
    """Connect to an abstract unix socket of another session's program."""
    return _received(f"\0{host['neighbour_abstract']}")


def trace(host: Host) -> object:
    """Trace a process of another session."""
    return _checked(libc.ptrace(16, host["neighbour_pid"], None, None)) == 0 and "attached"


def memory(host: Host) -> object:
    """Read the memory of another session's process."""
    with open(f"/proc/{host['neighbour_pid']}/mem", "rb"):
        return "opened"


def environment(host: Host) -> object:
    """Read the environment of another session's process."""
    return host["neighbour_variable"] in open(f"/proc/{host['neighbour_pid']}/environ").read()


def count_descriptors(host: Host) -> object:
    """See how many descriptors another session's process has open."""
    return os.listdir(f"/proc/{host['neighbour_pid']}/fd")


def descriptors(host: Host) -> object:
    """See what the descriptors of another session's process are."""
    return os.readlink(f"/proc/{host['neighbour_pid']}/fd/0")


def open_descriptor(host: Host) -> object:
    """Open what another session's process has open, through /proc."""
    with open(f"/proc/{host['neighbour_pid']}/fd/1", "wb"):
        return "opened"


def working_directory(host: Host) -> object:
    """Reach another session's files through the working directory of its process."""
    return os.listdir(f"/proc/{host['neighbour_pid']}/cwd/")


def steal_descriptor_of_neighbour(host: Host) -> object:
    """Take a descriptor of another session's process by pidfd_getfd."""
    pidfd = os.pidfd_open(host["neighbour_pid"])
    return _checked(libc.syscall(438, pidfd, 1, 0))


def reopen_by_path_descriptor(host: Host) -> object:
    """Open another session's file without rights to it, and again to read through /proc."""
    path = os.open(host["neighbour"], os.O_PATH)
    return open(f"/proc/self/fd/{path}").read()


def take_file(host: Host) -> object:
    """Move a file of another session into the own workspace."""
    os.rename(host["neighbour"], "taken")
    return "taken"


def cut_file(host: Host) -> object:
    """Cut a file of another session short."""
    os.truncate(host["neighbour"], 1)
    return "cut"


def see_size(host: Host) -> object:
    """See the size of another session's file."""
    return os.stat(host["neighbour"]).st_size


def watch_directory(host: Host) -> object:
    """Watch the names of files that another session makes."""
    watch = _checked(libc.inotify_init1(0))
    directory = os.path.dirname(host["neighbour"]).encode()
    return _checked(libc.inotify_add_watch(watch, directory, IN_ALL_EVENTS)) > 0 and "watched"


def change_mode(host: Host) -> object:
    """Change the mode of another session's directory, so that it could not use it any more."""
    os.chmod(os.path.dirname(host["neighbour"]), 0o700)  # as it is: others are to try theirs, too
    return "changed"


def open_shared_memory(host: Host) -> object:
    """Open shared memory or a semaphore of others in /dev/shm by its name."""
    with open(f"/dev/shm/{host['in_shm'][0]}", "r+b"):
        return "opened"


def open_temporary_file(host: Host) -> object:
    """Open a file of others in /tmp by its name."""
    with open(f"/tmp/{host['in_tmp'][0]}", "r+b"):
        return "opened"


def make_shared_name(host: Host) -> object:
    """Make a file in the /dev/shm of others, where they would look for a name of theirs."""
    path = f"/dev/shm/sem.{host['in_shm'][0]}"
    with open(path, "xb"):
        is_hosts = os.stat(path).st_dev == host["shm_device"]
    os.unlink(path)
    return is_hosts and "made"
