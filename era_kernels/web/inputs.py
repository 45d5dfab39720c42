"""Answers to what a running program asks with `input()`."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from era_kernels.errors import InvalidRequest, NoInputPending, TooLarge
from era_kernels.web.answers import Answer
from era_kernels.web.bodies import Body
from era_kernels.web.executions import ReadingHandler
from era_kernels.web.operations import Operation

LONGEST = 1024 * 1024  # characters of a line


class InputBody(Body):
    """A line of input."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"value": "Ada"}]})

    value: str = Field(description="One line; a newline at its end is dropped.")


class InputAnswer(Answer):
    """The program has the line."""

    success: bool


class InputHandler(ReadingHandler):
    """A line for the program that waits for one. It is neither logged nor kept nor echoed."""

    operations = {
        "POST": Operation(
            "Answer a program that waits for input",
            {200: InputAnswer},
            request=InputBody,
            description="A program asks with the event `input_request` while somebody reads the "
            "execution's stream; where several threads ask, the oldest question is answered.",
        )
    }

    async def post(self, id: str, execution_id: str) -> None:
        value = line_of((await self.read(InputBody)).value)
        await self.sessions.session(id)
        running = await self.executions.find_unfinished(id, execution_id)
        if running is None:
            raise NoInputPending("The execution has ended.", id=execution_id)
        await running.stdin.reply(value)
        await self.answer({"success": True})


def line_of(value: str) -> str:
    """The line as a terminal would hand it over: Enter ends it. Raises InvalidRequest, TooLarge."""
    line = value.removesuffix("\n").removesuffix("\r")
    if "\n" in line or "\r" in line:
        raise InvalidRequest("`value` must be one line.", hint="Send each line when it is asked.")
    if len(line) > LONGEST:
        raise TooLarge(f"`value` is longer than {LONGEST} characters.")
    return line
