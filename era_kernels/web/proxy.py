"""Passes requests on to what listens on a port inside a session, and the answers back.

Both bodies are streams: no more of them is in memory than is on its way. Each request has a
connection of its own to the program; that of the caller goes on.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from contextlib import AbstractContextManager, aclosing
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote

from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError

from era_kernels.concurrency.idle_timer import IdleTimer
from era_kernels.errors import (
    EraError,
    GatewayTimeout,
    InvalidPath,
    NothingListening,
    TooLarge,
)
from era_kernels.web import (
    base_request_models,
    forwarding,
    headers,
    proxy_headers,
    sandboxed_page_cors,
    stored_code_exchange,
)
from era_kernels.web.access import Caller
from era_kernels.web.base_handler import (
    DISCARD_TIMEOUT,
    MAX_DISCARDED_BODY,
    BaseHandler,
    ClientDisconnected,
    HandlerContext,
)
from era_kernels.web.connection_limit import client_of
from era_kernels.web.file_transfers import CONTENT_SECURITY_POLICY, UPLOAD_TIMEOUT
from era_kernels.web.ports import MAX_PORT, REACH_PORT
from era_kernels.web.proxy_headers import Headers, Place, to_target
from era_kernels.web.trailers import send_trailers
from era_kernels.web.tunnel import join_streams
from era_kernels.web.upstream import Upstream

if TYPE_CHECKING:
    from era_kernels.services.port_proxies import PortProxies
    from era_kernels.services.stored_code_requests import StoredCodeRequests

METHODS = (
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY",
    "COPY", "LOCK", "MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "REPORT", "SEARCH", "UNLOCK",
)  # fmt: skip
FORMAT = "/proxy/{id}/{port}/{path}"
ANY_SIZE = 1 << 62  # bytes of a body, none of which is kept
ANSWER_TIMEOUT = 300.0  # seconds from the end of a request to the head of its answer
IDLE_TIMEOUT = 60.0  # seconds that the body of a request may pause
_SWITCHING_PROTOCOLS = 101
_PORT = re.compile(r"0*([1-9][0-9]{0,4})")


class ProxyHandler(BaseHandler):
    """Serves a port of a session below a path of the API's host."""

    SUPPORTED_METHODS = METHODS
    operations = {"GET": REACH_PORT}

    def initialize(
        self, context: HandlerContext, proxies: PortProxies, code_requests: StoredCodeRequests
    ) -> None:
        super().initialize(context)
        self._proxies = proxies
        self._code_requests = code_requests
        self._is_for_code = False  # the stored code answers: nothing listens
        self._upstream: Upstream | None = None
        self._relay_task: asyncio.Task[None] | None = None
        self._failure: Exception | None = None  # of the relay, where no answer has begun
        self._redirection: str | None = None  # where a browser has to go instead
        self._body_end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle_timer: IdleTimer | None = None
        context.proxy_turns.members.add(self)
        if self.request.method in METHODS:
            setattr(self, self.request.method.lower(), self._answer)
        self.logged_path = "/proxy/*"  # programs have secrets in their paths
        sandboxed_page_cors.allow(self)
        self._set_policy()

    def _set_policy(self) -> None:
        """Keeps pages from acting as pages of the API, whose origin is the same."""
        self.set_sticky_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)

    # ------------------------------------------------------------ admission

    @property
    def requires_token(self) -> bool:
        return False

    @property
    def max_body(self) -> int:
        return stored_code_exchange.MAX_BODY if self._is_for_code else ANY_SIZE

    def allowed_methods(self) -> str:
        return ", ".join(METHODS)

    def _check_access(self) -> Caller:
        return self.context.access.check_served(self.request, has_own_host=False)

    def check_path(self) -> None:
        """Takes the path apart. Raises InvalidPath, InvalidId."""
        parts = self.request.path.split("/", 4)
        _, _, session_id, port, rest = [*parts, "", "", ""][:5]
        self._session_id, found = unquote(session_id), _PORT.fullmatch(unquote(port))
        if found is None or int(found[1]) > MAX_PORT:
            raise InvalidPath("This is no path to a port of a session.", format=FORMAT)
        base_request_models.check_id(self._session_id)
        prefix = f"/proxy/{self._session_id}/{found[1]}"
        # Where a browser opens the port itself, relative links would lead past its path.
        if len(parts) == 4 and forwarding.is_navigation(self.request):
            self._redirection = f"{prefix}/"
        path = to_target(f"/{rest}")
        host, *others = self.context.access.own_hosts(self.request)
        self._place = Place(prefix, host, int(found[1]), path, tuple(filter(None, others)))
        self.logged_path = f"{prefix}/*"

    @property
    def _operation(self) -> None:
        """Nothing is known of what programs take: no caller is warned."""

    # ------------------------------------------------------------ the request

    def before_body(self) -> Awaitable[None] | None:
        is_own = self._redirection is not None or sandboxed_page_cors.is_preflight(self.request)
        return None if is_own else self._connect()

    async def _connect(self) -> None:
        """Connects to the program and sends it the head of the request."""
        self._session_id = await self._find_session()
        if self.disconnected.done():
            return
        self._session_touch.enter_context(self._hold())
        try:
            await self._find_program()
        except EraError:
            self._session_touch.close()  # the body may come slowly, and is nobody's
            raise
        if self.disconnected.done():
            self._release()
            return
        self._session_touch.enter_context(self.context.touch_session(self._session_id))
        client = client_of(self.request)
        if client.trust() and not self.caller.is_trusted:
            self._session_touch.callback(client.distrust)
        if self._upstream is not None:
            await self._send_head(self._upstream)

    @property
    def _connection(self) -> HTTP1Connection:
        return cast(HTTP1Connection, self.request.connection)

    @property
    def _may_enter(self) -> bool:
        """True where the caller may reach what a session does not serve to everybody."""
        return self.context.access.has_tokens and self.caller.is_trusted

    def _hold(self) -> AbstractContextManager[None]:
        """Takes the place of a request; its connection ends when it may not go on."""
        close = self._connection.stream.close
        return self._proxies.hold(self._session_id, close, has_token=self._may_enter)

    async def _find_program(self) -> None:
        """Connects to what listens, else finds the stored code. Raises EraError."""
        await self._wait_for_turn()
        port, may_enter = self._place.port, self._may_enter
        connection = await self._proxies.dial(self._session_id, port, has_token=may_enter)
        if connection is None:
            await self._check_code()
            self._is_for_code = True
        else:
            self._upstream = Upstream(connection)

    async def _find_session(self) -> str:
        """Returns the id of the session. Raises SessionNotFound."""
        return self._session_id

    async def _check_code(self) -> None:
        """Checks that stored code may answer. Raises NothingListening, TooLarge."""
        if not await self._code_requests.has_code(self._session_id):
            raise self._nothing_listening()
        if headers.parse_content_length(self.request.headers) > stored_code_exchange.MAX_BODY:
            raise TooLarge(
                f"Stored code takes bodies of at most {stored_code_exchange.MAX_BODY} bytes."
            )

    def _nothing_listening(self) -> NothingListening:
        return NothingListening(
            f"Nothing listens on port {self._place.port} of this session, and it has no "
            "stored code.",
            hint="Its code must serve on 127.0.0.1; GET …/ports lists what listens.",
        )

    async def _send_head(self, upstream: Upstream) -> None:
        if headers.has_body(self.request.headers):
            self._connection.set_body_timeout(UPLOAD_TIMEOUT)
            self._idle_timer = IdleTimer(IDLE_TIMEOUT, self.abort_connection)
        target = self._place.path + forwarding.query_of(self.request)
        given = self._request_headers()
        await upstream.send_head(str(self.request.method), target, given)
        self._relay_task = asyncio.create_task(self._relay_or_fail())

    def _request_headers(self) -> Headers:
        access, request = self.context.access, self.request
        return forwarding.request_headers(access, request, self.request_id, self._place)

    def on_chunk(self, chunk: bytes) -> Awaitable[None] | None:
        return super().on_chunk(chunk) if self._upstream is None else self._send_chunk(chunk)

    async def _send_chunk(self, chunk: bytes) -> None:
        assert self._upstream is not None and self._idle_timer is not None
        await self._wait_for_turn()
        # A program that has answered may take no more: the rest is read and dropped.
        await self._upstream.send_body(chunk)
        self._idle_timer.touch()

    # ------------------------------------------------------------ the answer

    async def _answer(self, *args: str) -> None:
        """Waits for the answer, when the whole request is there."""
        if self.disconnected.done():
            raise ClientDisconnected
        if sandboxed_page_cors.is_preflight(self.request):
            sandboxed_page_cors.answer_preflight(self)
            return
        if self._redirection is not None:
            self.redirect_to(self._redirection, 308)
            return
        if self._is_for_code:
            await self._answer_by_code()
            return
        assert self._upstream is not None and self._relay_task is not None
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._body_end.set_result(None)
        await self._upstream.end_body()
        is_done = await self.wait(self._relay_task, ANSWER_TIMEOUT)
        if not is_done and not self._upstream.has_head:
            raise GatewayTimeout(f"The program gave no answer within {ANSWER_TIMEOUT:g} seconds.")
        await asyncio.wait([self._relay_task])
        if self._failure is not None:
            raise self._failure

    def redirect_to(self, path: str, status: int) -> None:
        """Sends the caller to a path of this host, with the same query."""
        self.set_status(status)
        self.clear_header("Content-Type")
        self.set_header("Location", path + forwarding.query_of(self.request))
        self.finish()

    async def _answer_by_code(self) -> None:
        """Runs the stored code, and answers with what it prints."""
        env = stored_code_exchange.request_env(
            self.request, self._place, self._request_headers(), self._body.take()
        )
        base_url = self.context.access.base_url(self.request)
        result = await self._code_requests.run(self._session_id, env, base_url)
        if result is None:
            raise self._nothing_listening()
        self.set_sticky_header("X-Execution-Id", result.execution_id)
        status, given, body = await stored_code_exchange.parse_answer(result, self._place)
        self._set_head(status, "", given)
        if status in (204, 304):
            self.finish()
        else:
            await self.finish_bytes(body)

    async def _relay_or_fail(self) -> None:
        try:
            await self._relay()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Tells the caller that there is no answer, or none that is whole."""
        if self._headers_written:
            self.abort_connection()  # nothing else tells that the rest is missing
        elif self._body_end.done() or not isinstance(error, EraError):
            self._failure = error
        else:
            self.reject(error)

    async def _relay(self) -> None:
        assert self._upstream is not None
        status, reason, given = await self._upstream.read_head()
        if status == _SWITCHING_PROTOCOLS:
            await self._tunnel(given)
            return
        await self._wait_for_small_body()
        self._set_head(status, reason, given)
        await self._send_body(self._upstream)
        await send_trailers(self._connection, self._upstream.trailers)
        self.finish()

    async def _send_body(self, upstream: Upstream) -> None:
        """Sends head and body; what came together goes out together."""
        self.write(upstream.take_received_body())
        if upstream.has_ended:
            self.flush()
            return
        await self.flush()
        async with aclosing(upstream.body()) as chunks:
            async for chunk in chunks:
                await self._wait_for_turn()
                await self.send(chunk)

    async def _wait_for_small_body(self) -> None:
        """Waits for a request that is nearly there: its connection can go on after the answer."""
        left = headers.parse_content_length(self.request.headers) - self.received_bytes
        is_small = "Transfer-Encoding" not in self.request.headers and left <= MAX_DISCARDED_BODY
        if is_small and not self._body_end.done():
            await asyncio.wait([self._body_end], timeout=DISCARD_TIMEOUT)
        if not self._body_end.done():
            self._close_after_response()

    def _set_head(self, status: int, reason: str, given: Headers) -> None:
        for name in tuple(self._headers):
            self.clear_header(name)
        self.set_status(status, reason if reason and reason.isprintable() else None)
        for name, value in proxy_headers.response_headers(given, self._place):
            self.add_header(name, value)
        if status == 204:
            self.clear_header("Content-Length")
        if self.request.version == "HTTP/1.0":  # an end of its own may be that of its answer
            self._close_after_response()
        for name, value in self._sticky_headers.items():
            if name in ("Vary", "Content-Security-Policy"):
                self.add_header(name, value)
            else:
                self.set_header(name, value)
        if self._place.prefix:
            self.set_header("X-Content-Type-Options", "nosniff")

    async def _tunnel(self, given: Headers) -> None:
        """Passes on what both sides say in the protocol that they have switched to."""
        assert self._upstream is not None
        await self.wait(self._body_end)
        self.set_status(_SWITCHING_PROTOCOLS)
        lines = [
            *proxy_headers.response_headers(given, self._place),
            ("X-Request-Id", self.request_id),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
        ]
        head = b"".join(b"%s: %s\r\n" % one for one in proxy_headers.encode(lines))
        client = client_of(self.request)
        stream = self.detach()
        self._log()
        try:
            first = b"HTTP/1.1 101 Switching Protocols\r\n" + head + b"\r\n"
            await stream.write(first + self._upstream.take_rest())
            await join_streams(stream, self._upstream.stream, self._wait_for_turn)
        except StreamClosedError:
            return
        finally:
            client.linger()  # it may still have something to say, and has yet to read the last word
            stream.close()
            self.on_finish()

    async def _wait_for_turn(self) -> None:
        """Leaves the loop to others for a while: what is passed on may come without end."""
        turns, active = self.context.proxy_turns, self.context.active_handlers
        turn = turns.take(is_alone=len(active) == len(turns.members))
        if turn is not None:
            await turn

    # ------------------------------------------------------------ the end

    def on_finish(self) -> None:
        super().on_finish()
        self._release()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._release()

    def _release(self) -> None:
        self.context.proxy_turns.members.discard(self)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self._upstream is not None:
            self._upstream.close()
