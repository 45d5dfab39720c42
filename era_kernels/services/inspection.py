"""Reads the stack of a running execution, and the variables of a session."""

from __future__ import annotations

from era_kernels.errors import NotRunning, NotSupported
from era_kernels.kernels.languages import Languages
from era_kernels.models import ExecutionStatus, Session, StackFrame, Variables
from era_kernels.services.executions.service import ExecutionService
from era_kernels.services.sessions import SessionService


class InspectionService:
    """Answers beside the queue of runs, and without starting a kernel."""

    def __init__(
        self, sessions: SessionService, executions: ExecutionService, languages: Languages
    ) -> None:
        self._sessions = sessions
        self._executions = executions
        self._languages = languages

    async def stack(self, session_id: str, execution_id: str) -> tuple[list[StackFrame], str]:
        """Returns the stack frames of the execution, innermost last, and the language.

        There are no frames while its kernel only starts. Raises SessionNotFound,
        ExecutionNotFound, NotRunning, NotSupported, KernelSilent.
        """
        session = await self._sessions.session(session_id)
        live = await self._executions.find_unfinished(session_id, execution_id)
        if live is None or live.execution.status is not ExecutionStatus.RUNNING:
            raise _not_running(execution_id)
        if live.is_command:
            raise NotSupported("A program beside the kernel cannot tell its stack.")
        self._check_capability(session, "stack")
        frames = [] if live.control is None else await live.control.stack()
        if live.finished.is_set():
            raise _not_running(execution_id)
        return frames, session.language

    async def variables(self, session_id: str) -> Variables:
        """Returns the variables of the session; none without a kernel.

        Raises SessionNotFound, NotSupported, KernelSilent.
        """
        async with self._sessions.borrow(session_id) as live_session:
            self._check_capability(live_session.session, "variables")
            machine = live_session.session_machine.find(with_kernel=True)
            return Variables() if machine is None else await machine.kernel.control.variables()

    def _check_capability(self, session: Session, capability: str) -> None:
        if not self._languages.has_capability(session, capability):
            name = session.kernel or session.language
            raise NotSupported(f"The kernel of {name} cannot tell its {capability}.")


def _not_running(execution_id: str) -> NotRunning:
    return NotRunning("The execution is not running.", id=execution_id)
