"""Traces: what code finds in its session's workspace, and what it leaves there."""

from __future__ import annotations

from era_kernels.errors import EraError, SessionNotFound, TooLarge
from era_kernels.models import JsonObject, now
from era_kernels.services.desk import Desk
from era_kernels.services.executions import Running
from era_kernels.services.record import Record
from era_kernels.services.rules import merged
from era_kernels.services.seat import Seat


class Traces:
    """Around everything that runs in a session's machine: `begin` before, `settle` after.

    Several may be at work at once. A change of the files is counted once, by the first that is
    settled after it; what code writes to `.session_data.json` is adopted then, or when another
    begins, so that none overwrites what another has written.
    """

    def __init__(self, record: Record, desk: Desk, seat: Seat) -> None:
        self._record = record
        self._desk = desk
        self._seat = seat
        self._at_work = 0

    async def update(self, data: JsonObject) -> None:
        """Merge into the session's data. Raises TooLarge, StorageFailed, SessionNotFound."""
        async with self._desk.lock:
            await self._catch_up()
            await self._record.change_data(merged(self._record.session.data, data))

    async def begin(self, *, alone: bool) -> None:
        """The files are known and show the session's data, before something runs.

        Who is not `alone` begins beside others, that may just be writing the mirror of the data: it
        is left to them. Raises StorageFailed, SessionNotFound; `settle` is called all the same.
        """
        async with self._desk.lock:
            self._at_work += 1
            if self._at_work > 1:
                await self._catch_up()
            if alone or self._at_work == 1:
                await self._desk.prepare(self._record.session.data)

    async def settle(self, running: Running) -> int:
        """What it did to the workspace and to `.session_data.json`; files modified."""
        try:
            async with self._desk.lock:
                self._at_work -= 1
                if self._record.deleted:
                    return 0
                after = await self._desk.settle()
                await self._adopt(after.data)
            self._record.note(
                last_run_at=now(),
                file_count=after.snapshot.count,
                total_size=after.snapshot.total_size,
            )
        except SessionNotFound:  # it is just being deleted
            return 0
        except EraError as problem:
            running.problem = running.problem or problem
            return 0
        return after.files_modified

    async def tidy(self, running: Running) -> None:
        """After all that: the files of a session that is not persistent go with its machine."""
        if self._record.session.persistent or self._record.deleted:
            return
        try:
            await self._seat.clear()
        except EraError as problem:
            running.problem = running.problem or problem

    async def _catch_up(self) -> None:
        if self._at_work:
            await self._adopt(await self._desk.join())

    async def _adopt(self, data: JsonObject | None) -> None:
        """What the code wrote to `.session_data.json` becomes the session's data, if it fits."""
        if data is None:
            return
        try:
            await self._record.change_data(data)
        except TooLarge:
            return
