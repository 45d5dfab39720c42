"""Tells where what a session serves can be reached, and on which ports it listens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from era_kernels.web.base_handler import BaseHandler, HandlerContext
from era_kernels.web.base_request_models import QueryModel
from era_kernels.web.base_response_models import ResponseModel
from era_kernels.web.operations import Media, Operation

if TYPE_CHECKING:
    from era_kernels.services.port_proxies import PortProxies
    from era_kernels.services.sessions import SessionService

MAX_PORT = 65535
REACH_PORT = Operation(
    "Reach what listens on a port",
    {200: Media("*/*", "Whatever the program answers, with any status.")},
    description="A request of any method, not of GET alone, is passed on to the program that "
    "listens on the port inside the session; so are WebSockets. Where nothing listens, the stored "
    "code answers.",
)


class HostQuery(QueryModel):
    """The port that is asked about."""

    port: Annotated[int, Field(ge=1, le=MAX_PORT)] = Field(description="A port of the session.")


class HostAnswer(ResponseModel):
    """Where the port is served."""

    url: Annotated[
        str, Field(description="On a host of the port's own, where `proxy_domain` is set.")
    ]
    base_url: Annotated[str, Field(description="Below a path of the API's host.")]
    session_id: str
    port: int


class PortListed(ResponseModel):
    """A TCP port on which a program listens."""

    port: int
    address: str
    process: Annotated[str | None, Field(description="The name of the program, where it is known.")]


class PortsAnswer(ResponseModel):
    """What listens inside the session, by port."""

    ports: list[PortListed]


class HostHandler(BaseHandler):
    """Tells the address of a port; whether something listens there plays no part."""

    operations = {
        "GET": Operation(
            "Tell where a port is served",
            {200: HostAnswer},
            query=HostQuery,
            description="Requests of any method to `url` and below reach what listens on the port.",
        )
    }

    def initialize(self, context: HandlerContext, sessions: SessionService) -> None:
        super().initialize(context)
        self.sessions = sessions

    async def get(self, session_id: str) -> None:
        port = self.read_query(HostQuery).port
        await self.sessions.session(session_id)
        base = self.context.access.base_url(self.request)
        path_url = f"{base}/proxy/{session_id}/{port}"
        hosts = self.context.port_hosts
        url = path_url if hosts is None else hosts.url(base, session_id, port)
        await self.finish_json(
            HostAnswer(url=url, base_url=path_url, session_id=session_id, port=port)
        )


class PortsHandler(BaseHandler):
    """Lists the ports on which programs of a session listen."""

    operations = {"GET": Operation("List the ports that are served", {200: PortsAnswer})}

    def initialize(self, context: HandlerContext, proxies: PortProxies) -> None:
        super().initialize(context)
        self.proxies = proxies

    async def get(self, session_id: str) -> None:
        found = await self.proxies.listening(session_id)
        ports = [
            PortListed(port=one.port, address=one.address, process=one.process) for one in found
        ]
        await self.finish_json(PortsAnswer(ports=ports))
