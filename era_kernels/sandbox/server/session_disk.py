"""Keeps account of what one session may have added to the disk since it was measured."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from era_kernels.models import MIB
from era_kernels.sandbox.server.process_memory import Activity
from era_kernels.sandbox.server.process_tree import ProcStat, read_proc_file
from era_kernels.sandbox.server.stopped_processes import StoppedProcesses
from era_kernels.sandbox.server.unseen_processes import UnseenProcesses

MIN_OTHER_WRITABLE = 512 * MIB  # for packages and caches, also when the workspace may have less
MEASUREMENTS_PER_CHANGE = 2  # of a session at rest: file systems may count blocks only later
TOLERANCE = 64 * 1024  # bytes past a quota, for the blocks of directories
MAX_EXCESS_AT_START = 256 * MIB  # bytes past a quota with which a session may still begin
MIN_GROWTH = MIB  # bytes below which no session is measured at once
QUICK = 0.05  # seconds that the measuring of a small tree takes
GROWTH_PER_SECOND = 64 * MIB  # bytes that are let pass for each second that a measurement takes
RECENT_SECONDS = 0.5  # seconds in which what was recent counts half
WINDOW_SECONDS = 2.0  # seconds before which growth says nothing of who fills the disk now


@dataclass(frozen=True, slots=True)
class DiskQuota:
    """Directories that may take `max_bytes` together; `name` is for messages."""

    name: str
    roots: Sequence[Path]
    max_bytes: int

    @property
    def excess_message(self) -> str:
        """The cause of an end by this quota."""
        return f"{self.name} larger than {self.max_bytes // MIB} MB"


def workspace_quotas(
    workspace: Path, beside: Sequence[Path], max_bytes: int
) -> tuple[DiskQuota, ...]:
    """Returns the quotas of a session that writes to its workspace and to directories beside it."""
    other_bytes = max(max_bytes, MIN_OTHER_WRITABLE)
    return (
        DiskQuota("workspace", [workspace], max_bytes),
        DiskQuota("files beside the workspace", beside, other_bytes),
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """What a measurement found: bytes of all quotas, the least that is left, and its seconds.

    `grown` is what the session had added by then, as `DiskGrowth` counts it.
    """

    total: int
    headroom: int
    seconds: float
    grown: int = 0


class DiskGrowth:
    """An upper bound of what a session has added since the server watches it, in bytes."""

    def __init__(self) -> None:
        self.total = 0
        self.recent = 0.0  # bytes, the older the less
        self.was_active = False  # since the session was measured
        self.written = 0  # bytes that the processes wrote, as `read_written` counts them
        self._activity: Activity | None = None
        self._counts: dict[tuple[int, int], tuple[int, int]] = {}  # by pid and start time
        self._at_standstill = (0, 0)  # the total, and the disk's `taken`, when all stood still
        self._at_certainty = (0, 0)  # the total, and the bytes that were left
        self._last_look = 0.0
        self._looks = deque([(0.0, 0)])  # when, and the total then
        self._measured: deque[Measured] = deque()  # of those before WINDOW_SECONDS only the last

    def read_written(self, processes: Collection[ProcStat]) -> int | None:
        """Returns how much the processes wrote since the last call; None when they did nothing.

        It counts by bytes given to write(2) and its like, or by pages made dirty, also through
        mappings (proc(5), `io`). What a process wrote that was waited for counts for its parent,
        and so twice where it was seen before: a sum over all would fall when one ends that nobody
        waits for, and hide as much of what others write.
        """
        activity = Activity.of(processes)
        if activity == self._activity:
            return None
        self._activity = activity
        before = self._counts
        self._counts = {(one.pid, one.start_time): _read_io(one.pid) for one in processes}
        given = dirty = 0
        for process, (now_given, now_dirty) in self._counts.items():
            then_given, then_dirty = before.get(process, (0, 0))
            given += max(0, now_given - then_given)
            dirty += max(0, now_dirty - then_dirty)
        self.written += max(given, dirty)
        return max(given, dirty)

    def add(self, size: int, now: float) -> None:
        """Adds what may have been written until `now`, by a clock that stops with the session.

        Else all that a session wrote would be old when its measurement has taken long.
        """
        self.total += size
        if now > self._last_look:
            self.recent = self.recent * 0.5 ** ((now - self._last_look) / RECENT_SECONDS) + size
        self._last_look = now
        self._looks.append((now, self.total))
        while len(self._looks) > 1 and self._looks[1][0] <= now - WINDOW_SECONDS:
            self._looks.popleft()

    def forget_lately(self) -> None:
        """Takes for old what has been added so far."""
        self.recent = 0.0
        self._looks = deque([(self._last_look, self.total)])

    def note_standstill(self, taken: int) -> None:
        """Notes that the session is measured while it stands still; `taken` as `DiskSpace` has it.

        A call that waits, as sendmsg(2) does for room in a socket, holds files that nobody sees; a
        process that is stopped comes out of it, and lets go of them.
        """
        self._at_standstill = self.total, taken

    def is_unseen(self, size: int, taken: int) -> bool:
        """Returns whether so many bytes may have been added since then, and be held by calls."""
        total_then, taken_then = self._at_standstill
        return self.total - total_then >= size and taken - taken_then >= size // 2

    def note_measured(self, measured: Measured) -> None:
        """Notes what a measurement found."""
        while len(self._measured) > 1 and self._measured[1].grown <= self._total_before:
            self._measured.popleft()
        self._measured.append(measured)

    def found_lately(self) -> tuple[int, int]:
        """Returns how many bytes more the last measurement found than those before it.

        First those that came in the last WINDOW_SECONDS, then those of which some may be older.
        More than one is compared with: all can come in the moment before one of them.
        """
        sure = unsure = 0
        for one in self._measured:
            grown = self._measured[-1].total - one.total
            sure = max(sure, grown - max(0, self._total_before - one.grown))
            unsure = max(unsure, grown)
        return sure, unsure

    def note_certainty(self, total: int, headroom: int) -> None:
        """Notes what the session had left at this `total`.

        It had stood still from end to end of a measurement.
        """
        self._at_certainty = total, headroom

    @property
    def has_used_headroom(self) -> bool:
        """True when the session may be past a bound by what it added since that was certain."""
        total_then, headroom = self._at_certainty
        return self.total - total_then >= headroom

    @property
    def _total_before(self) -> int:
        """What `total` was some WINDOW_SECONDS before the last look."""
        return self._looks[0][1]


class SessionDisk:
    """One session's quotas, and what is known of its disk; `init` is a pid."""

    def __init__(
        self,
        init: int,
        quotas: tuple[DiskQuota, ...],
        stopped: StoppedProcesses | None = None,
    ) -> None:
        """Takes what has the session's processes stand still."""
        self.init = init
        self.quotas = quotas
        self.devices: frozenset[int] = frozenset()  # of the file systems that it writes to
        self.workspace_device = 0
        self.growth = DiskGrowth()
        self.stopped = stopped or StoppedProcesses(UnseenProcesses(init))
        self.measured: Measured | None = None
        self.next_measurement = 0.0  # `time.monotonic`: at rest it is not measured before
        self.pending_measurements = 1  # at rest
        self._at_start: dict[str, int] = {}  # bytes of each quota when the session began
        self._at_measurement = (0, 0)  # growth and the disk's `taken` when it was measured last
        self._when_all_was_seen = (0, 0)  # growth, and what was found

    @property
    def max_growth(self) -> int:
        """The bytes by which the session may grow until it is to be measured again.

        It is measured ahead of its bound where that is quick, else only at the bound; and the
        longer it takes, the more is let pass, so that a session near its bound is not still for
        most of the time.
        """
        bound = min(one.max_bytes for one in self.quotas)
        if self.measured is None:
            return max(MIN_GROWTH, bound // 2)
        seconds, headroom = self.measured.seconds, self.measured.headroom
        least = max(MIN_GROWTH, min(bound // 16, int(seconds * GROWTH_PER_SECOND)))
        return max(least, headroom // 2 if seconds < QUICK else headroom)

    def allowed(self, quota: DiskQuota) -> int:
        """The bytes that a quota's directories may take.

        What they had at the start is no excess while the session hardly writes: so code can remove
        files of a session that begins with more than it may have.
        """
        at_start = self._at_start.get(quota.name, 0) if self.hardly_wrote else 0
        return max(quota.max_bytes + TOLERANCE, at_start)

    @property
    def hardly_wrote(self) -> bool:
        """True while its processes together have written less than MIN_GROWTH, wherever to."""
        return self.growth.written < MIN_GROWTH

    def note_start(self, quota: DiskQuota, size: int) -> None:
        """Notes what a quota's directories had before any code ran."""
        self._at_start[quota.name] = min(size, quota.max_bytes + MAX_EXCESS_AT_START)

    @property
    def grown(self) -> int:
        """The bytes by which the session may have grown since it was measured."""
        return self.growth.total - self._at_measurement[0]

    def taken_since_measurement(self, taken: int) -> int:
        """Returns how much of the disk anybody took since then; `taken` is what it was in all."""
        return taken - self._at_measurement[1]

    def with_hidden(self, found: int, *, is_all: bool) -> int:
        """Returns the bytes of the workspace when `found` are found, which may not be all.

        Then it is at most what was there when all was seen, and what was written since.
        """
        if is_all:
            self._when_all_was_seen = self._at_measurement[0], found
            return found
        grown, size = self._when_all_was_seen
        return max(found, size + self.growth.total - grown)

    def begin_measurement(self, taken: int, *, is_still: bool) -> None:
        """Notes that what comes from here on is not among what is being measured."""
        self._at_measurement = self.growth.total, taken
        if is_still:
            self.growth.note_standstill(taken)
        self.growth.was_active = False

    def end_measurement(self, total: int, headroom: int, seconds: float) -> None:
        """Notes what the measurement that has begun found."""
        self.measured = Measured(total, headroom, seconds, self._at_measurement[0])
        self.growth.note_measured(self.measured)


def _read_io(pid: int) -> tuple[int, int]:
    """Returns the bytes that a process gave to write(2), and those of pages that it made dirty.

    Both are 0 when it has ended, or does not let itself be looked into.
    """
    fields = dict(
        line.split(b": ", 1) for line in read_proc_file(f"/proc/{pid}/io").splitlines() if line
    )
    return int(fields.get(b"wchar", 0)), int(fields.get(b"write_bytes", 0))
