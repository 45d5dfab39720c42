"""Has the processes of a session stand still while what they have is measured.

They are stopped from outside by SIGSTOP, which no process can refuse, and continued by SIGCONT.
Processes that had been stopped by the session itself stay stopped. Those that no list shows, since
each forks the next and ends, are stopped in one step by the init, and are listed then.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from era_kernels.sandbox.server.process_tree import ProcessTree, ProcStat, read_proc_file, read_stat
from era_kernels.sandbox.server.stop_all import StopAll
from era_kernels.sandbox.server.unseen_processes import UnseenProcesses

log = logging.getLogger(__name__)

_STOPPED = b"T"
_STILL = (_STOPPED, b"t", b"Z", b"X", b"")  # by a signal or a tracer; dead; gone
_RETRY_PAUSES = (0.01, 0.1, 1.0, 1.0, 1.0)  # seconds
_Identity = tuple[int, int]  # pid, start time


@dataclass(frozen=True, slots=True)
class StoodStill:
    """What stands still of a session: its processes but the init, and whether that is all."""

    processes: list[ProcStat]
    is_all: bool = False  # for certain
    has_unseen: bool = False  # others seem to go on


class StoppedProcesses:
    """The processes of one session that are stopped until nobody needs that any more.

    Whoever needs it is told apart by any object, `holder`; each in a thread of its own.
    """

    def __init__(self, unseen: UnseenProcesses, stop_all: StopAll | None = None) -> None:
        """Takes what finds processes that no list shows, and what stops them, too."""
        self._unseen = unseen
        self._init = unseen.init
        self._stop_all = stop_all
        self._stopped: dict[int, tuple[int, int]] = {}  # pid → its start time, a descriptor of it
        # When all were stopped in one step: those that had been stopped without us. One that stands
        # still for its tracer only got another signal, which is to be taken back.
        self._still_before: frozenset[_Identity] | None = None
        self._all: list[ProcStat] | None = None  # that were stopped in one step, once listed
        self._holders: set[object] = set()
        self._is_forgotten = False
        self._lock = threading.RLock()
        self._still_since: float | None = None  # `time.monotonic`
        self._still_seconds = 0.0  # before that

    @property
    def is_any(self) -> bool:
        """True while there is something to resume."""
        return bool(self._stopped) or self._still_before is not None

    @property
    def can_stop_all(self) -> bool:
        """True where processes that no list shows can be stopped, as far as is known."""
        return self._stop_all is not None and self._stop_all.is_possible

    def stand_still(
        self,
        holder: object,
        find_processes: Callable[[], Collection[ProcStat]],
        max_seconds: float,
    ) -> Generator[None, None, StoodStill]:
        """Stops all, in steps; returns those that were there in the end.

        `find_processes` returns those of the session, its init as well, which goes on. After
        `max_seconds` this returns although some do not stand still.
        """
        with self._lock:
            self._holders.add(holder)
        limit = time.monotonic() + max_seconds
        is_all = was_asked = is_last = False
        while True:
            found = find_processes()
            processes = [one for one in found if one.pid != self._init]
            were_still = self.stop(processes)
            is_late = time.monotonic() >= limit
            if were_still or is_late:
                if is_last or (self._unseen.is_counted and not self._unseen.are_there(found)):
                    self._all = processes if is_last else None
                    return StoodStill(processes, is_all=True)
                if is_all:  # a child that was being made is not in this list, but in the next one
                    is_last = True
                    continue
                if not was_asked:
                    was_asked, is_all = True, self._stop_at_once(processes)
                    limit = max(limit, time.monotonic() + max_seconds / 2)
                    continue
                has_unseen = self._unseen.are_there(found)
                if is_late or not has_unseen:
                    return StoodStill(processes, has_unseen=has_unseen)
            yield

    def stop(self, processes: Collection[ProcStat]) -> bool:
        """Stops those that are not yet; returns whether all stood still before (blocking, briefly).

        Processes fork while others are being stopped: it is to be called again, with those that
        are there then, until it returns True.
        """
        were_still = True
        with self._lock:
            for one in processes:
                if _is_still(one.pid):
                    continue
                were_still = False
                if self._is_ours(one):  # not there yet, or continued by another of them
                    self._send(one.pid, signal.SIGSTOP)
                else:
                    self._stop_first(one)
            if were_still and self._still_since is None:
                self._still_since = time.monotonic()
        return were_still

    def running_time(self, now: float) -> float:
        """Returns the time `now` of a clock that stands still while the session does."""
        with self._lock:
            return (now if self._still_since is None else self._still_since) - self._still_seconds

    def resume(self, holder: object = None) -> None:
        """Continues all of them unless there is another holder; a second call does nothing."""
        with self._lock:
            self._holders.discard(holder)
            if self._holders:
                return
            is_done = self._continue_unlisted()
            for pid in tuple(self._stopped):
                self._send(pid, signal.SIGCONT)
                os.close(self._stopped.pop(pid)[1])
            for pause in _RETRY_PAUSES:
                if is_done:
                    break
                time.sleep(pause)
                is_done = self._continue_unlisted()
            if self._still_since is not None:
                self._still_seconds += time.monotonic() - self._still_since
                self._still_since = None

    def forget(self) -> None:
        """Leaves them stopped: their session is being ended."""
        with self._lock:
            for _, descriptor in self._stopped.values():
                os.close(descriptor)
            self._stopped.clear()
            self._holders.clear()
            self._still_before, self._all, self._is_forgotten = None, None, True

    def _stop_at_once(self, processes: Collection[ProcStat]) -> bool:
        """Has all stopped in one step, those listed as well; returns whether that was done."""
        if self._stop_all is None or not self._stop_all.is_possible:
            return False
        with self._lock:
            others = [one for one in processes if not self._is_ours(one)]
            if not all(_is_still(one.pid) for one in others):  # there is no descriptor for it
                return False
            if self._still_before is None:
                self._still_before = frozenset(
                    (one.pid, one.start_time)
                    for one in others
                    if _state(f"/proc/{one.pid}/stat") == _STOPPED
                )
            still_before = self._still_before
        return self._stop_all.ask(partial(self._on_late, still_before))

    def _on_late(self, still_before: frozenset[_Identity]) -> None:
        """Continues what was stopped after nobody waited for that any more."""
        with self._lock:
            if not self._is_forgotten:
                self._still_before, self._all = still_before, None
                self.resume()

    def _continue_unlisted(self) -> bool:
        """Continues those that were stopped in one step, in no list before; False: not yet."""
        if self._still_before is None:
            return True
        try:
            listed = self._all or ProcessTree().by_init([self._init])[self._init]
            for one in listed:
                is_other = (one.pid, one.start_time) in self._still_before
                if one.pid == self._init or is_other or self._is_ours(one):
                    continue
                _continue(one)
        except OSError:  # no descriptor is left
            log.warning("stopped processes could not be listed yet", exc_info=True)
            return False
        self._still_before = self._all = None
        return True

    def _is_ours(self, process: ProcStat) -> bool:
        known = self._stopped.get(process.pid)
        return known is not None and known[0] == process.start_time

    def _stop_first(self, process: ProcStat) -> None:
        with suppress(OSError):  # it has ended
            descriptor = os.pidfd_open(process.pid)
            known = read_stat(process.pid)
            if known is None or known.start_time != process.start_time:  # another with its pid
                os.close(descriptor)
                return
            earlier = self._stopped.pop(process.pid, None)
            if earlier is not None:
                os.close(earlier[1])
            self._stopped[process.pid] = process.start_time, descriptor
            self._send(process.pid, signal.SIGSTOP)

    def _send(self, pid: int, number: signal.Signals) -> None:
        with suppress(OSError):  # it has ended
            signal.pidfd_send_signal(self._stopped[pid][1], number)


def _continue(process: ProcStat) -> None:
    """Continues a process of which nothing is kept, also when no descriptor is left."""
    with suppress(ProcessLookupError):  # it has ended
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return
        except OSError:
            os.kill(process.pid, signal.SIGCONT)
            return
        try:
            known = read_stat(process.pid)
            if known is None or known.start_time == process.start_time:
                signal.pidfd_send_signal(descriptor, signal.SIGCONT)
        finally:
            os.close(descriptor)


def _is_still(pid: int) -> bool:
    """Returns whether all threads of a process are stopped, or it is gone.

    A thread may be in the middle of a long write when the others have stopped.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - names, not paths
    except OSError:
        return True
    return all(_state(f"/proc/{pid}/task/{thread}/stat") in _STILL for thread in threads)


def _state(path: str) -> bytes:
    """Returns the letter of the state in a file `stat`; empty when the thread is gone."""
    return read_proc_file(path).rpartition(b")")[2][1:2]
