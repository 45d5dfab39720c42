"""What is inside a session: where a running program is, and what its names hold."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import Field

from era_kernels.models import ABSENT, JsonObject, Variable
from era_kernels.web.answers import Answer
from era_kernels.web.base import BaseHandler, Edge
from era_kernels.web.operations import Operation

if TYPE_CHECKING:
    from era_kernels.services.inspection import InspectionService

EACH = 1024  # bytes that a variable takes, about


class FrameAnswer(Answer):
    """A call that has not returned."""

    file: str
    line: int
    function: str
    source: str = Field(description="The text of the line; empty where it is not known.")


class StackAnswer(Answer):
    """Calls, innermost last, as in a traceback; those of the kernel itself are left out."""

    frames: list[FrameAnswer]
    language: str


class VariableAnswer(Answer):
    """A name of the program's."""

    name: str
    type: str
    shape: list[int] = Field([], description="Of arrays and tables.")
    size: int = Field(0, description="Of strings and containers: how long they are.")
    value: Any = Field(
        None, description="Of built-in types, and containers of them; long text is cut."
    )


class VariablesAnswer(Answer):
    """Variables in the order in which they came; `truncated`: there are more."""

    variables: list[VariableAnswer]
    truncated: bool


class InsightHandler(BaseHandler):
    """What both have in common: they neither queue nor start anything."""

    def initialize(self, edge: Edge, insights: InspectionService) -> None:  # type: ignore[override]
        super().initialize(edge)
        self.insights = insights


class StackHandler(InsightHandler):
    """Where a running program is."""

    operations = {"GET": Operation("Show where a run is", {200: StackAnswer})}

    async def get(self, id: str, execution_id: str) -> None:
        found = self.insights.stack(id, execution_id)
        frames, language = await self.while_connected(found)
        await self.answer({"frames": [asdict(frame) for frame in frames], "language": language})


class VariablesHandler(InsightHandler):
    """What a session's names hold, also while a run is under way."""

    operations = {"GET": Operation("List variables", {200: VariablesAnswer})}

    async def get(self, id: str) -> None:
        found = await self.while_connected(self.insights.variables(id))
        listed = [variable_object(one) for one in found.variables]
        out = {"variables": listed, "truncated": found.truncated}
        await self.answer(out, size=len(listed) * EACH)


def variable_object(variable: Variable) -> JsonObject:
    """A variable as it is listed; what is not told is left out."""
    out: JsonObject = {"name": variable.name, "type": variable.type}
    if variable.shape is not None:
        out["shape"] = list(variable.shape)
    if variable.size is not None:
        out["size"] = variable.size
    if variable.value is not ABSENT:
        out["value"] = variable.value
    return out
