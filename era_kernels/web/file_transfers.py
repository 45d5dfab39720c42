"""Takes bodies as uploads and sends open files, in both directions as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from era_kernels.errors import EraError, InvalidRequest
from era_kernels.web import conditional, headers, ranges
from era_kernels.web.base_handler import BaseHandler, ClientDisconnected, HandlerContext
from era_kernels.web.conditional import Validators
from era_kernels.web.connection_limit import client_of

if TYPE_CHECKING:
    from era_kernels.storage.open_file import FileStatus, OpenFile

# A page that was stored here must not act as a page of the API.
CONTENT_SECURITY_POLICY = (
    "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads"
)
UPLOAD_IDLE_TIMEOUT = 60.0  # seconds that an upload may pause
MIN_UPLOAD_RATE = 16 * 1024  # bytes a second that an upload must reach on average
UPLOAD_BYTES = 2 * 1024 * 1024  # bytes of an upload that are in memory at most
UPLOAD_TIMEOUT = 7 * 24 * 3600.0  # seconds; the two bounds above end a slow upload earlier


class ReceivingUpload(Protocol):
    """An upload that takes the chunks of a body."""

    def buffer(self, data: bytes) -> bool: ...

    async def write(self, data: bytes) -> None: ...

    def discard(self) -> None: ...


U = TypeVar("U", bound=ReceivingUpload)


class TransferHandler(BaseHandler, Generic[U]):
    """Handles a resource of opaque bytes, which no browser may take for a page of the API."""

    honoured_headers = headers.CONDITIONS

    def initialize(self, context: HandlerContext, *args: Any, **kwargs: Any) -> None:
        super().initialize(context)
        self._upload: U | None = None
        self._speed_timer: asyncio.TimerHandle | None = None
        self._received_at = 0.0
        self._is_writing = False
        self.set_sticky_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)

    # ------------------------------------------------------------ in

    def declared_size(self) -> int:
        """Returns the number of bytes that will come, 0 when that is unknown.

        Raises InvalidRequest for a part of a file.
        """
        if "Content-Range" in self.request.headers:
            raise InvalidRequest("Bytes are put whole: no part of them is taken.")
        return headers.parse_content_length(self.request.headers)

    def begin_upload(self, upload: U) -> None:
        """Writes the body to an upload from now on, which is discarded when the client leaves."""
        self._upload = upload
        client_of(self.request).trust()  # from here on `_check_speed` ends a slow one
        self.request.connection.set_body_timeout(UPLOAD_TIMEOUT)  # type: ignore[union-attr]
        self._received_at = asyncio.get_running_loop().time()
        self._check_speed()

    def finish_upload(self) -> U:
        """Returns the upload, which is complete; it is put also when the client leaves now.

        The caller discards it in the end.
        """
        upload, self._upload = self._upload, None
        assert upload is not None
        self._discard_upload()
        return upload

    def on_chunk(self, chunk: bytes) -> Awaitable[None] | None:
        """Writes a chunk of the body; the next chunk is read when this one is written."""
        if self._upload is None:
            return super().on_chunk(chunk)
        if self._upload.buffer(chunk):  # most chunks, without the cost of a coroutine
            self._received_at = asyncio.get_running_loop().time()
            return None
        return self._write_chunk(self._upload, chunk)

    async def _write_chunk(self, upload: U, chunk: bytes) -> None:
        self._is_writing = True
        try:
            await self._body.hold(UPLOAD_BYTES)
            await upload.write(chunk)
        except EraError as error:
            upload.discard()
            self.reject(error)
        finally:
            self._is_writing = False
            self._received_at = asyncio.get_running_loop().time()

    def _check_speed(self, waited: float = 0.0) -> None:
        """Closes the connection of a client that stops sending or sends too slowly.

        `waited` is the number of seconds since the upload began.
        """
        loop, interval = asyncio.get_running_loop(), UPLOAD_IDLE_TIMEOUT / 4
        is_idle = not self._is_writing and loop.time() - self._received_at >= UPLOAD_IDLE_TIMEOUT
        if is_idle or self.received_bytes < (waited - 5 * UPLOAD_IDLE_TIMEOUT) * MIN_UPLOAD_RATE:
            self.abort_connection()
            return
        self._speed_timer = loop.call_later(interval, self._check_speed, waited + interval)

    def on_finish(self) -> None:
        super().on_finish()
        self._discard_upload()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._discard_upload()

    def _discard_upload(self) -> None:
        if self._speed_timer is not None:
            self._speed_timer.cancel()
        if self._upload is not None:
            self._upload.discard()

    # ------------------------------------------------------------ out

    def check_preconditions(self, status: FileStatus | None) -> None:
        """Raises PreconditionFailed for a write that is meant for another state."""
        found = None if status is None else Validators(status.etag, status.modified_at)
        conditional.check_preconditions(self.request.headers, found)

    def answer_not_modified(self, validators: Validators) -> bool:
        """Sets the headers of the cache; returns True when the client has this state already.

        The answer is then complete. Raises PreconditionFailed.
        """
        self.set_header("ETag", validators.etag)
        self.set_header("Last-Modified", validators.last_modified)
        self.set_header("Cache-Control", "no-cache")
        if not conditional.is_not_modified(self.request.headers, validators):
            return False
        self.clear_header("Content-Type")
        self.set_status(304)
        return True

    async def send_file(self, file: OpenFile) -> None:
        """Answers with a file or a range of it, on the conditions of the request.

        Raises PreconditionFailed, RangeNotSatisfiable.
        """
        status = file.status
        validators = Validators(status.etag, status.modified_at)
        if self.answer_not_modified(validators):
            return
        applies = conditional.range_applies(self.request.headers, validators)
        start, stop = ranges.prepare_range_response(self, status.size, is_applicable=applies)
        self.set_header("Content-Type", status.content_type)
        if self.request.method == "HEAD" or start == stop:
            return
        with suppress(ClientDisconnected):
            async with aclosing(file.read(start, stop)) as chunks:
                async for chunk in chunks:
                    start += len(chunk)
                    await self.send(chunk)
            if start < stop:  # the file was truncated; closing is the only signal left
                self.abort_connection()
