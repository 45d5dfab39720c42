"""Stored code: a session keeps it and runs it when a run request brings no code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import ConfigDict, Field

from era_kernels.models import to_iso
from era_kernels.web.base_handler import BaseHandler, HandlerContext
from era_kernels.web.base_request_models import RequestModel
from era_kernels.web.base_response_models import ResponseModel
from era_kernels.web.operations import Operation

if TYPE_CHECKING:
    from era_kernels.services.stored_code import StoredCodeService


class PutCode(RequestModel):
    """Code to keep with a session."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"code": "print(6 * 7)"}]})

    code: str
    description: str | None = Field(None, description="When absent, the old one stays.")


class CodeAnswer(ResponseModel):
    """The code that is stored with a session."""

    code: str
    description: str
    updated_at: str
    code_length: Annotated[int, Field(description="In characters.")]


class CodePutAnswer(ResponseModel):
    """The code is stored."""

    success: Literal[True]
    code_length: Annotated[int, Field(description="In characters.")]
    updated_at: str


class CodeHandler(BaseHandler):
    """Shows and replaces the code stored with a session."""

    operations = {
        "GET": Operation("Show the stored code", {200: CodeAnswer}),
        "PUT": Operation("Store code", {200: CodePutAnswer}, request=PutCode),
    }

    def initialize(self, context: HandlerContext, codes: StoredCodeService) -> None:
        super().initialize(context)
        self.codes = codes

    async def get(self, session_id: str) -> None:
        stored = await self.codes.get(session_id)
        await self.finish_json(
            CodeAnswer(
                code=stored.code,
                description=stored.description,
                updated_at=to_iso(stored.updated_at),
                code_length=len(stored.code),
            ),
            size=len(stored.code) + len(stored.description),
        )

    async def put(self, session_id: str) -> None:
        body = await self.read_body(PutCode)
        stored = await self.codes.put(session_id, body.code, body.description)
        await self.finish_json(
            CodePutAnswer(
                success=True, code_length=len(stored.code), updated_at=to_iso(stored.updated_at)
            )
        )
