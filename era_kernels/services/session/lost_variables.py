"""Remembers why a session's variables are lost, for the notice that its next run gets."""

from __future__ import annotations

from era_kernels.kernels.machine import Machine
from era_kernels.models import EndReason, ExecutionEnd, ExitInfo
from era_kernels.services.executions.notices import SERVER_RESTARTED, describe_loss, loss_notice
from era_kernels.services.session.session_values import SessionValues


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
