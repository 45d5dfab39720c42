"""Reports the health, the languages and the limits of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NotRequired, cast

from pydantic import BaseModel, ConfigDict, Field

from era_kernels import __version__
from era_kernels.models import JsonObject, now, to_iso
from era_kernels.web.base_handler import BaseHandler, HandlerContext
from era_kernels.web.base_response_models import ResponseModel
from era_kernels.web.operations import Operation
from era_kernels.web.session_responses import IsolationAnswer

if TYPE_CHECKING:
    from era_kernels.services.server_info import ServerInfo

RETRY_AFTER_SECONDS = 5
_MISSING_FOR_STRANGERS = "a token shows what"
_PROBLEM_FOR_STRANGERS = "A token shows what it is."


class HealthAnswer(ResponseModel):
    """The server is well."""

    status: Literal["healthy"]
    timestamp: str
    time: str
    version: str
    isolation: IsolationAnswer
    languages: dict[str, bool]
    problems: NotRequired[
        Annotated[
            dict[str, str],
            Field({}, description="What was lost, in words; only when something was."),
        ]
    ]


class UnhealthyAnswer(ResponseModel):
    """A part is down; `problems` tells which, in words. Or the server is stopping."""

    status: Literal["unhealthy", "stopping"]
    timestamp: str
    time: str
    version: str
    isolation: IsolationAnswer
    languages: dict[str, bool]
    problems: NotRequired[
        Annotated[dict[str, str], Field({}, description="Only when a part is down or was lost.")]
    ]


class KernelAnswer(ResponseModel):
    """One kernel of a language; `reason` says what is missing when it is not available."""

    name: str
    display_name: str
    available: bool
    version: str | None
    reason: NotRequired[Annotated[str, Field("")]]
    capabilities: list[str]
    fence: Annotated[
        bool,
        Field(
            description="False: it may deliver output after a run's end, which goes to the "
            "session's log, and takes no `env` of a run."
        ),
    ]


class LanguageAnswer(ResponseModel):
    """One language, which is what its first kernel is; `reason` says what that lacks."""

    name: str
    aliases: list[str]
    available: bool
    version: str | None
    reason: NotRequired[Annotated[str, Field("")]]
    kernels: Annotated[list[str], Field(description="The first is the default.")]
    capabilities: list[str]
    kernel_details: list[KernelAnswer]


class LanguagesAnswer(ResponseModel):
    """Every language that the server knows."""

    languages: list[LanguageAnswer]


class LimitsAnswer(BaseModel):
    """Setting → value, in bytes and seconds; null where there is no bound."""

    model_config = ConfigDict(
        extra="allow",
        strict=True,
        json_schema_extra={"examples": [{"default_timeout": 30, "max_sessions": None}]},
    )

    __pydantic_extra__: dict[str, float | None]


class ServerInfoHandlerBase(BaseHandler):
    """Holds the service that the handlers of this module share."""

    def initialize(self, context: HandlerContext, server_info: ServerInfo) -> None:
        super().initialize(context)
        self.server_info = server_info


class HealthHandler(ServerInfoHandlerBase):
    """Reports the health of the server; needs no token, since load balancers have none.

    Who has none, where others have, gets no sentences, for those tell of the host and its paths.
    """

    operations = {
        "GET": Operation("How the server is", {200: HealthAnswer, 503: UnhealthyAnswer}),
    }

    @property
    def requires_token(self) -> bool:
        return False

    async def get(self) -> None:
        failures = await self.server_info.failures()
        await self.server_info.refresh()
        timestamp = to_iso(now())
        isolation = self.server_info.isolation
        is_stopping = self.context.is_stopping()
        status = "stopping" if is_stopping else "unhealthy" if failures else "healthy"
        out: JsonObject = {
            "status": status,
            "timestamp": timestamp,
            "time": timestamp,
            "version": __version__,
            "isolation": {"tier": isolation.tier, "missing": self._missing()},
            "languages": self.server_info.availability(),
        }
        if problems := {**self.server_info.damages(), **failures}:
            if not self.caller.is_trusted:
                problems = dict.fromkeys(problems, _PROBLEM_FOR_STRANGERS)
            out["problems"] = problems
        if status != "healthy":
            self.set_header("Retry-After", RETRY_AFTER_SECONDS)
        await self.finish_json(out, 200 if status == "healthy" else 503)

    def _missing(self) -> list[str]:
        missing = list(self.server_info.isolation.missing)
        return missing if self.caller.is_trusted or not missing else [_MISSING_FOR_STRANGERS]


class LanguagesHandler(ServerInfoHandlerBase):
    """Lists the languages that the server knows."""

    operations = {"GET": Operation("List languages", {200: LanguagesAnswer})}

    async def get(self) -> None:
        await self.server_info.refresh()
        languages = cast("list[LanguageAnswer]", self.server_info.languages())
        await self.finish_json(LanguagesAnswer(languages=languages))


class LimitsHandler(ServerInfoHandlerBase):
    """Shows the limits in force."""

    operations = {"GET": Operation("Show the limits", {200: LimitsAnswer})}

    async def get(self) -> None:
        await self.finish_json(self.server_info.limits())
