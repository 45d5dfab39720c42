"""The init of a sandbox: starts processes, reaps, signals, and ends all when the server is gone.

It is trusted, and a subreaper: whatever its processes leave behind becomes its child. Requests
come with an id and get one reply; `ended` comes by itself, after the reply that named the process.

    → {"op": "stand", "plan"}                       once, first: whose walls to raise
    → {"op": "spawn", "id", "process", "command"} + descriptors 1, 2 and perhaps 0 of the process
    ← {"id", "pid"} or {"id", "error", "errno"}     then {"ended": process, "code" or "signal"}
    → {"op": "signal", "process", "signal"}         with an id: ← {"id"}; with "sweep": when the
                                                    process dies, the rest of its group does, too
    ← {"ready": pid} at the start, or {"failed": text}; {"clean": true} when nothing is left
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from dataclasses import dataclass
from typing import NoReturn

from era_kernels.models import JsonObject
from era_kernels.sandbox import program, syscalls, walls, wire
from era_kernels.sandbox.children import Deaths, end_all, reaped
from era_kernels.sandbox.plan import Kind, Plan


@dataclass(frozen=True, slots=True)
class _Start:
    """A process that has been forked and does not run its program yet."""

    request: int
    pid: int


class Init:
    """The loop between the server and the processes."""

    def __init__(self, control: socket.socket, plan: Plan) -> None:
        syscalls.close_except((0, 1, 2, control.fileno()))
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        try:
            walls.prepare(plan)
            received = wire.receive(control)
            if received is None:  # nobody needed this init
                os._exit(0)
            plan = Plan.from_json(received[0]["plan"])
            if plan.kind is not Kind.NONE:
                walls.stand(plan)
        except OSError as error:
            give_up(control, error)
        self._control = control
        self._deaths = Deaths()
        self._poll = select.poll()
        self._processes: dict[int, int] = {}  # pid → the server's number of it
        self._starts: dict[int, _Start] = {}  # by the descriptor that tells how it went
        self._swept: set[int] = set()  # pids whose process groups do not outlive them

    def serve(self) -> program.Launch:
        """Serve until the server is gone; returns in each forked child, with what it is to be."""
        self._poll.register(self._control, select.POLLIN)
        self._poll.register(self._deaths.descriptor, select.POLLIN)
        try:
            wire.send(self._control, {"ready": os.getpid()})
            while True:
                launch = self._turn({descriptor for descriptor, _ in self._poll.poll()})
                if launch is not None:
                    return launch
        except BrokenPipeError:  # the server left while it was told something
            _leave(self._control)

    def _turn(self, ready: set[int]) -> program.Launch | None:
        for descriptor in ready & self._starts.keys():
            self._started(descriptor)
        if self._deaths.descriptor in ready:
            self._bury()
        if self._control.fileno() not in ready:
            return None
        received = wire.receive(self._control)
        if received is None:
            _leave(self._control)
        message, descriptors = received
        if message["op"] == "spawn":
            return self._spawn(message, descriptors)
        self._signal(message)
        return None

    def _spawn(self, message: JsonObject, descriptors: list[int]) -> program.Launch | None:
        """Fork; the reply waits until the child runs its program or could not."""
        stdout, stderr, *stdin = descriptors
        told, status = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            reply = {"id": message["id"], "error": error.strerror, "errno": error.errno}
            wire.send(self._control, reply)
            pid = None
        if pid == 0:
            self._let_go()
            os.close(told)
            given = stdin[0] if stdin else None
            return program.Launch(message["command"], given, stdout, stderr, status, parent)
        for descriptor in (*descriptors, status):
            os.close(descriptor)
        if pid is None:
            os.close(told)
            return None
        self._processes[pid] = message["process"]
        self._starts[told] = _Start(message["id"], pid)
        self._poll.register(told, select.POLLIN)
        return None

    def _started(self, told: int) -> None:
        """A child has executed or is about to call its entry (end of file), or says why not."""
        start = self._starts.pop(told)
        error = os.read(told, 4096)
        self._poll.unregister(told)
        os.close(told)
        if error:
            del self._processes[start.pid]  # it never was a process to the server
            number, _, text = error.decode(errors="replace").partition(":")
            reply = {"id": start.request, "error": text, "errno": int(number)}
        else:
            reply = {"id": start.request, "pid": start.pid}
        wire.send(self._control, reply)

    def _bury(self) -> None:
        """Reap all that is dead, and report those that the server knows."""
        self._deaths.clear()
        for pid, status in reaped(self._sweep):
            for told, start in tuple(self._starts.items()):
                if start.pid == pid:
                    self._started(told)
            number = self._processes.pop(pid, None)
            if number is not None:
                code = os.waitstatus_to_exitcode(status)
                ending = {"signal": -code} if code < 0 else {"code": code}
                wire.send(self._control, {"ended": number, **ending})

    def _signal(self, message: JsonObject) -> None:
        for pid, number in self._processes.items():
            if number == message["process"]:
                if message.get("sweep"):
                    self._swept.add(pid)
                _signal_group(pid, message["signal"])
        if "id" in message:
            wire.send(self._control, {"id": message["id"]})

    def _sweep(self, pid: int) -> None:
        """It is dead and not reaped: the number of its group is still its own."""
        if pid in self._swept:
            self._swept.discard(pid)
            _signal_group(pid, signal.SIGKILL)

    def _let_go(self) -> None:
        """In a forked child: what belongs to the init only."""
        self._control.close()
        self._deaths.close()


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:  # a child so young that it leads no group yet
            os.kill(pid, number)


def give_up(control: socket.socket, error: OSError) -> NoReturn:
    """A wall could not be raised: nothing is started without it."""
    with contextlib.suppress(OSError):
        wire.send(control, {"failed": str(error.strerror or error)})
    os._exit(1)


def _leave(control: socket.socket) -> NoReturn:
    """The server closed the socket or is gone: end everything, then leave.

    Pid 1 of a namespace takes everything along, and is gone only after it.
    """
    signal.set_wakeup_fd(-1)
    if os.getpid() == 1 or end_all():
        with contextlib.suppress(OSError):  # nobody may be there to hear it
            wire.send(control, {"clean": True})
    os._exit(0)
