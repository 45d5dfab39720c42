"""Has the processes of a session stand still while what they have written is measured.

They are stopped from outside by SIGSTOP, which no process can refuse, and continued by SIGCONT.
Processes that had been stopped by the session itself stay stopped.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection
from contextlib import suppress

from era_kernels.sandbox.server.process_tree import ProcStat, read_proc_file, read_stat
from era_kernels.sandbox.server.unseen_processes import UnseenProcesses

_STILL = (b"T", b"t", b"Z", b"X", b"")  # stopped by a signal or a tracer; dead; gone


class StoppedProcesses:
    """The processes of one session that are stopped, and are continued by `resume`."""

    def __init__(self, unseen: UnseenProcesses) -> None:
        """Takes what finds processes that no list shows, and that cannot be stopped."""
        self._unseen = unseen
        self._stopped: dict[int, tuple[int, int]] = {}  # pid → its start time, a descriptor of it
        self._still_since: float | None = None  # `time.monotonic`
        self._still_seconds = 0.0  # before that

    @property
    def is_any(self) -> bool:
        """True while there is something to resume."""
        return bool(self._stopped)

    def stop(self, processes: Collection[ProcStat]) -> bool:
        """Stops those that are not yet; returns whether all stood still before (blocking, briefly).

        Processes fork while others are being stopped: it is to be called again, with those that
        are there then, until it returns True.
        """
        were_still = True
        for one in processes:
            is_known = one.pid in self._stopped and self._stopped[one.pid][0] == one.start_time
            if _is_still(one.pid):
                continue
            were_still = False
            if is_known:  # not there yet, or continued by another of them
                self._send(one.pid, signal.SIGSTOP)
            else:
                self._stop_first(one)
        if were_still and self._still_since is None:
            self._still_since = time.monotonic()
        return were_still

    def running_time(self, now: float) -> float:
        """Returns the time `now` of a clock that stands still while the session does."""
        return (now if self._still_since is None else self._still_since) - self._still_seconds

    def has_unseen(self, processes: Collection[ProcStat]) -> bool:
        """Returns whether there may be others, which go on (blocking, briefly).

        `processes`: all of the session that are known, its init as well.
        """
        return self._unseen.are_there(processes)

    def resume(self) -> None:
        """Continues all of them; a second call does nothing."""
        for pid in tuple(self._stopped):
            self._send(pid, signal.SIGCONT)
            os.close(self._stopped.pop(pid)[1])
        if self._still_since is not None:
            self._still_seconds += time.monotonic() - self._still_since
            self._still_since = None

    def forget(self) -> None:
        """Leaves them stopped: their session is being ended."""
        for _, descriptor in self._stopped.values():
            os.close(descriptor)
        self._stopped.clear()

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
