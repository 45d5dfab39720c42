"""Shows the stack of a running program and the variables of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from pydantic import Field

from era_kernels.models import MISSING, Variable
from era_kernels.web.base_handler import BaseHandler, HandlerContext
from era_kernels.web.base_response_models import ResponseModel
from era_kernels.web.operations import Operation

if TYPE_CHECKING:
    from era_kernels.services.inspection import InspectionService

BYTES_PER_VARIABLE = 1024  # a rough estimate of the JSON of one variable


class FrameAnswer(ResponseModel):
    """A call that has not returned."""

    file: str
    line: int
    function: str
    source: Annotated[str, Field(description="The text of the line; empty where it is not known.")]


class StackAnswer(ResponseModel):
    """Calls, innermost last, as in a traceback; those of the kernel itself are left out."""

    frames: list[FrameAnswer]
    language: str


class VariableAnswer(ResponseModel):
    """A name of the program's."""

    name: str
    type: str
    shape: NotRequired[Annotated[list[int], Field([], description="Of arrays and tables.")]]
    size: NotRequired[
        Annotated[int, Field(0, description="Of strings and containers: how long they are.")]
    ]
    value: NotRequired[
        Annotated[
            Any,
            Field(None, description="Of built-in types, and containers of them; long text is cut."),
        ]
    ]


class VariablesAnswer(ResponseModel):
    """Variables in the order in which they came; `truncated`: there are more."""

    variables: list[VariableAnswer]
    truncated: bool


class InspectionHandlerBase(BaseHandler):
    """Holds the service of both handlers, which neither queue a run nor start a kernel."""

    def initialize(self, context: HandlerContext, inspection: InspectionService) -> None:
        super().initialize(context)
        self.inspection = inspection


class StackHandler(InspectionHandlerBase):
    """Shows the stack of a running program."""

    operations = {"GET": Operation("Show where a run is", {200: StackAnswer})}

    async def get(self, session_id: str, execution_id: str) -> None:
        stack = self.inspection.stack(session_id, execution_id)
        frames, language = await self.while_connected(stack)
        listed = [
            FrameAnswer(file=one.file, line=one.line, function=one.function, source=one.source)
            for one in frames
        ]
        await self.finish_json(StackAnswer(frames=listed, language=language))


class VariablesHandler(InspectionHandlerBase):
    """Lists the variables of a session, also while a run is under way."""

    operations = {"GET": Operation("List variables", {200: VariablesAnswer})}

    async def get(self, session_id: str) -> None:
        found = await self.while_connected(self.inspection.variables(session_id))
        listed = [variable_response(one) for one in found.variables]
        out = VariablesAnswer(variables=listed, truncated=found.truncated)
        await self.finish_json(out, size=len(listed) * BYTES_PER_VARIABLE)


def variable_response(variable: Variable) -> VariableAnswer:
    """Returns a variable as JSON, without the fields that are not known."""
    out: VariableAnswer = {"name": variable.name, "type": variable.type}
    if variable.shape is not None:
        out["shape"] = list(variable.shape)
    if variable.size is not None:
        out["size"] = variable.size
    if variable.value is not MISSING:
        out["value"] = variable.value
    return out
