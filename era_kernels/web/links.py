"""Makes, lists and revokes links, which open one file or one port without a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NotRequired
from urllib.parse import quote

from pydantic import ConfigDict, Field

from era_kernels.errors import InvalidRequest
from era_kernels.models import Link, LinkTarget, now, to_iso
from era_kernels.web.base_handler import BaseHandler, HandlerContext
from era_kernels.web.base_request_models import RequestModel
from era_kernels.web.base_response_models import ResponseModel
from era_kernels.web.operations import Operation
from era_kernels.web.ports import MAX_PORT

if TYPE_CHECKING:
    from era_kernels.services.links import LinkService

DEFAULT_TTL = 3600.0  # seconds
MAX_TTL = 7 * 24 * 3600.0  # seconds

_DESCRIPTION = """\
Whoever has the `url` may read the file (`GET`), replace it (`PUT`), or use the port, without a
token and nothing else. The answer is the only one that tells the `url`: it is not stored."""


class CreateLink(RequestModel):
    """A link to a file, by `path` and `method`, or to a `port`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"path": "report.csv", "method": "GET", "ttl": 600}]}
    )

    synonyms = {"expires_in": "ttl", "expiration_ttl": "ttl", "file": "path"}
    remarks = {"expires_at": "is not known; `ttl` takes the seconds until the link expires"}

    path: str | None = Field(None, description="A file of the session, which need not be there.")
    method: Literal["GET", "PUT"] | None = Field(None, description="With a path; `GET` if absent.")
    port: Annotated[int, Field(ge=1, le=MAX_PORT)] | None = None
    ttl: Annotated[float, Field(gt=0, le=MAX_TTL)] = Field(
        DEFAULT_TTL, description="Seconds until the link expires."
    )

    def to_target(self) -> LinkTarget:
        """Returns what the link is to open. Raises InvalidRequest."""
        if (self.path is None) == (self.port is None):
            raise InvalidRequest(
                "`path` or `port` is required, and not both: a link opens one thing.",
                details=[{"field": "path", "problem": "must be there where no port is"}],
            )
        if self.path is not None:
            return LinkTarget(path=self.path, method=self.method or "GET")
        if self.method is not None:
            raise InvalidRequest(
                "`method` belongs to a `path`: a link to a port takes any method.",
                details=[{"field": "method", "problem": "must not be there with a port"}],
            )
        return LinkTarget(port=self.port)


class LinkCreatedAnswer(ResponseModel):
    """The link; nothing tells its address again."""

    id: str
    url: str
    expires_at: str


class LinkListed(ResponseModel):
    """A link, without its address."""

    id: str
    path: NotRequired[Annotated[str | None, Field(None, description="Of a link to a file.")]]
    method: NotRequired[Annotated[str | None, Field(None, description="Of a link to a file.")]]
    port: NotRequired[Annotated[int | None, Field(None, description="Of a link to a port.")]]
    created_at: str
    expires_at: str


class LinksAnswer(ResponseModel):
    """The links that have not expired, oldest first."""

    links: list[LinkListed]
    count: int


class LinkDeletedAnswer(ResponseModel):
    """The link is revoked."""

    success: Literal[True]
    id: str
    deleted_at: str


class LinksHandler(BaseHandler):
    """Makes and lists links of a session."""

    operations = {
        "GET": Operation("List links", {200: LinksAnswer}),
        "POST": Operation(
            "Make a link", {201: LinkCreatedAnswer}, request=CreateLink, description=_DESCRIPTION
        ),
    }

    def initialize(self, context: HandlerContext, links: LinkService) -> None:
        super().initialize(context)
        self.links = links

    async def get(self, session_id: str) -> None:
        found = [_listed(link) for link in await self.links.list_links(session_id)]
        await self.finish_json(LinksAnswer(links=found, count=len(found)))

    async def post(self, session_id: str) -> None:
        body = await self.read_body(CreateLink)
        link, secret = await self.links.create(session_id, body.to_target(), body.ttl)
        await self.finish_json(
            LinkCreatedAnswer(
                id=link.id, url=self._url(link, secret), expires_at=to_iso(link.expires_at)
            ),
            201,
        )

    def _url(self, link: Link, secret: str) -> str:
        """Returns the address of a link, that of a port on the port's own host if it has one."""
        base = self.context.access.base_url(self.request)
        hosts, target = self.context.port_hosts, link.target
        if target.port is not None and hosts is not None:
            base = hosts.url(base, link.session_id, target.port)
        return f"{base}/link/{secret}/{quote(link_name(target), safe='')}"


class LinkHandler(BaseHandler):
    """Revokes a link."""

    operations = {"DELETE": Operation("Revoke a link", {200: LinkDeletedAnswer})}

    def initialize(self, context: HandlerContext, links: LinkService) -> None:
        super().initialize(context)
        self.links = links

    async def delete(self, session_id: str, link_id: str) -> None:
        await self.links.delete(session_id, link_id)
        await self.finish_json(
            LinkDeletedAnswer(success=True, id=link_id, deleted_at=to_iso(now()))
        )


def link_name(target: LinkTarget) -> str:
    """Returns what stands behind the secret: a file's name without its folders, or nothing."""
    return "" if target.path is None else target.path.rpartition("/")[2]


def _listed(link: Link) -> LinkListed:
    shown = LinkListed(
        id=link.id, created_at=to_iso(link.created_at), expires_at=to_iso(link.expires_at)
    )
    if link.target.path is not None:
        shown["path"] = link.target.path
        shown["method"] = link.target.method
    else:
        shown["port"] = link.target.port
    return shown
