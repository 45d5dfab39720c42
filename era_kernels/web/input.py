"""Passes lines of input to running programs that wait in `input()`."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from era_kernels.errors import InvalidRequest, NoInputPending, TooLarge
from era_kernels.web.base_request_models import RequestModel
from era_kernels.web.base_response_models import ResponseModel
from era_kernels.web.executions import ExecutionHandlerBase
from era_kernels.web.operations import Operation

MAX_LINE_LENGTH = 1024 * 1024  # characters of a line


class InputBody(RequestModel):
    """A line of input."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"value": "Ada"}]})

    synonyms = {"input": "value", "text": "value"}

    value: str = Field(description="One line; a newline at its end is dropped.")


class InputAnswer(ResponseModel):
    """The program has the line."""

    success: bool


class InputHandler(ExecutionHandlerBase):
    """Passes a line to a program that waits for input; the line is not logged, kept or echoed."""

    operations = {
        "POST": Operation(
            "Answer a program that waits for input",
            {200: InputAnswer},
            request=InputBody,
            description="A program asks with the event `input_request` while somebody reads the "
            "execution's stream; where several threads ask, the oldest question is answered.",
        )
    }

    async def post(self, session_id: str, execution_id: str) -> None:
        value = parse_line((await self.read_body(InputBody)).value)
        await self.sessions.session(session_id)
        execution = await self.executions.find_unfinished(session_id, execution_id)
        if execution is None:
            raise NoInputPending("The execution has ended.", id=execution_id)
        await execution.stdin.reply(value)
        await self.finish_json(InputAnswer(success=True))


def parse_line(value: str) -> str:
    """Returns the line without the newline at its end. Raises InvalidRequest, TooLarge."""
    line = value.removesuffix("\n").removesuffix("\r")
    if "\n" in line or "\r" in line:
        raise InvalidRequest("`value` must be one line.", hint="Send each line when it is asked.")
    if len(line) > MAX_LINE_LENGTH:
        raise TooLarge(f"`value` is longer than {MAX_LINE_LENGTH} characters.")
    return line
