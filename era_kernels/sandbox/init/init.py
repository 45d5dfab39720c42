"""Runs as the init of a sandbox: starts, signals and reaps its processes.

The init kills all of them when the server is gone. It is trusted, and a subreaper: an orphan of
its processes becomes its child. A request has an id and gets one reply. `ended` is no reply: the
init sends it when a process ends, after the reply that named the process.

    → {"op": "apply", "spec"}                       once, first: the isolation to apply
    → {"op": "spawn", "id", "process", "command"} + descriptors 1, 2 and perhaps 0 of the process
    ← {"id", "pid"} or {"id", "error", "errno"}     then {"ended": process, "code" or "signal"}
    → {"op": "listen", "id", "port"}                a socket on 127.0.0.1; port 0: any free one
    ← {"id", "port"} + the listening socket, or {"id", "error", "errno"}
    → {"op": "socket", "id", "address"}             one to connect to 127.0.0.1 or ::1 with
    ← {"id"} + the socket, or {"id", "error", "errno"}
    → {"op": "network", "id"}                       ← {"id"} + the network namespace
    → {"op": "ping", "id"}                          ← {"id"}: whoever stops this process is found
    → {"op": "stop_all", "id", "until"}             monotonic seconds: later nothing is done
    ← {"id", "stopped"}: true; false: this cannot be done; null: it may not have been done
    → {"op": "signal", "process", "signal"}         with an id: ← {"id"}
          with "kill_group_on_exit": when the process dies, the rest of its group is killed, too
    ← {"ready": pid} at the start, or {"failed": text}
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from era_kernels.sandbox.init import fd_messages, isolation, launch, signal_all
from era_kernels.sandbox.init.reaper import SigchldPipe, kill_all, reap_all
from era_kernels.sandbox.init.sandbox_spec import IsolationKind, SandboxSpec
from era_kernels.sandbox.init.send_queue import SendQueue
from era_kernels.sandbox.linux import syscalls

if TYPE_CHECKING:  # the zygote imports no more than it uses
    from era_kernels.models import JsonObject

LOOPBACK = "127.0.0.1"
LISTEN_BACKLOG = 1024  # connections that wait to be accepted
# Seconds from a fork to its program: code with the same uid may stop the fork in between.
START_TIMEOUT = 5.0
END_TRIES, END_INTERVAL = 15, 0.2  # to end all processes; seconds of one try
_LATE = f"it was stopped before it ran, and killed after {START_TIMEOUT:g} seconds"


@dataclass(frozen=True, slots=True)
class _PendingStart:
    """A forked process that does not run its program yet."""

    request_id: int
    pid: int
    deadline: float  # monotonic seconds


class Init:
    """Serves the requests of the server and reports the ends of processes."""

    def __init__(self, control: socket.socket, spec: SandboxSpec) -> None:
        syscalls.close_except((0, 1, 2, control.fileno()))
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        try:
            isolation.setup_mounts(spec)
            received = fd_messages.receive(control)
            if received is None:  # the server did not use this init
                os._exit(0)
            spec = SandboxSpec.from_json(received[0]["spec"])
            if spec.kind is not IsolationKind.NONE:
                isolation.apply(spec)
        except OSError as error:
            fail_and_exit(control, error)
        self._control = control
        self._spec = spec
        self._sigchld = SigchldPipe()
        self._poll = select.poll()
        self._processes: dict[int, int] = {}  # pid → the server's number of it
        # By the descriptor from which the result of the start is read.
        self._pending_starts: dict[int, _PendingStart] = {}
        self._kill_group_on_exit: set[int] = set()  # pids
        self._outbox = SendQueue(control)

    def serve(self) -> launch.LaunchRequest:
        """Serves until the server is gone; returns only in a forked child: its launch request."""
        self._poll.register(self._control, select.POLLIN)
        self._poll.register(self._sigchld.descriptor, select.POLLIN)
        try:
            self._outbox.put({"ready": os.getpid()})
            while True:
                ready = {descriptor for descriptor, _ in self._poll.poll(self._flush())}
                request = self._handle_ready(ready)
                if request is not None:
                    return request
        except BrokenPipeError:  # the server closed the socket during a send
            _shut_down(self._spec)

    def _flush(self) -> int | None:
        """Sends what waits; returns after how many milliseconds this process has more to do."""
        now = time.monotonic()
        pauses = [start.deadline - now for start in self._pending_starts.values()]
        if (pause := self._outbox.flush()) is not None:
            pauses.append(pause)
        return max(1, round(1000 * min(pauses))) if pauses else None

    def _handle_ready(self, ready: set[int]) -> launch.LaunchRequest | None:
        for descriptor in ready & self._pending_starts.keys():
            self._report_start(descriptor)
        self._end_late_starts()
        if self._sigchld.descriptor in ready:
            self._reap()
        if self._control.fileno() not in ready:
            return None
        try:
            received = fd_messages.receive(self._control)
        except fd_messages.DescriptorsLost as lost:
            self._refuse(lost.message, OSError(errno.EMFILE, str(lost)))
            return None
        if received is None:
            _shut_down(self._spec)
        message, descriptors = received
        if message["op"] == "spawn":
            return self._spawn(message, descriptors)
        if message["op"] == "listen":
            self._reply_with_socket(message, _listen, LOOPBACK)
        elif message["op"] == "socket":
            self._reply_with_socket(message, _leave_unbound, message["address"])
        elif message["op"] == "network":
            self._reply_with_network(message)
        elif message["op"] == "ping":
            self._outbox.put({"id": message["id"]})
        elif message["op"] == "stop_all":
            self._stop_all(message)
        else:
            self._signal(message)
        return None

    def _refuse(self, message: JsonObject, error: OSError) -> None:
        """Replies that a request failed, and why."""
        why = {"error": error.strerror, "errno": error.errno}
        self._outbox.put({"id": message["id"], **why})

    def _reply_with_socket(
        self,
        message: JsonObject,
        prepare: Callable[[socket.socket, tuple[str, int]], JsonObject],
        address: str,
    ) -> None:
        """Hands a TCP socket of the network namespace over to the server, which alone has it.

        `prepare` makes a new socket what was asked for, and returns more fields of the reply.
        """
        try:
            family = socket.AF_INET if address == LOOPBACK else socket.AF_INET6
            with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as one:
                reply = {"id": message["id"], **prepare(one, (address, message.get("port", 0)))}
                descriptor = one.detach()
        except OSError as error:
            self._refuse(message, error)
        else:
            self._outbox.put(reply, [descriptor], partial(self._refuse, message))

    def _reply_with_network(self, message: JsonObject) -> None:
        """Hands the network namespace over to the server: nobody else may open it."""
        try:
            descriptor = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self._refuse(message, error)
        else:
            reply = {"id": message["id"]}
            self._outbox.put(reply, [descriptor], partial(self._refuse, message))

    def _spawn(self, message: JsonObject, descriptors: list[int]) -> launch.LaunchRequest | None:
        """Forks; the reply is sent when the child runs its program or has failed to."""
        stdout, stderr, *stdin = descriptors
        try:
            status_read, status_write = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            fd_messages.close_all(descriptors)
            self._refuse(message, error)
            return None
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._refuse(message, error)
            pid = None
        if pid == 0:
            self._close_in_child()
            os.close(status_read)
            stdin_fd = stdin[0] if stdin else None
            return launch.LaunchRequest(
                message["command"], stdin_fd, stdout, stderr, status_write, parent, self._spec
            )
        for descriptor in (*descriptors, status_write):
            os.close(descriptor)
        if pid is None:
            os.close(status_read)
            return None
        self._processes[pid] = message["process"]
        self._pending_starts[status_read] = _PendingStart(
            message["id"], pid, time.monotonic() + START_TIMEOUT
        )
        self._poll.register(status_read, select.POLLIN)
        return None

    def _report_start(self, status_read: int) -> None:
        """Replies with the pid when the child closed its status pipe, else with the error in it.

        The pipe is closed by execve(2), or right before the child calls its entry.
        """
        start = self._pending_starts.pop(status_read)
        error = os.read(status_read, 4096)
        self._poll.unregister(status_read)
        os.close(status_read)
        if error:
            del self._processes[start.pid]  # for the server it never was a process
            number, _, text = error.decode(errors="replace").partition(":")
            reply = {"id": start.request_id, "error": text, "errno": int(number)}
        else:
            reply = {"id": start.request_id, "pid": start.pid}
        self._outbox.put(reply)

    def _end_late_starts(self) -> None:
        """Kills forks that did not come to their programs in time, and replies that."""
        now = time.monotonic()
        for status_read, start in tuple(self._pending_starts.items()):
            if start.deadline <= now:
                self._poll.unregister(status_read)
                os.close(status_read)
                del self._pending_starts[status_read], self._processes[start.pid]
                _signal_group(start.pid, signal.SIGKILL)
                self._outbox.put({"id": start.request_id, "error": _LATE, "errno": errno.ETIMEDOUT})

    def _reap(self) -> None:
        """Reaps all dead children and reports those that the server knows."""
        self._sigchld.drain()
        for pid, status in reap_all(self._before_reap):
            for status_read, start in tuple(self._pending_starts.items()):
                if start.pid == pid:
                    self._report_start(status_read)
            number = self._processes.pop(pid, None)
            if number is not None:
                code = os.waitstatus_to_exitcode(status)
                ending = {"signal": -code} if code < 0 else {"code": code}
                self._outbox.put({"ended": number, **ending})

    def _stop_all(self, message: JsonObject) -> None:
        """Stops all processes of the session in one step, unless nobody waits for it any more."""
        seconds = message["until"] - time.monotonic()
        stopped = None
        if seconds > 0:
            stopped = signal_all.signal_all(self._spec, signal.SIGSTOP, seconds)
        self._outbox.put({"id": message["id"], "stopped": stopped})

    def _signal(self, message: JsonObject) -> None:
        for pid, number in self._processes.items():
            if number == message["process"]:
                if message.get("kill_group_on_exit"):
                    self._kill_group_on_exit.add(pid)
                _signal_group(pid, message["signal"])
        if "id" in message:
            self._outbox.put({"id": message["id"]})

    def _before_reap(self, pid: int) -> None:
        """Kills the process group of a dead child where that was requested.

        Called before waitpid: the zombie still holds its pgid, so killpg cannot hit another group.
        """
        if pid in self._kill_group_on_exit:
            self._kill_group_on_exit.discard(pid)
            _signal_group(pid, signal.SIGKILL)

    def _close_in_child(self) -> None:
        """Closes in a forked child what only the init uses."""
        self._control.close()
        self._sigchld.close()


def _listen(one: socket.socket, address: tuple[str, int]) -> JsonObject:
    """Listens on the port: without SO_REUSEADDR and SO_REUSEPORT no program can bind it, too."""
    one.bind(address)
    one.listen(LISTEN_BACKLOG)
    return {"port": one.getsockname()[1]}


def _leave_unbound(one: socket.socket, address: tuple[str, int]) -> JsonObject:
    """Leaves all to the server: to connect may last for ever, and this process has no time."""
    return {}


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:  # a new child that leads no group yet
            os.kill(pid, number)


def fail_and_exit(control: socket.socket, error: OSError) -> NoReturn:
    """Reports that the isolation could not be applied, and exits: nothing is started without it."""
    with contextlib.suppress(OSError):
        fd_messages.send(control, {"failed": str(error.strerror or error)})
    os._exit(1)


def _shut_down(spec: SandboxSpec) -> NoReturn:
    """Kills all processes and exits, when the server has closed the socket or is gone.

    When pid 1 of a namespace exits, Linux kills all others in it, and pid 1 ends last.
    """
    signal.set_wakeup_fd(-1)
    if os.getpid() != 1:
        for _ in range(END_TRIES):
            if signal_all.is_confined(spec):  # then none can fork away
                signal_all.signal_all(spec, signal.SIGKILL, END_INTERVAL)
            if kill_all(timeout=END_INTERVAL):
                break
    os._exit(0)
