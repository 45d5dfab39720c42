"""A look inside a session while it runs: the stack of an execution, and the variables."""

from __future__ import annotations

from era_kernels.errors import NotRunning, NotSupported
from era_kernels.kernels.languages import Languages
from era_kernels.models import ExecutionStatus, Frame, Variables
from era_kernels.services.executions import Executions
from era_kernels.services.sessions import SessionService


class Insights:
    """Answers without a place in the queue, and without starting anything."""

    def __init__(
        self, sessions: SessionService, executions: Executions, languages: Languages
    ) -> None:
        self._sessions = sessions
        self._executions = executions
        self._languages = languages

    async def stack(self, id: str, execution_id: str) -> tuple[list[Frame], str]:
        """The calls that the execution is in, innermost last, and the language.

        None while its kernel only starts. Raises SessionNotFound, ExecutionNotFound, NotRunning,
        NotSupported, KernelSilent.
        """
        session = await self._sessions.session(id)
        running = await self._executions.find_running(id, execution_id)
        if running is None or running.execution.status is not ExecutionStatus.RUNNING:
            raise _not_running(execution_id)
        if running.beside:
            raise NotSupported("A program beside the kernel cannot tell its stack.")
        self._check(session.language, "stack")
        frames = [] if running.inside is None else await running.inside.stack()
        if running.finished.is_set():
            raise _not_running(execution_id)
        return frames, session.language

    async def variables(self, id: str) -> Variables:
        """Those of the session; none without a kernel.

        Raises SessionNotFound, NotSupported, KernelSilent.
        """
        async with self._sessions.borrow(id) as live:
            self._check(live.session.language, "variables")
            machine = live.ready_machine
            return Variables() if machine is None else await machine.kernel.control.variables()

    def _check(self, language: str, capability: str) -> None:
        if capability not in self._languages.resolve(language).capabilities:
            raise NotSupported(f"The kernel of {language} cannot tell its {capability}.")


def _not_running(execution_id: str) -> NotRunning:
    return NotRunning("The execution is not running.", id=execution_id)
