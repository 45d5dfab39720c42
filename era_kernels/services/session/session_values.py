"""Holds a session's present values, as in its row, and why it ended or lost its variables."""

from __future__ import annotations

import dataclasses
from typing import Any

from era_kernels.errors import EraError
from era_kernels.kernels.machine import Machine
from era_kernels.models import EndReason, ExecutionEnd, ExitInfo, Session
from era_kernels.services.executions.notices import SERVER_RESTARTED, describe_loss, loss_notice
from era_kernels.storage.sessions import SessionStore


class SessionValues:
    """A session's values, in memory and in its row; in memory only if not `is_stored`."""

    def __init__(self, session: Session, store: SessionStore, *, is_stored: bool = True) -> None:
        self.session = session
        self.is_stored = is_stored
        # The reason of the session's end, and the error that callers get from then on.
        self.closed_with: tuple[EndReason, EraError] | None = None
        self._store = store

    @property
    def is_deleted(self) -> bool:
        return self.closed_with is not None and self.closed_with[0] is not EndReason.STOPPED

    def close(self, reason: EndReason, closed_error: EraError) -> tuple[EndReason, EraError]:
        """Notes that the session ends; returns how it ended first, with the error for callers."""
        self.closed_with = self.closed_with or (reason, closed_error)
        return self.closed_with

    def check_open(self) -> None:
        """Raises the error that callers get once the session has ended."""
        if self.closed_with is not None:
            raise self.closed_with[1]

    async def update(self, **changes: Any) -> None:
        """Changes fields; they are durable when this returns.

        Raises SessionNotFound, StorageFailed.
        """
        if self.is_stored:
            await self._store.update(self.session, **changes)
        self.session = dataclasses.replace(self.session, **changes)

    def update_soon(self, **changes: Any) -> None:
        """Changes fields, and does not wait until they are durable."""
        if self.is_stored:
            self._store.update_soon(self.session, **changes)
        self.session = dataclasses.replace(self.session, **changes)


class LostVariables:
    """Keeps in the session's row why variables are lost, from the end of their kernel on.

    As soon as a kernel has code, the row says that the server was restarted: that is the reason if
    the row is read when the kernel is gone and nobody saw it end.
    """

    def __init__(self, values: SessionValues) -> None:
        self._values = values
        self._owner: Machine | None = None  # its kernel has run code and has not ended
        self._running: Machine | None = None  # has a run now

    def begin_run(self, machine: Machine) -> tuple[str, ...]:
        """Returns the notices for a run that its kernel gets now.

        A machine that has ended never runs it: then the next run is told.
        """
        if machine.ended.done():
            return ()
        self._running = machine
        if self._owner is machine:
            return ()
        self._owner = machine
        why = self._values.session.variables_lost
        self._store(SERVER_RESTARTED)
        return () if why is None else (loss_notice(why),)

    def end_run(self, end: ExecutionEnd | None) -> None:
        """Notes how the run ended, None for a fault: of its kernel's end it knows the most."""
        was_running, self._running = self._running, None
        if was_running is None or end is None or end.state != "lost" or end.exit_info is None:
            return
        exit_info = ExitInfo(reason=EndReason.TIMEOUT) if end.timed_out else end.exit_info
        self._store(describe_loss(exit_info, between_runs=False))

    def on_kernel_ended(self, machine: Machine, exit_info: ExitInfo) -> None:
        """Notes the end of a kernel. One that had no code loses nothing."""
        if machine is self._owner:
            self._owner = None
            self._store(describe_loss(exit_info, between_runs=machine is not self._running))

    def _store(self, why: str) -> None:
        if self._values.session.variables_lost != why and not self._values.is_deleted:
            self._values.update_soon(variables_lost=why)
