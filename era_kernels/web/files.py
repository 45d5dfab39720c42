"""Lists, reads, puts and deletes the files of a session.

Bodies are opaque bytes and are streamed in both directions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote_to_bytes

from pydantic import Field

from era_kernels.errors import EraError, InvalidRequest
from era_kernels.json_codec import in_thread_if_large
from era_kernels.models import JsonObject, now, to_iso
from era_kernels.storage.files import validate_path
from era_kernels.web import conditional, headers, ranges
from era_kernels.web.base import (
    BaseHandler,
    ClientDisconnected,
    HandlerContext,
    check_id,
)
from era_kernels.web.conditional import Validators
from era_kernels.web.operations import Media, Operation
from era_kernels.web.responses import ResponseModel
from era_kernels.web.sessions import LARGE_LIST, LARGE_LIST_BYTES

if TYPE_CHECKING:
    from era_kernels.services.files import FileService, QuotaUpload
    from era_kernels.storage.files import FileStatus, OpenFile
    from era_kernels.storage.snapshot import Snapshot

# A page that code wrote into a session must not act as a page of the API.
CONTENT_SECURITY_POLICY = (
    "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads"
)
UPLOAD_IDLE_TIMEOUT = 60.0  # seconds that an upload may pause
MIN_UPLOAD_RATE = 16 * 1024  # bytes a second that an upload must reach on average
UPLOAD_TIMEOUT = 7 * 24 * 3600.0  # seconds; the two bounds above end a slow upload earlier

_FORM_TYPE = "application/x-www-form-urlencoded"
_UPLOADED_FILE = Media("application/octet-stream", "The file; its Content-Type is kept.")
_SERVED_FILE = Media("*/*", "The file; byte ranges are served.")


class FileListed(ResponseModel):
    """One file in a list."""

    path: str
    size: int
    modified_at: str
    uploaded: str = Field(description="The same as `modified_at`, under its other name.")


class FilesAnswer(ResponseModel):
    """The files, sorted by path."""

    files: list[FileListed]
    total_count: int
    count: int = Field(description="The same as `total_count`.")
    total_size_bytes: int


class PutAnswer(ResponseModel):
    """The file stands."""

    path: str
    size: int


class FileDeletedAnswer(ResponseModel):
    """The file is gone."""

    success: Literal[True]
    path: str
    deleted_at: str


class FilesHandler(BaseHandler):
    """Lists the files of a session."""

    operations = {"GET": Operation("List files", {200: FilesAnswer})}

    def initialize(self, context: HandlerContext, files: FileService) -> None:  # type: ignore[override]
        super().initialize(context)
        self.files = files

    async def get(self, session_id: str) -> None:
        snapshot = await self.files.list_files(session_id)
        size = LARGE_LIST_BYTES if snapshot.count > LARGE_LIST else 0
        await self.finish_json(await in_thread_if_large(size, _files_response, snapshot), size=size)


class FileHandler(BaseHandler):
    """Reads, puts and deletes one file of a session."""

    operations = {
        "GET": Operation("Read a file", {200: _SERVED_FILE, 206: _SERVED_FILE}),
        "PUT": Operation("Put a file", {200: PutAnswer}, request=_UPLOADED_FILE),
        "DELETE": Operation("Delete a file", {200: FileDeletedAnswer}),
    }

    def initialize(self, context: HandlerContext, files: FileService) -> None:  # type: ignore[override]
        super().initialize(context)
        self.files = files
        self._upload: QuotaUpload | None = None
        self._speed_timer: asyncio.TimerHandle | None = None
        self._received_at = 0.0
        self._is_writing = False
        self.set_sticky_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)

    @property
    def max_body(self) -> int:
        return self.context.max_upload if self.request.method == "PUT" else super().max_body

    @property
    def session_id(self) -> str:
        return self.path_args[0]

    @property
    def path(self) -> str:
        """The file's path, percent-decoded once; an encoded slash counts as a slash."""
        raw = self.request.path.split("/", 5)[5]  # /api/sessions/{id}/files/{path}
        # Tornado reads the bytes of a request line as Latin-1; curl sends them as they are typed.
        return unquote_to_bytes(raw.encode("latin1")).decode("utf-8", "surrogateescape")

    def check_path(self) -> None:
        check_id(self.session_id)
        validate_path(self.path)

    # ------------------------------------------------------------ put

    def before_body(self) -> Awaitable[None] | None:
        return self._begin_upload() if self.request.method == "PUT" else None

    async def _begin_upload(self) -> None:
        """Prepares the upload before the body is read. Raises the error for an unwanted one."""
        if "Content-Range" in self.request.headers:
            raise InvalidRequest("A file is put whole: no part of one is taken.")
        declared = headers.parse_content_length(self.request.headers)
        self._upload = await self.files.start_upload(
            self.session_id, self.path, declared, self._check_preconditions
        )
        self.request.connection.set_body_timeout(UPLOAD_TIMEOUT)  # type: ignore[union-attr]
        self._received_at = asyncio.get_running_loop().time()
        self._check_speed()

    def on_chunk(self, chunk: bytes) -> Awaitable[None] | None:
        """Writes a chunk of the body; the next chunk is read when this one is written."""
        if self._upload is None:
            return super().on_chunk(chunk)
        return self._write_chunk(self._upload, chunk)

    async def _write_chunk(self, upload: QuotaUpload, chunk: bytes) -> None:
        self._is_writing = True
        try:
            await upload.write(chunk)
        except EraError as error:
            upload.discard()
            self.reject(error)
        finally:
            self._is_writing = False
            self._received_at = asyncio.get_running_loop().time()

    async def put(self, *args: str) -> None:
        # The body is complete: from here on the file is put also when the client leaves.
        upload, self._upload = self._upload, None
        assert upload is not None
        self._discard_upload()
        content_type = self._content_type()
        try:
            size = await self.files.put(
                self.session_id, self.path, upload, content_type, self._check_preconditions
            )
        finally:
            upload.discard()
        await self.finish_json({"path": self.path, "size": size})

    def _check_preconditions(self, status: FileStatus | None) -> None:
        conditional.check_preconditions(self.request.headers, _validators(status))

    def _content_type(self) -> str:
        """Returns the declared type, empty for a form: clients name that type by default."""
        declared = self.request.headers.get("Content-Type", "").strip()
        return "" if declared.lower().startswith(_FORM_TYPE) else declared

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

    # ------------------------------------------------------------ get and delete

    async def get(self, *args: str) -> None:
        file = await self.files.open(self.session_id, self.path)
        try:
            await self._send(file)
        finally:
            await file.aclose()

    async def _send(self, file: OpenFile) -> None:
        status = file.status
        validators = Validators(status.etag, status.modified_at)
        self.set_header("ETag", validators.etag)
        self.set_header("Last-Modified", validators.last_modified)
        self.set_header("Cache-Control", "no-cache")
        if conditional.is_not_modified(self.request.headers, validators):
            self.clear_header("Content-Type")
            self.set_status(304)
            return
        applies = conditional.range_applies(self.request.headers, validators)
        start, stop = ranges.prepare_range_response(self, status.size, is_applicable=applies)
        self.set_header("Content-Type", status.content_type)
        if self.request.method == "HEAD" or start == stop:
            return
        with suppress(ClientDisconnected):
            async with aclosing(file.read(start, stop)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    start += len(chunk)
                    await self.send(chunk)
            if start < stop:  # code truncated the file; closing is the only signal left
                self.abort_connection()

    async def delete(self, *args: str) -> None:
        await self.files.delete(self.session_id, self.path, self._check_preconditions)
        await self.finish_json({"success": True, "path": self.path, "deleted_at": to_iso(now())})


def _validators(status: FileStatus | None) -> Validators | None:
    return None if status is None else Validators(status.etag, status.modified_at)


def _files_response(snapshot: Snapshot) -> JsonObject:
    listed: list[JsonObject] = []
    for file in snapshot.files:
        time = to_iso(file.modified_at)
        listed.append({"path": file.path, "size": file.size, "modified_at": time, "uploaded": time})
    return {
        "files": listed,
        "total_count": len(listed),
        "count": len(listed),
        "total_size_bytes": snapshot.total_size,
    }
