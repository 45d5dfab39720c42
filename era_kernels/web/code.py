"""Stored code: what runs in a session where a run brings none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict, Field

from era_kernels.models import iso
from era_kernels.web.answers import Answer
from era_kernels.web.base import BaseHandler, Edge
from era_kernels.web.bodies import Body
from era_kernels.web.operations import Operation

if TYPE_CHECKING:
    from era_kernels.services.stored_code import StoredCodeService


class PutCode(Body):
    """Code to keep with a session."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"code": "print(6 * 7)"}]})

    code: str
    description: str | None = Field(None, description="When absent, the old one stays.")


class CodeAnswer(Answer):
    """The code that is stored with a session."""

    code: str
    description: str
    updated_at: str
    code_length: int = Field(description="In characters.")


class CodePutAnswer(Answer):
    """The code is stored."""

    success: Literal[True]
    code_length: int = Field(description="In characters.")
    updated_at: str


class CodeHandler(BaseHandler):
    """The code stored with a session."""

    operations = {
        "GET": Operation("Show the stored code", {200: CodeAnswer}),
        "PUT": Operation("Store code", {200: CodePutAnswer}, request=PutCode),
    }

    def initialize(self, edge: Edge, codes: StoredCodeService) -> None:  # type: ignore[override]
        super().initialize(edge)
        self.codes = codes

    async def get(self, id: str) -> None:
        stored = await self.codes.get(id)
        await self.answer(
            {
                "code": stored.code,
                "description": stored.description,
                "updated_at": iso(stored.updated_at),
                "code_length": len(stored.code),
            },
            size=len(stored.code) + len(stored.description),
        )

    async def put(self, id: str) -> None:
        body = await self.read(PutCode)
        stored = await self.codes.put(id, body.code, body.description)
        await self.answer(
            {
                "success": True,
                "code_length": len(stored.code),
                "updated_at": iso(stored.updated_at),
            }
        )
