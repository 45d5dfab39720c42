"""The walls themselves: namespaces, a new root, no network, no rights; raised by the init.

`enter` is called in the process that the zygote forked, `prepare` in the init, before it is known
for whom, `stand` when that is known; what fails in any of them ends the sandbox before any code of
a session has run.
"""

from __future__ import annotations

import base64
import fcntl
import os
import resource
import socket
import struct
from pathlib import Path

from era_kernels.sandbox import landlock, root, syscalls
from era_kernels.sandbox.plan import Kind, Plan

SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
# The kernel makes these in every network namespace when their modules are loaded. They are down.
UNUSED = ("erspan", "gre", "gretap", "ifb", "ip_vti", "ip6_vti", "ip6gre", "ip6tnl", "sit", "tunl")
FREE_WRITES = ("/tmp", "/dev")  # inside namespaces, where they are the session's own
# Without namespaces: what programs need, and that cannot hurt others.
OPEN_DEVICES = tuple(f"/dev/{name}" for name in root.DEVICES)
OPEN_READS = (*root.SYSTEM, *(f"/etc/{name}" for name in root.ETC), "/proc", *OPEN_DEVICES)


def enter(plan: Plan, told: int) -> None:
    """Take new namespaces and fork; only the fork, pid 1 in them, returns.

    Its pid as the zygote sees it is written to `told`. Raises OSError.
    """
    user, group = os.geteuid(), os.getegid()
    rootless = plan.kind is Kind.USER
    syscalls.unshare(syscalls.NAMESPACES | (syscalls.CLONE_NEWUSER if rootless else 0))
    if rootless:
        _map(user, group)
    pid = os.fork()
    if pid:
        os.write(told, b"%d" % pid)
        os._exit(0)
    os.close(told)


def prepare(plan: Plan) -> None:
    """Raise what is the same for all sessions. Raises OSError."""
    if plan.namespaces:
        root.begin(plan)
        _loopback_up()
        syscalls.set_host_name(root.NAME)


def stand(plan: Plan) -> None:
    """Raise all walls around this process and give up its rights, for good. Raises OSError."""
    if plan.namespaces:
        inside = root.USER if plan.uid is None else plan.uid
        root.finish(plan, inside)
        _check()
    syscalls.drop_bounding_set()
    if plan.kind is not Kind.NONE:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if plan.landlock and plan.kind is not Kind.NONE:
        _restrict(plan)
    for name, value in plan.limits.items():
        _limit(name, value)
    if plan.uid is not None:
        os.setgroups([] if plan.passage is None else [plan.passage])
        os.setresgid(plan.uid, plan.uid, plan.uid)
        os.setresuid(plan.uid, plan.uid, plan.uid)
    syscalls.drop_capabilities()
    if plan.filter:
        syscalls.set_filter(base64.b64decode(plan.filter))
    # The code has the same uid: it must not trace its init, nor read its memory.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def _map(user: int, group: int) -> None:
    """This user is the session's user inside, and nobody else exists there."""
    Path("/proc/self/setgroups").write_text("deny", "ascii")
    Path("/proc/self/uid_map").write_text(f"{root.USER} {user} 1", "ascii")
    Path("/proc/self/gid_map").write_text(f"{root.USER} {group} 1", "ascii")


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP))


def _check() -> None:
    """The walls that a mistake could leave out without a trace. Raises OSError."""
    names = {name.rstrip("0123456789") for _, name in socket.if_nameindex()}
    foreign = sorted(names - {"lo", *UNUSED})
    if os.getpid() != 1 or foreign:
        raise OSError(0, f"the sandbox is not closed: pid {os.getpid()}, interfaces {foreign}")
    if Path("/.old").exists():
        raise OSError(0, "the host's files are still in sight")


def _restrict(plan: Plan) -> None:
    if plan.namespaces:
        inside = [path for _, path in plan.writable]
        if plan.uid is not None:  # else the uid may be root's, which much in /proc trusts
            inside.append("/proc")
        landlock.restrict(("/",), (*FREE_WRITES, *inside), alone=False)
        return
    own = (path for path, _ in plan.writable)
    landlock.restrict((*OPEN_READS, *plan.readable), (*OPEN_DEVICES, *own), alone=True)


def _limit(name: str, value: int) -> None:
    """Set a limit of this process and its children, as far as the present one allows."""
    number = getattr(resource, name)
    _, most = resource.getrlimit(number)
    if most != resource.RLIM_INFINITY:
        value = min(value, most)
    resource.setrlimit(number, (value, value))
