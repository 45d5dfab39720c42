"""Runs as the zygote: a warm interpreter that forks an init for each sandbox.

    server ──exec──▶ zygote ──fork──▶ init ──fork──▶ program
                     imports,         reaps, signals,  becomes a plain interpreter
                     single-threaded  reports, ends    or executes something else

`main` runs these steps in one process image: each step returns in its forked child only, after
freeing what only the step itself needed, so that a program starts on an almost empty stack.
Isolation is applied between the steps: root's zygote forks straight into a new pid namespace, an
ordinary user's fork enters the namespaces and forks once more (`_enter_sandbox`); the init applies
the rest to itself (`isolation.apply`), so that every process that it starts is inside from its
first instruction.

The zygote holds no secret, no thread and no event loop. It exits at the end of file on its control
socket: the server is gone then, for whatever reason.
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
from typing import TYPE_CHECKING, NoReturn

from era_kernels.sandbox.init import fd_messages, init, isolation, launch, pasta_keeper
from era_kernels.sandbox.init.reaper import SigchldPipe, kill_all, list_children, reap_all
from era_kernels.sandbox.init.sandbox_spec import IsolationKind, SandboxSpec
from era_kernels.sandbox.init.send_queue import SendQueue
from era_kernels.sandbox.linux import syscalls
from era_kernels.sandbox.linux.cgroup import join_cgroups, remove_server_cgroup

if TYPE_CHECKING:  # the zygote imports no more than it uses
    from era_kernels.models import JsonObject

ORPHANS_TIMEOUT, ORPHANS_INTERVAL = 0.2, 0.1  # seconds of one try to end orphans, between two
ORPHANS_DEADLINE = 3.0  # seconds until an init is reported as gone, whatever it left
INIT_EXIT_TIMEOUT = 1.0  # seconds for inits to end by themselves after the server is gone


def main() -> None:
    """Runs as the zygote, in its children as an init, and in their children as a program.

    Called in a fresh interpreter with the control socket's descriptor in `sys.argv[1]`.
    """
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    for number in launch.IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    interpreter, cgroup_directories = _preload(control)
    init_start = Zygote(control, cgroup_directories).serve()
    launch_request = init.Init(init_start.control, init_start.spec).serve()
    launch.run(launch_request, interpreter)


@dataclass(frozen=True, slots=True)
class InitStart:
    """The control socket and the spec with which an init starts."""

    control: socket.socket
    spec: SandboxSpec


class Zygote:
    """Forks inits on request, and kills the processes that dead inits left behind."""

    def __init__(self, control: socket.socket, cgroup_directories: Sequence[str]) -> None:
        """Takes the server's cgroup directories, which are removed when the server is gone."""
        self._control = control
        self._cgroup_directories = cgroup_directories
        self._sigchld = SigchldPipe()
        self._poll = select.poll()
        self._inits: dict[int, int] = {}  # pid → number of the request
        self._pending_pids: dict[int, int] = {}  # pipe from which the pid is read → number
        self._outbox = SendQueue(control)
        self._exited: dict[int, float] = {}  # number → when it is reported in any case

    def serve(self) -> InitStart:
        """Forks inits until the server is gone; returns only in each of them."""
        self._poll.register(self._control, select.POLLIN)
        self._poll.register(self._sigchld.descriptor, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in self._poll.poll(self._flush())}
            if not ready.isdisjoint(self._pending_pids):
                self._read_pids()
            if self._sigchld.descriptor in ready or self._exited:
                self._reap()
            if self._control.fileno() in ready:
                try:
                    received = fd_messages.receive(self._control)
                except fd_messages.DescriptorsLost as lost:
                    self._report_gone(lost.message["number"], str(lost))
                    continue
                if received is None:
                    _shut_down(self._cgroup_directories)
                init_start = self._handle(*received)
                if init_start is not None:
                    return init_start

    def _flush(self) -> int | None:
        """Sends what waits; returns after how many milliseconds this process has more to do."""
        pauses = [ORPHANS_INTERVAL] if self._exited else []
        with contextlib.suppress(BrokenPipeError):  # the loop is about to see the end of file, too
            if (pause := self._outbox.flush()) is not None:
                pauses.append(pause)
        return max(1, round(1000 * min(pauses))) if pauses else None

    def __contains__(self, pid: object) -> bool:
        """Returns whether this child is an init.

        An ordinary user's init may become our child while this runs, so pids are read first.
        """
        if pid not in self._inits:
            self._read_pids()
        return pid in self._inits

    def _handle(self, message: JsonObject, descriptors: list[int]) -> InitStart | None:
        if message["op"] == "ping":
            self._send({"id": message["id"]})
            return None
        if message["op"] == "kill":
            self._read_pids()
            for pid, number in self._inits.items():
                if number == message["number"]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)  # not reaped yet: the pid is still its own
            return None
        if message["op"] == "outbound":
            self._fork_outbound(message, descriptors)
            return None
        return self._fork(message["number"], SandboxSpec.from_json(message["spec"]), descriptors[0])

    def _fork_outbound(self, message: JsonObject, descriptors: list[int]) -> None:
        """Forks the keeper of a way out; its end is reported as that of an init."""
        number = message["number"]
        try:
            pid = os.fork()
        except OSError as error:
            self._report_gone(number, str(error.strerror))
        else:
            if pid == 0:
                self._control.close()
                self._sigchld.close()
                control, network = descriptors
                pasta_keeper.run(socket.socket(fileno=control), network, message["spec"])
            self._inits[pid] = number
        fd_messages.close_all(descriptors)

    def _fork(self, number: int, spec: SandboxSpec, descriptor: int) -> InitStart | None:
        """Forks an init for this request; returns an InitStart in the child only."""
        pipe: tuple[int, ...] = ()
        try:
            if spec.kind is IsolationKind.USER:
                pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            is_root = spec.kind is IsolationKind.ROOT
            pid = isolation.fork_into_pid_namespace() if is_root else os.fork()
        except OSError as error:  # too many processes, no right
            self._report_gone(number, str(error.strerror))
            fd_messages.close_all((descriptor, *pipe))
            return None
        if pid == 0:
            self._control.close()
            self._sigchld.close()
            return _enter_sandbox(InitStart(socket.socket(fileno=descriptor), spec), *pipe[1:])
        fd_messages.close_all((descriptor, *pipe[1:]))
        self._inits[pid] = number
        if pipe:
            self._pending_pids[pipe[0]] = number
            self._poll.register(pipe[0], select.POLLIN)
        elif is_root:
            self._send({"init": pid, "number": number})
        return None

    def _read_pids(self) -> None:
        """Reads the pids of ordinary users' inits, whose first parents end after writing them."""
        for pid_read, number in tuple(self._pending_pids.items()):
            with contextlib.suppress(BlockingIOError):
                pid = os.read(pid_read, 16)
                if pid:
                    self._inits[int(pid)] = number
                    self._send({"init": int(pid), "number": number})
                with contextlib.suppress(KeyError):
                    self._poll.unregister(pid_read)
                os.close(pid_read)
                del self._pending_pids[pid_read]

    def _reap(self) -> None:
        """Reaps dead children, and kills the orphans of killed inits, which became our children."""
        self._sigchld.drain()
        dead = reap_all()
        self._read_pids()
        # Both processes of one init may have died: that is reported once.
        now = time.monotonic()
        for pid, _ in dead:
            if pid in self._inits:
                self._exited.setdefault(self._inits.pop(pid), now + ORPHANS_DEADLINE)
        # Others wait for this process meanwhile: what is left is tried again soon.
        is_clean = kill_all(exclude=self, timeout=ORPHANS_TIMEOUT)
        for number, deadline in tuple(self._exited.items()):
            if number in self._inits.values():
                del self._exited[number]  # its other process lives, and will be found dead, too
            elif is_clean or now > deadline:
                del self._exited[number]
                self._report_gone(number)

    def _report_gone(self, number: int, error: str | None = None) -> None:
        """Reports that there is no init of this number any more, or none at all, and why."""
        self._send({"gone": number, **({"error": error} if error else {})})

    def _send(self, message: JsonObject) -> None:
        """Sends a message now, or as soon as the system takes it."""
        self._outbox.put(message)
        self._flush()


def _enter_sandbox(init_start: InitStart, pid_write: int | None = None) -> InitStart:
    """Joins the cgroups and enters the namespaces of the spec, in the forked child.

    The cgroups come first: a cgroup namespace is rooted at the process's cgroup when it is created.
    `pid_write` gets the pid of an ordinary user's init. Exits with the reason on failure.
    """
    try:
        join_cgroups(init_start.spec.cgroup_procs)
        isolation.offer_to_oom_killer()
        if pid_write is not None:
            syscalls.close_except((0, 1, 2, init_start.control.fileno(), pid_write))
            isolation.enter_namespaces_and_fork(pid_write)
        elif init_start.spec.has_namespaces:
            isolation.enter_namespaces(init_start.spec)
    except OSError as error:
        init.fail_and_exit(init_start.control, error)
    return init_start


def _preload(control: socket.socket) -> tuple[launch.InterpreterState, Sequence[str]]:
    """Imports the modules that the server names, and reports those that failed.

    Returns the plain interpreter's state and the server's cgroup directories.
    """
    path = sys.path[1:]  # the first is the working directory in any interpreter with -c
    received = fd_messages.receive(control)
    if received is None:
        os._exit(0)
    config, _ = received
    sys.path[:] = [*path, *config["paths"]]
    failed = {}
    before = syscalls.list_descriptors()
    for module in config["preload"]:
        try:
            importlib.import_module(module)
        except BaseException as error:  # a broken package must not keep the others from starting
            failed[module] = repr(error)
        residue = _unforkable_state(before)
        if residue is not None:
            fd_messages.send(control, {"module": module, "residue": residue})
            os._exit(0)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    gc.collect()
    gc.freeze()
    fd_messages.send(control, {"failed": failed})
    project = __name__.partition(".")[0]
    modules = [name for name in sys.modules if name.partition(".")[0] == project]
    interpreter = launch.InterpreterState(
        sys_path=path, entry_paths=config["paths"], project_modules=modules
    )
    return interpreter, config["cgroup_directories"]


def _unforkable_state(before: set[int]) -> str | None:
    """Returns the kind of state that an import left and no fork could use, or None."""
    if syscalls.count_threads() > 1:
        return "threads"
    if syscalls.list_descriptors() != before:
        return "descriptors"
    return None


def _shut_down(cgroup_directories: Sequence[str]) -> NoReturn:
    """Waits for the inits, which end when the server is gone, kills what is left, and exits."""
    deadline = time.monotonic() + INIT_EXIT_TIMEOUT
    while list_children() and time.monotonic() < deadline:
        reap_all()
        time.sleep(0.002)
    kill_all()
    for directory in cgroup_directories:
        with contextlib.suppress(OSError):
            remove_server_cgroup(Path(directory))
    os._exit(0)
