"""The zygote: a warm interpreter that forks an init for each sandbox.

    server ──exec──▶ zygote ──fork──▶ init ──fork──▶ program
                     imports,         reaps, signals,  becomes a plain interpreter
                     single-threaded  reports, ends    or executes something else

`main` walks this line in one process image: each step returns in its forked child only, with all
that the step before needed let go, so that a program starts on an almost empty stack. Walls have
their places between the steps: namespaces are entered by one more fork before the init starts
(`walls.enter`), all other walls are raised by the init around itself (`walls.stand`), so that
whatever it starts is born inside.

The zygote holds nothing secret, no thread, no event loop; at the end of its control socket (the
server is gone, however it went) it leaves.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from era_kernels.models import JsonObject
from era_kernels.sandbox import init, program, syscalls, walls, wire
from era_kernels.sandbox.children import Deaths, children, end_all, reaped
from era_kernels.sandbox.groups import join, remove_home
from era_kernels.sandbox.plan import Plan

LEAVE = 1.0  # seconds for inits to end by themselves when the server is gone


def main() -> None:
    """Be a zygote, then in its child an init, then in its child a program.

    Called in a fresh interpreter with the control socket's descriptor in `sys.argv[1]`.
    """
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    for number in program.IGNORED:
        signal.signal(number, signal.SIG_IGN)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    interpreter, homes = _warm_up(control)
    birth = Zygote(control, homes).serve()
    launch = init.Init(birth.control, birth.plan).serve()
    program.run(launch, interpreter)


@dataclass(frozen=True, slots=True)
class Birth:
    """What an init comes into the world with: its control socket, and the walls to raise."""

    control: socket.socket
    plan: Plan


class Zygote:
    """The loop: orders in, inits out, and an eye on what dead inits leave behind."""

    def __init__(self, control: socket.socket, homes: Sequence[str]) -> None:
        """`homes`: directories of control groups that nobody needs when the server is gone."""
        self._control = control
        self._homes = homes
        self._deaths = Deaths()
        self._inits: dict[int, int] = {}  # pid → number of the order
        self._entering: dict[int, int] = {}  # where a pid in namespaces is told → number

    def serve(self) -> Birth:
        """Fork inits until the server is gone; returns in each of them."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._deaths.descriptor, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._deaths.descriptor in ready:
                self._bury()
            if self._control.fileno() in ready:
                received = wire.receive(self._control)
                if received is None:
                    _leave(self._homes)
                else:
                    birth = self._obey(*received)
                    if birth is not None:
                        return birth

    def __contains__(self, pid: object) -> bool:
        """Is this child an init? One in namespaces of its own becomes ours while we look."""
        if pid not in self._inits:
            self._note_entered()
        return pid in self._inits

    def _obey(self, message: JsonObject, descriptors: list[int]) -> Birth | None:
        if message["op"] == "kill":
            self._note_entered()
            for pid, number in self._inits.items():
                if number == message["number"]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)  # ours and not waited for: still the one
            return None
        return self._fork(message["number"], Plan.from_json(message["plan"]), descriptors[0])

    def _fork(self, number: int, plan: Plan, descriptor: int) -> Birth | None:
        """An init for this order; returns something in the child only."""
        told, tell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            pid = os.fork()
        except OSError:  # too many processes: the server sees the end of its socket
            self._tell_gone(number)
            pid = None
        if pid == 0:
            self._control.close()
            self._deaths.close()
            return _born(Birth(socket.socket(fileno=descriptor), plan), tell)
        os.close(descriptor)
        os.close(tell)
        if pid is None or not plan.namespaces:
            os.close(told)
        else:
            self._entering[told] = number
        if pid is not None:
            self._inits[pid] = number
        return None

    def _note_entered(self) -> None:
        """Read the pids of those that entered namespaces, whose first parent ends then."""
        for told, number in tuple(self._entering.items()):
            with contextlib.suppress(BlockingIOError):
                pid = os.read(told, 16)
                if pid:
                    self._inits[int(pid)] = number
                    self._tell({"init": int(pid), "number": number})
                os.close(told)
                del self._entering[told]

    def _bury(self) -> None:
        """Reap; what inits that were killed left behind became our children, and ends here."""
        self._deaths.clear()
        dead = reaped()
        self._note_entered()
        # Both processes of one init may have died: it is told once.
        gone = {self._inits.pop(pid) for pid, _ in dead if pid in self._inits}
        end_all(spared=self)
        for number in gone:
            if number not in self._inits.values():
                self._tell_gone(number)

    def _tell_gone(self, number: int) -> None:
        self._tell({"gone": number})

    def _tell(self, message: JsonObject) -> None:
        with contextlib.suppress(BrokenPipeError):  # the loop is about to see the end, too
            wire.send(self._control, message)


def _born(birth: Birth, tell: int) -> Birth:
    """In the forked child: join the groups and enter the namespaces that were ordered.

    In this order: the namespace of groups begins where the process is. Ends and says why when
    that fails.
    """
    try:
        join(birth.plan.doors)
        if birth.plan.namespaces:
            syscalls.close_except((0, 1, 2, birth.control.fileno(), tell))
            walls.enter(birth.plan, tell)
    except OSError as error:
        init.give_up(birth.control, error)
    return birth


def _warm_up(control: socket.socket) -> tuple[program.Interpreter, Sequence[str]]:
    """Import what the server names, and tell it what could not be had.

    Also returns the homes of the server's control groups.
    """
    path = sys.path[1:]  # the first is the working directory, for every interpreter with -c
    received = wire.receive(control)
    if received is None:
        os._exit(0)
    wish, _ = received
    sys.path[:] = [*path, *wish["paths"]]
    failed = {}
    before = syscalls.descriptors()
    for module in wish["preload"]:
        try:
            importlib.import_module(module)
        except BaseException as error:  # a broken package must not keep the others from starting
            failed[module] = repr(error)
        residue = _residue(before)
        if residue is not None:
            wire.send(control, {"module": module, "residue": residue})
            os._exit(0)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    gc.collect()
    gc.freeze()
    wire.send(control, {"failed": failed})
    project = __name__.partition(".")[0]
    modules = [name for name in sys.modules if name.partition(".")[0] == project]
    interpreter = program.Interpreter(path=path, entries=wish["paths"], modules=modules)
    return interpreter, wish["homes"]


def _residue(before: set[int]) -> str | None:
    """What an import left that would be missing or shared in every fork."""
    if syscalls.threads() > 1:
        return "threads"
    if syscalls.descriptors() != before:
        return "descriptors"
    return None


def _leave(homes: Sequence[str]) -> NoReturn:
    """The server is gone: inits see that, too, and end everything; then nothing may be left."""
    limit = time.monotonic() + LEAVE
    while children() and time.monotonic() < limit:
        reaped()
        time.sleep(0.002)
    end_all()
    for home in homes:
        with contextlib.suppress(OSError):
            remove_home(Path(home))
    os._exit(0)
