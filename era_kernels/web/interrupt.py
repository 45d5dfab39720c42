"""Interrupts an execution, or the run on a session's kernel: ends it and nothing else."""

from __future__ import annotations

from era_kernels.web.base_response_models import ResponseModel
from era_kernels.web.executions import ExecutionHandlerBase
from era_kernels.web.operations import Operation

_DESCRIPTION = """\
Waits until the execution has ended: one that waits for its turn or for its kernel is
cancelled; one that runs is interrupted, once more after half a second, and if it goes on for three
seconds its kernel is ended, with its variables (`state` is `lost`). It ends with exit code 130. Who
asks for the same end meanwhile gets the same steps."""


class StepTold(ResponseModel):
    """What was done, so many milliseconds after it was asked for."""

    action: str
    ms: float


class InterruptedAnswer(ResponseModel):
    """The execution has ended; `steps` tell what that took."""

    success: bool
    execution_id: str
    state: str
    steps: list[StepTold]


class InterruptHandler(ExecutionHandlerBase):
    """Ends an execution on the request of any caller."""

    operations = {
        "POST": Operation(
            "Interrupt an execution", {200: InterruptedAnswer}, description=_DESCRIPTION
        ),
    }

    async def post(self, session_id: str, execution_id: str | None = None) -> None:
        await self.sessions.session(session_id)
        execution, state, steps = await self.while_connected(
            self.executions.interrupt(session_id, execution_id)
        )
        steps_response = [
            StepTold(action=step.action, ms=round(step.seconds * 1000, 3)) for step in steps
        ]
        await self.finish_json(
            InterruptedAnswer(
                success=True, execution_id=execution.id, state=state, steps=steps_response
            )
        )


class SessionInterruptHandler(InterruptHandler):
    """Ends the run whose turn it is, whichever that is; runs that wait go on."""

    operations = {
        "POST": Operation(
            "Interrupt the run on the kernel",
            {200: InterruptedAnswer},
            description=f"As the interrupt of that execution. {_DESCRIPTION}\n\n"
            "NOT_RUNNING when no run is on the kernel; programs beside it are no runs.",
        ),
    }
