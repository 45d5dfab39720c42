"""Finds, opens and finishes executions, and reads their events, live or from the log."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from era_kernels.concurrency.waiting import within_timeout
from era_kernels.errors import NotRunning
from era_kernels.models import (
    Execution,
    ExecutionStatus,
    IdempotencyKey,
    InterruptStep,
    LoggedEvent,
    Session,
    now,
)
from era_kernels.services.executions.live_execution import (
    EarlyCancel,
    LiveExecution,
    WaitForMemory,
    do_not_wait,
    do_nothing,
    partial_result,
)
from era_kernels.services.executions.replay import replay
from era_kernels.services.executions.result import ResultBuilder, RunResult
from era_kernels.storage.execution_log import ExecutionStore
from era_kernels.storage.executions_table import StatusFilter
from era_kernels.storage.log_reader import LogReader


@dataclass(frozen=True, slots=True)
class OutputText:
    """The text of one stream: it has `total` bytes, and `read(start, stop)` yields a range."""

    total: int
    read: Callable[[int, int], AsyncGenerator[bytes, None]]


class ExecutionService:
    """Finds executions, live or stored; opens and finishes the live ones."""

    def __init__(
        self, store: ExecutionStore, *, max_kept: int, max_kept_bytes: int, max_result_bytes: int
    ) -> None:
        self._store = store
        self._max_kept = max_kept
        self._max_kept_bytes = max_kept_bytes
        self._max_result_bytes = max_result_bytes
        self._live: dict[str, LiveExecution] = {}
        # Executions that ended and are not stored yet: on a full disk that may take long.
        self._unsaved: dict[str, Execution] = {}

    async def open(
        self,
        session: Session,
        code: str,
        is_indexed: bool = True,
        idempotency: IdempotencyKey | None = None,
        *,
        cancel_early: EarlyCancel = do_nothing,
        is_command: bool = False,
        is_request: bool = False,
    ) -> LiveExecution:
        """Creates a queued execution with its log; the other arguments are LiveExecution's.

        `is_indexed`: it is listed, too.
        Raises StorageFailed, InsufficientStorage.
        """
        execution_id = f"exec-{secrets.token_hex(12)}"
        execution = Execution(execution_id, session.id, code, now(), is_request=is_request)
        log = await self._store.create(
            execution,
            session.directory,
            session.language,
            is_indexed=is_indexed,
            idempotency=idempotency,
        )
        live = LiveExecution(
            execution, log, self._max_result_bytes, cancel_early, is_command=is_command
        )
        self._live[live.id] = live
        return live

    def start(self, live: LiveExecution) -> None:
        """Marks the execution as running: it is its turn; its kernel may still have to start."""
        live.start()
        self._store.update_soon(live.execution)

    async def finish(self, live: LiveExecution, exit_code: int, cause: str | None) -> None:
        """Marks it as finished, has that stored soon, closes the log. Raises StorageFailed."""
        live.finish(exit_code, cause)
        self._unsaved[live.id] = live.execution
        on_stored = partial(self._unsaved.pop, live.id)
        try:
            self._store.update_soon(live.execution, live.log, on_stored)
        finally:
            # From here on the store has the execution.
            del self._live[live.id]
            await live.log.aclose()

    async def trim(self, session: Session) -> None:
        """Deletes the oldest executions of a session beyond `max_kept` and `max_kept_bytes`."""
        await self._store.trim(session.id, session.directory, self._max_kept, self._max_kept_bytes)

    async def get(self, session_id: str, execution_id: str) -> Execution:
        """Returns an execution, live or stored. Raises ExecutionNotFound."""
        live = self.find_live(session_id, execution_id)
        if live is not None:
            return live.execution
        unsaved = self._unsaved.get(execution_id)
        if unsaved is not None and unsaved.session_id == session_id:
            return unsaved
        return await self._store.get(session_id, execution_id)

    async def find_unfinished(self, session_id: str, execution_id: str) -> LiveExecution | None:
        """Returns the execution; None when it has ended. Raises ExecutionNotFound."""
        live = self.find_live(session_id, execution_id)
        if live is None:
            await self.get(session_id, execution_id)
        return live

    async def list_executions(
        self,
        session_id: str,
        limit: int | None = None,
        offset: int = 0,
        *,
        newest_first: bool = False,
        status: ExecutionStatus | None = None,
    ) -> tuple[list[Execution], int]:
        """Returns a session's executions, and how many there are in all; with a status, of those.

        The code of long ones may be cut.
        """
        selected, present = None, self._present(session_id)
        if status is not None:
            selected = StatusFilter(status, {key: one.status for key, one in present.items()})
        stored, total = await self._store.list_executions(
            session_id, limit, offset, newest_first=newest_first, selected=selected
        )
        if selected is None:
            present = self._present(session_id)
        return [present.get(one.id, one) for one in stored], total

    async def follow(
        self, session: Session, execution_id: str, after: int = 0
    ) -> AsyncGenerator[list[LoggedEvent], None]:
        """Yields events after a sequence number, then live ones. Raises ExecutionNotFound."""
        live = self.find_live(session.id, execution_id)
        if live is not None:
            batches = live.follow_with_input(after)
        else:
            execution, log = await self._open_stored(session, execution_id)
            batches = replay(log, execution, session, after)
        async with aclosing(batches):
            async for batch in batches:
                yield batch
                del batch

    async def result(
        self,
        session: Session,
        execution_id: str,
        wait_timeout: float = 0,
        wait_for_memory: WaitForMemory = do_not_wait,
    ) -> tuple[Execution, RunResult]:
        """Returns the result so far, after `wait_timeout` seconds or when the execution ends.

        Waits for memory before the result is made.
        """
        live = self.find_live(session.id, execution_id)
        if live is not None:
            if wait_timeout > 0:
                await within_timeout(live.finished.wait(), wait_timeout)
            await wait_for_memory(min(live.log.size, self._max_result_bytes))
            return await partial_result(live)
        execution, log = await self._open_stored(session, execution_id)
        await wait_for_memory(min(log.size, self._max_result_bytes))
        builder = ResultBuilder(execution_id, session.id, self._max_result_bytes)
        async with aclosing(replay(log, execution, session)) as batches:
            async for batch in batches:
                await builder.add_cooperatively(item.event for item in batch)
        return execution, builder.result()

    async def find_by_key(self, session: Session, key: str) -> tuple[str, bytes] | None:
        """Returns the id of the execution kept under a caller's key, and the digest of its body."""
        return await self._store.find_key(session.directory, key)

    def release_key(self, live: LiveExecution) -> None:
        """Frees the idempotency key of an execution: from now on no caller finds it by the key."""
        self._store.release_key_soon(live.id)

    async def interrupt(
        self, session_id: str, execution_id: str | None = None
    ) -> tuple[Execution, str, Sequence[InterruptStep]]:
        """Interrupts one execution, or the run whose turn it is, and waits for its end.

        Returns the finished execution, its `state`, and the steps that were taken.

        Raises ExecutionNotFound, NotRunning.
        """
        live = (
            self._find_run(session_id)
            if execution_id is None
            else self.find_live(session_id, execution_id)
        )
        if live is None:
            if execution_id is None:
                raise NotRunning("No run is on the session's kernel.", id=session_id)
            await self.get(session_id, execution_id)
            raise NotRunning("The execution has finished.", id=execution_id)
        steps = await live.interrupt()
        return live.execution, live.done_event.state if live.done_event else "lost", steps

    async def text(self, session: Session, execution_id: str, stream: str) -> OutputText:
        """Returns the text that the execution wrote to `stdout` or `stderr` so far, as UTF-8."""
        live = self.find_live(session.id, execution_id)
        log = live.log if live else (await self._open_stored(session, execution_id))[1]
        return OutputText(log.text_bytes[stream], lambda start, stop: log.text(stream, start, stop))

    def find_live(self, session_id: str, execution_id: str) -> LiveExecution | None:
        """Returns the live execution of that id in that session, or None."""
        live = self._live.get(execution_id)
        return live if live is not None and live.session_id == session_id else None

    def _find_run(self, session_id: str) -> LiveExecution | None:
        """Returns the run that is on the session's kernel, or for which the kernel starts."""
        for live in self._live.values():
            is_running = live.execution.status is ExecutionStatus.RUNNING
            if live.session_id == session_id and is_running and not live.is_command:
                return None if live.done_event is not None else live
        return None

    def _present(self, session_id: str) -> dict[str, Execution]:
        """Returns the executions that are known better here than in the store, by their ids."""
        live = {one.id: one.execution for one in self._live.values()}
        known = {**self._unsaved, **live}
        return {key: one for key, one in known.items() if one.session_id == session_id}

    async def _open_stored(
        self, session: Session, execution_id: str
    ) -> tuple[Execution, LogReader]:
        """Opens the log of a finished execution. Raises ExecutionNotFound, StorageFailed."""
        execution = await self.get(session.id, execution_id)
        return execution, await self._store.open_log(session.directory, execution_id)
