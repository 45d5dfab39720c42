"""Serves the file that a link opens, in the direction that it opens it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from era_kernels.errors import MethodNotAllowed
from era_kernels.models import Link
from era_kernels.services.links import FILE_SECRET, unknown_link
from era_kernels.web import sandboxed_page_cors
from era_kernels.web.access import Caller
from era_kernels.web.base_handler import HandlerContext
from era_kernels.web.connection_limit import client_of
from era_kernels.web.files import SERVED_FILE, UPLOADED_FILE, FileHandler, PutAnswer
from era_kernels.web.links import link_name
from era_kernels.web.operations import Operation

if TYPE_CHECKING:
    from era_kernels.services.files import FileService
    from era_kernels.services.links import LinkService
    from era_kernels.services.port_proxies import PortProxies

LOGGED_PATH = "/link/*"  # the secret is in the path itself
REFERRER_POLICY = "no-referrer"  # so that no page that is opened from here learns the secret


class FileLinkHandler(FileHandler):
    """Reads or puts the one file of a link; every other path below `/link` is unknown."""

    operations = {
        "GET": Operation(
            "Read a file by a link",
            {200: SERVED_FILE, 206: SERVED_FILE},
            description="Needs no token. A link to a port takes any method and path, and leads to "
            "what listens on the port.",
        ),
        "PUT": Operation("Put a file by a link", {200: PutAnswer}, request=UPLOADED_FILE),
    }

    def initialize(  # type: ignore[override]
        self, context: HandlerContext, files: FileService, links: LinkService, proxies: PortProxies
    ) -> None:
        super().initialize(context, files)
        self.links = links
        self.proxies = proxies
        self._link: Link | None = None
        self.logged_path = LOGGED_PATH
        self.set_sticky_header("Referrer-Policy", REFERRER_POLICY)
        sandboxed_page_cors.allow(self)

    # ------------------------------------------------------------ admission

    @property
    def requires_token(self) -> bool:
        return False

    def _check_access(self) -> Caller:
        return self.context.access.check_served(self.request, has_own_host=False)

    def allowed_methods(self) -> str:
        """Returns those of the link, once it is known."""
        if self._link is None:
            return super().allowed_methods()
        return "PUT, OPTIONS" if self._link.target.method == "PUT" else "GET, HEAD, OPTIONS"

    @property
    def session_id(self) -> str:
        return self.link.session_id

    @property
    def path(self) -> str:
        path = self.link.target.path
        assert path is not None
        return path

    @property
    def link(self) -> Link:
        """The link, which was found before the body is read."""
        assert self._link is not None
        return self._link

    def check_path(self) -> None:
        """Takes the path apart. Raises LinkNotFound."""
        _, _, self._secret, raw = [*self.request.path.split("/", 3), "", ""][:4]
        self._name = unquote_to_bytes(raw.encode("latin1")).decode("utf-8", "surrogateescape")
        if not FILE_SECRET.fullmatch(self._secret):
            raise unknown_link()

    # ------------------------------------------------------------ the request

    def options(self, *args: str) -> None:
        if sandboxed_page_cors.is_preflight(self.request):
            sandboxed_page_cors.answer_preflight(self)
        else:
            super().options(*args)

    def before_body(self) -> Awaitable[None] | None:
        return None if self.request.method == "OPTIONS" else self._enter()

    async def _enter(self) -> None:
        """Finds the link, and begins the upload where it is for one. Raises EraError."""
        link = await self.links.find(self._secret)
        if self._name != link_name(link.target):
            raise unknown_link()
        self._link = link
        if self.request.method not in self.allowed_methods().split(", "):
            raise MethodNotAllowed(f"This link takes {self.allowed_methods()}.")
        if not self.disconnected.done():
            self._hold(link)
        if self.request.method == "PUT":
            await self._start_upload()
            await self.links.check(link)

    def _hold(self, link: Link) -> None:
        """Takes the place of a request, which ends when the link is revoked."""
        held = self._session_touch
        close = self.request.connection.stream.close  # type: ignore[union-attr]
        held.enter_context(self.links.watch(link, close, ends_at_expiry=False))
        held.enter_context(self.proxies.hold(link.session_id, close, has_token=True))
        held.enter_context(self.context.touch_session(link.session_id))
        client = client_of(self.request)
        if client.trust() and not self.caller.is_trusted:
            held.callback(client.distrust)

    async def get(self, *args: str) -> None:
        file = await self.files.open(self.session_id, self.path)
        try:
            await self.links.check(self.link)  # it is no file of another session with the id
            await self.send_file(file)
        finally:
            await file.aclose()
