"""How the server is, and what it can do: health, languages, limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict

from era_kernels import __version__
from era_kernels.models import JsonObject, iso, now
from era_kernels.web.answers import Answer
from era_kernels.web.base import BaseHandler, Edge
from era_kernels.web.operations import Operation
from era_kernels.web.sessions import IsolationAnswer

if TYPE_CHECKING:
    from era_kernels.services.server_info import ServerInfo

RETRY_AFTER = 5  # seconds


class HealthAnswer(Answer):
    """The server is well."""

    status: Literal["healthy"]
    timestamp: str
    time: str
    version: str
    isolation: IsolationAnswer
    languages: dict[str, bool]


class UnhealthyAnswer(Answer):
    """A part is down; `problems` tells which, in words."""

    status: Literal["unhealthy"]
    timestamp: str
    time: str
    version: str
    isolation: IsolationAnswer
    languages: dict[str, bool]
    problems: dict[str, str]


class LanguageAnswer(Answer):
    """One language; `reason` says what is missing when it is not available."""

    name: str
    aliases: list[str]
    available: bool
    version: str | None
    reason: str = ""
    kernels: list[str]
    capabilities: list[str]


class LanguagesAnswer(Answer):
    """Every language that the server knows."""

    languages: list[LanguageAnswer]


class LimitsAnswer(Answer):
    """Setting → value, in bytes and seconds; null where there is no bound."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"default_timeout": 30, "max_sessions": None}]},
    )

    __pydantic_extra__: dict[str, float | None]


class StatusHandler(BaseHandler):
    """What the handlers of this section share."""

    def initialize(self, edge: Edge, status: ServerInfo) -> None:  # type: ignore[override]
        super().initialize(edge)
        self.status = status


class HealthHandler(StatusHandler):
    """Open to everybody: load balancers have no token."""

    operations = {
        "GET": Operation("How the server is", {200: HealthAnswer, 503: UnhealthyAnswer}),
    }

    @property
    def protected(self) -> bool:
        return False

    async def get(self) -> None:
        problems = await self.status.failures()
        present = iso(now())
        isolation = self.status.isolation
        out: JsonObject = {
            "status": "unhealthy" if problems else "healthy",
            "timestamp": present,
            "time": present,
            "version": __version__,
            "isolation": {"tier": isolation.tier, "missing": list(isolation.missing)},
            "languages": self.status.availability(),
        }
        if problems:
            out["problems"] = problems
            self.set_header("Retry-After", RETRY_AFTER)
        await self.answer(out, 503 if problems else 200)


class LanguagesHandler(StatusHandler):
    """What can be run here."""

    operations = {"GET": Operation("List languages", {200: LanguagesAnswer})}

    async def get(self) -> None:
        await self.answer({"languages": self.status.languages()})


class LimitsHandler(StatusHandler):
    """The bounds in force."""

    operations = {"GET": Operation("Show the limits", {200: LimitsAnswer})}

    async def get(self) -> None:
        await self.answer(self.status.limits())
