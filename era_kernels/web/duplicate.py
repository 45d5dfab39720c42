"""Duplicates a session: makes a new one with its files, packages, data and code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict, Field

from era_kernels.models import Variables
from era_kernels.services.session_duplication import DuplicateRequest
from era_kernels.web.base_handler import BaseHandler, HandlerContext
from era_kernels.web.base_request_models import JsonMap, RequestModel, SessionId, id_warnings
from era_kernels.web.base_response_models import ResponseModel
from era_kernels.web.operations import Operation
from era_kernels.web.session_responses import SessionAnswer, session_response
from era_kernels.web.sessions import CREATION_FIELDS, ChangeSession

if TYPE_CHECKING:
    from era_kernels.services.sessions import SessionService


NOT_COPIED = "variables are not copied: the duplicate starts with a fresh kernel"


class DuplicateSession(RequestModel):
    """A wish for a duplicate."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"new_id": "my-copy"}]})

    synonyms = {"session_id": "new_id", "new_session_id": "new_id", "target_id": "new_id"}
    remarks = {
        **dict.fromkeys(
            set(CREATION_FIELDS) - {"session_id"},
            "is the same as the source's; it changes nothing here",
        ),
        **dict.fromkeys(
            ChangeSession.model_fields, "is the same as the source's; PATCH changes it afterwards"
        ),
    }

    new_id: SessionId | None = Field(None, description="Default: a random id.")
    id: SessionId | None = Field(None, description="The same as `new_id`.")
    data: JsonMap | None = Field(None, description="Instead of the source's, whole.")
    variables: bool | None = Field(
        None,
        description="Default true: wait for the runs before it, and tell which variables are lost. "
        "False: copy at once.",
    )


class LostVariable(ResponseModel):
    """A variable that the duplicate does not have."""

    name: str
    reason: str


class CopyAnswer(ResponseModel):
    """What of the interpreter was copied: with `files`, none of the variables, which are lost."""

    mode: Literal["files", "variables"]
    copied: list[str]
    lost: list[LostVariable]


class DuplicateAnswer(SessionAnswer):
    """The new session."""

    source_session_id: str
    copy: CopyAnswer


class DuplicateHandler(BaseHandler):
    """Duplicates a session under another id."""

    operations = {
        "POST": Operation(
            "Duplicate a session",
            {201: DuplicateAnswer},
            request=DuplicateSession,
            description="Files, packages, data and stored code are copied. Nothing is made when "
            "the client leaves before the answer.",
        ),
    }

    def initialize(self, context: HandlerContext, sessions: SessionService) -> None:
        super().initialize(context)
        self.sessions = sessions

    async def post(self, session_id: str) -> None:
        body = await self.read_body(DuplicateSession)
        self.warn(id_warnings("new_id", body.new_id, body.id))
        duplicate_request = DuplicateRequest(
            body.new_id or body.id, body.data, skip_queue=body.variables is False
        )
        view, variables = await self.while_connected(
            self.sessions.duplicate(session_id, duplicate_request)
        )
        if variables is None:
            self.warn(["copy.lost is empty: the source has variables, and its kernel lists none"])
            variables = Variables()
        elif variables.truncated:
            self.warn(["copy.lost is not whole: the source has more variables than it lists"])
        lost = [LostVariable(name=one.name, reason=NOT_COPIED) for one in variables.variables]
        copied = CopyAnswer(mode="files", copied=[], lost=lost)
        out = {**session_response(view), "source_session_id": session_id, "copy": copied}
        await self.finish_json(out, 201)
