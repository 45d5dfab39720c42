"""The base class of handlers: admits requests, reads bodies, answers in JSON, reports errors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, ClassVar, NoReturn, TypeVar

from pydantic import BaseModel
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, stream_request_body

from era_kernels import json_codec
from era_kernels.errors import (
    EraError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unauthorized,
)
from era_kernels.json_codec import in_thread_if_large
from era_kernels.models import SERVER_VARIABLES
from era_kernels.web import base_request_models, headers, unknown_fields
from era_kernels.web.access import Caller
from era_kernels.web.answer_handler import AnswerHandler, error_response
from era_kernels.web.bodies import Body
from era_kernels.web.client_handler import ClientDisconnected as ClientDisconnected
from era_kernels.web.connection_limit import client_of
from era_kernels.web.context import HandlerContext as HandlerContext
from era_kernels.web.operations import Media, Operation

log = logging.getLogger(__name__)

MAX_UNREAD_BODY = 64 * 1024  # bytes of a body that no method reads, above which it is not looked at
# Bytes of a refused body that are read, and for how many seconds: the connection can go on then.
MAX_DISCARDED_BODY = 64 * 1024
DISCARD_TIMEOUT = 5.0
_RETRY_AFTER_SECONDS = {429: 1, 503: 5}  # by status, for errors that name no time themselves

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


@stream_request_body
class BaseHandler(AnswerHandler):
    """Refuses or admits a request by its headers, collects its body, and answers in JSON.

    Bodies are read as a stream because Tornado would otherwise parse forms, whatever we expect.
    """

    operations: ClassVar[Mapping[str, Operation]] = {}
    honoured_headers: ClassVar[frozenset[str]] = frozenset()  # beside those of the operation

    # ------------------------------------------------------------ Tornado's life cycle

    def initialize(self, context: HandlerContext, *args: Any, **kwargs: Any) -> None:
        """Begins a request; a subclass names what else it takes in place of the last two."""
        self._begin_answer(context)
        context.active_handlers.add(self)
        self.body = b""
        self._body = Body(context.memory, self.abort_connection)
        self.received_bytes = 0
        self._rejection: EraError | None = None
        self._is_admitted = False
        self.caller = Caller()
        self._session_touch = ExitStack()
        for name, value in context.access.cors_headers(self.request).items():
            self.set_sticky_header(name, value)

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """Decodes a part of the path; invalid UTF-8 becomes an id that `check_path` refuses."""
        return value.decode("utf-8", "replace")

    def prepare(self) -> Awaitable[None] | None:
        # data_received counts instead: Tornado's own limit closes the connection without JSON.
        self.request.connection.set_max_body_size(sys.maxsize)  # type: ignore[union-attr]
        refresh = self.context.access.refresh_if_due()
        if refresh is not None:
            return self._refresh_and_admit(refresh)
        self._admit()
        return self._run_before_body()

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self.received_bytes += len(chunk)
        if self._rejection is None and self.received_bytes > self.max_body:
            self.reject(self._too_large())
        if self._rejection is None:
            return self.on_chunk(chunk)
        if self.received_bytes > MAX_DISCARDED_BODY:
            self._stop_discarding()
        return None

    def on_finish(self) -> None:
        self._session_touch.close()
        self.context.active_handlers.discard(self)
        self._release_memory()

    def on_connection_close(self) -> None:
        self._session_touch.close()
        self._release_memory()
        self.context.active_handlers.discard(self)
        super().on_connection_close()

    def _release_memory(self) -> None:
        """Lets go of body and answer: Tornado refers to this object in circles, and keeps it."""
        self._drop_body()
        self._memory_share.close()

    def _drop_body(self) -> None:
        """Lets go of the body, which counts no more: its kernel's output may need the memory."""
        self.body = b""
        self._body.close()

    def head(self, *args: str) -> Awaitable[None] | None:
        return self.get(*args)

    def options(self, *args: str) -> None:
        self.set_status(204)
        self.set_header("Allow", self.allowed_methods())
        if "Access-Control-Allow-Origin" in self._sticky_headers:
            self.set_header("Access-Control-Allow-Methods", self.allowed_methods())

    # ------------------------------------------------------------ admission

    @property
    def _operation(self) -> Operation | None:
        """What the request asks for; None where the path has no such method."""
        method = str(self.request.method)
        return self.operations.get("GET" if method == "HEAD" else method)

    @property
    def requires_token(self) -> bool:
        """True where the path needs a token, on a server that has tokens."""
        return True

    @property
    def max_body(self) -> int:
        """The number of bytes that a body may have."""
        return self.context.max_body

    def check_path(self) -> None:
        """Checks that every variable part of the path is an id. Raises InvalidId."""
        for part in self.path_args:
            base_request_models.check_id(part)

    def before_body(self) -> Awaitable[None] | None:
        """Returns work to do before the body is read; an EraError in the work is the answer."""
        return None

    def on_chunk(self, chunk: bytes) -> Awaitable[None] | None:
        """Receives a chunk of the body; the next chunk is read when the result is done."""
        return self._body.add(chunk)

    def query_model(self, operation: Operation) -> type[BaseModel] | None:
        """Returns the model of the query parameters that this request may have; None for none."""
        return operation.query

    def allowed_methods(self) -> str:
        """Returns the methods of this path, as the `Allow` header lists them."""
        methods = list(self.operations)
        if "GET" in methods:
            methods.insert(methods.index("GET") + 1, "HEAD")
        return ", ".join([*methods, "OPTIONS"])

    async def _refresh_and_admit(self, refresh: Awaitable[None]) -> None:
        await refresh
        self._admit()
        preparation = self._run_before_body()
        if preparation is not None:
            await preparation

    def _run_before_body(self) -> Awaitable[None] | None:
        preparation = self.before_body() if self._rejection is None else None
        return preparation and self._reject_on_error(preparation)

    async def _reject_on_error(self, preparation: Awaitable[None]) -> None:
        try:
            await preparation
        except EraError as error:
            self._reject_early(error)

    def _admit(self) -> None:
        """Decides from the headers whether the request is admitted.

        Rejections are sent after the body was read (clients ignore early answers), or at once if
        the body is too large or the client waits for permission to send it (`Expect`).
        """
        self._body.length = length = headers.parse_content_length(self.request.headers)
        try:
            access, self.caller = self.context.access, self._check_access()
            if (
                self.requires_token
                if access.has_tokens
                else not headers.has_body(self.request.headers)
            ):
                client_of(self.request).trust()
            if self.request.method not in self.allowed_methods().split(", "):
                raise MethodNotAllowed(f"This path takes {self.allowed_methods()}.")
            self._warn_of_parameters()
            self._warn_of_headers()
            self.check_path()
            if length > self.max_body:
                raise self._too_large()
        except EraError as error:
            self._reject_early(error)
        self._is_admitted = True
        is_accepted = self._rejection is None and not self.disconnected.done()
        if is_accepted and self.context.route.startswith("/api/sessions/{id}"):
            self._session_touch.enter_context(self.context.touch_session(self.path_args[0]))

    def _check_access(self) -> Caller:
        """Returns who asks. Raises Unauthorized, Forbidden."""
        return self.context.access.check(self.request, requires_token=self.requires_token)

    def _warn_of_parameters(self) -> None:
        if self.request.query_arguments and self._operation is not None:
            model = self.query_model(self._operation)
            self.warn(unknown_fields.in_query(model, self.request.query_arguments))

    def _warn_of_headers(self) -> None:
        operation = self._operation
        if operation is not None and self.request.method != "GET":
            honoured = {*self.honoured_headers, *(header.name for header in operation.headers)}
            method = str(self.request.method)
            self.warn(headers.ignored(method, self.request.headers, honoured))

    def _warn_at_last(self) -> None:
        """Warns of the fields of a small body that no method has read: most take none at all."""
        operation = self._operation
        if not self._body.size or self.received_bytes > MAX_UNREAD_BODY or operation is None:
            return
        if not isinstance(operation.request, Media):
            body = json_codec.loads_object_or_none(self._body.take())
            self.warn(unknown_fields.in_body(operation.request, body))

    def _reject_early(self, error: EraError) -> None:
        """Rejects after the body was read, or at once if it is too large or has an `Expect`."""
        length = headers.parse_content_length(self.request.headers)
        if length > MAX_DISCARDED_BODY or "Expect" in self.request.headers:
            self._is_admitted = False
            raise error
        self.reject(error)

    def reject(self, error: EraError) -> None:
        """Answers with this error after the body was read: clients that still send do not read."""
        if self._rejection is None:
            self._body.discard_for(DISCARD_TIMEOUT, self._stop_discarding)
        self._rejection = error
        self._body.drop()
        # Tornado has no hook between the end of the body and the method.
        setattr(self, str(self.request.method).lower(), self._raise_rejection)

    def _stop_discarding(self) -> None:
        """Answers with the rejection, though the body goes on: the rest of it is not read."""
        if self._rejection is not None and not self._finished:
            self._close_after_response()
            self.finish_with_error(self._rejection)

    def _close_after_response(self) -> None:
        """Announces that the rest of the body is not read; Tornado closes the connection then."""
        self.set_sticky_header("Connection", "close")
        client_of(self.request).linger()

    def _raise_rejection(self, *args: str) -> NoReturn:
        assert self._rejection is not None
        raise self._rejection

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is larger than {self.max_body} bytes.")

    # ------------------------------------------------------------ in and out

    async def read_body(self, model: type[M]) -> M:
        """Returns the body as `model`. Raises InvalidJson, InvalidRequest, UnsupportedMediaType."""
        headers.check_uncompressed(self.request.headers)
        client_of(self.request).trust()
        self.body = self._body.take()
        value = await self._body.parse(model, self.body)
        self.warn(await in_thread_if_large(len(self.body), unknown_fields.in_body, model, value))
        return await self._body.validate(model, value)

    async def read_env(self, env: Mapping[str, Any] | None) -> dict[str, str]:
        """Returns the variables of the body as strings, numbers as they are written in the body."""
        fixed = sorted((env or {}).keys() & SERVER_VARIABLES)
        self.warn(f"env.{name} is set by the server: this value is not used" for name in fixed)
        return await base_request_models.env_strings(env, self.body)

    def read_query(self, model: type[M]) -> M:
        """Returns the query string as `model`. Raises InvalidRequest."""
        return base_request_models.parse_query(model, self.request.query_arguments)

    # ------------------------------------------------------------ errors

    def finish_with_error(self, error: BaseException) -> None:
        """Finishes with an error, from outside the handler's own method."""
        self.send_error(500, exc_info=(type(error), error, error.__traceback__))

    def to_domain_error(self, cause: BaseException | None, status: int) -> EraError:
        """Returns the error that the caller sees, without the text of any foreign exception."""
        if isinstance(cause, EraError):
            return cause
        if isinstance(cause, HTTPError) and status < 500:
            if status == 404:
                return NotFound("There is nothing at this path.")
            if status == 405:
                return MethodNotAllowed(f"This path takes {self.allowed_methods()}.")
            return InvalidRequest("The request is malformed.")
        return EraError(
            f"The server failed; its log tells more under the request id {self.request_id}."
        )

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        cause = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(cause, ClientDisconnected):
            self.set_status(499, "Client Closed Request")
            self.finish()
            return
        if not self._is_admitted:
            self._close_after_response()  # the answer goes out before the body was read
        error = self.to_domain_error(cause, status_code)
        self.set_status(error.status)
        retry_after = error.retry_after or _RETRY_AFTER_SECONDS.get(error.status)
        if retry_after is not None:
            self.set_header("Retry-After", retry_after)
        if isinstance(error, MethodNotAllowed):
            self.set_header("Allow", self.allowed_methods())
        if isinstance(error, Unauthorized):
            self.set_header("WWW-Authenticate", "Bearer")
        self.finish(json_codec.dumps(error_response(error)))

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if isinstance(value, HTTPError | ClientDisconnected | StreamClosedError):
            return
        if isinstance(value, EraError) and value.status != 500:
            return
        log.error(
            "a request failed",
            exc_info=(typ, value, tb) if typ and value else None,
            extra={
                "request_id": self.request_id,
                "method": self.request.method,
                "path": self.logged_path,
            },
        )
