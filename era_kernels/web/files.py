"""Files of a session: list, read, put, delete; bodies are opaque and stream both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote_to_bytes

from pydantic import Field

from era_kernels.errors import EraError, InvalidRequest
from era_kernels.models import JsonObject, iso, now
from era_kernels.storage.files import validate_path
from era_kernels.web import conditions, headers, ranges
from era_kernels.web.answers import Answer
from era_kernels.web.base import BaseHandler, ClientGone, Edge, check_id, computed
from era_kernels.web.conditions import Validators
from era_kernels.web.operations import Media, Operation
from era_kernels.web.sessions import MANY, MANY_BYTES

if TYPE_CHECKING:
    from era_kernels.services.files import FileService, QuotaUpload
    from era_kernels.storage.files import FileStatus, OpenFile
    from era_kernels.storage.snapshot import Snapshot

# What code put into a session must not act as the API's own page.
POLICY = "sandbox allow-scripts allow-forms allow-popups allow-modals allow-downloads"
PATIENCE = 60.0  # seconds that an upload may pause
SLOWEST = 16 * 1024  # bytes a second that an upload must reach, beside what a body has anyway
LONGEST = 7 * 24 * 3600.0  # seconds; the other two bounds are met first

_FORM = "application/x-www-form-urlencoded"
_BYTES = Media("application/octet-stream", "The file; its Content-Type is kept.")
_FILE = Media("*/*", "The file; byte ranges are served.")


class FileListed(Answer):
    """One file in a list."""

    path: str
    size: int
    modified_at: str
    uploaded: str = Field(description="The same as `modified_at`, under its other name.")


class FilesAnswer(Answer):
    """The files, sorted by path."""

    files: list[FileListed]
    total_count: int
    count: int = Field(description="The same as `total_count`.")
    total_size_bytes: int


class PutAnswer(Answer):
    """The file stands."""

    path: str
    size: int


class FileDeletedAnswer(Answer):
    """The file is gone."""

    success: Literal[True]
    path: str
    deleted_at: str


class FilesHandler(BaseHandler):
    """All files of a session."""

    operations = {"GET": Operation("List files", {200: FilesAnswer})}

    def initialize(self, edge: Edge, files: FileService) -> None:  # type: ignore[override]
        super().initialize(edge)
        self.files = files

    async def get(self, id: str) -> None:
        snapshot = await self.files.list_files(id)
        size = MANY_BYTES if snapshot.count > MANY else 0
        await self.answer(await computed(size, _listing, snapshot), size=size)


class FileHandler(BaseHandler):
    """One file of a session."""

    operations = {
        "GET": Operation("Read a file", {200: _FILE, 206: _FILE}),
        "PUT": Operation("Put a file", {200: PutAnswer}, request=_BYTES),
        "DELETE": Operation("Delete a file", {200: FileDeletedAnswer}),
    }

    def initialize(self, edge: Edge, files: FileService) -> None:  # type: ignore[override]
        super().initialize(edge)
        self.files = files
        self._incoming: QuotaUpload | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._heard_at = 0.0
        self._taking = False
        self.set_lasting_header("Content-Security-Policy", POLICY)

    @property
    def max_body(self) -> int:
        return self.edge.max_upload if self.request.method == "PUT" else super().max_body

    @property
    def id(self) -> str:
        return self.path_args[0]

    @property
    def path(self) -> str:
        """Percent-decoded once; a slash is a slash, however it was written."""
        raw = self.request.path.split("/", 5)[5]  # /api/sessions/{id}/files/{path}
        # Tornado reads the bytes of a request line as Latin-1; curl sends them as they are typed.
        return unquote_to_bytes(raw.encode("latin1")).decode("utf-8", "surrogateescape")

    def check_path(self) -> None:
        check_id(self.id)
        validate_path(self.path)

    # ------------------------------------------------------------ put

    def begin_body(self) -> Awaitable[None] | None:
        return self._begin_upload() if self.request.method == "PUT" else None

    async def _begin_upload(self) -> None:
        """Before the body: where it goes, or why it is not wanted."""
        if "Content-Range" in self.request.headers:
            raise InvalidRequest("A file is put whole: no part of one is taken.")
        declared = headers.checked_length(self.request.headers)
        self._incoming = await self.files.start_upload(
            self.id, self.path, declared, self._check_meant
        )
        self.request.connection.set_body_timeout(LONGEST)  # type: ignore[union-attr]
        self._heard_at = asyncio.get_running_loop().time()
        self._watch_speed()

    def take(self, chunk: bytes) -> Awaitable[None] | None:
        """A piece of the body; the next comes when this one is taken."""
        if self._incoming is None:
            return super().take(chunk)
        return self._take(self._incoming, chunk)

    async def _take(self, incoming: QuotaUpload, chunk: bytes) -> None:
        self._taking = True
        try:
            await incoming.write(chunk)
        except EraError as refusal:
            incoming.discard()
            self.refuse(refusal)
        finally:
            self._taking = False
            self._heard_at = asyncio.get_running_loop().time()

    async def put(self, *args: str) -> None:
        # It is all here: from now on it is put, also for a client that does not wait.
        incoming, self._incoming = self._incoming, None
        assert incoming is not None
        self._forget()
        kind = self._content_type()
        try:
            size = await self.files.put(self.id, self.path, incoming, kind, self._check_meant)
        finally:
            incoming.discard()
        await self.answer({"path": self.path, "size": size})

    def _check_meant(self, status: FileStatus | None) -> None:
        conditions.check_change(self.request.headers, _validators(status))

    def _content_type(self) -> str:
        """What the uploader says it is. Clients call anything a form when nobody tells them."""
        said = self.request.headers.get("Content-Type", "").strip()
        return "" if said.lower().startswith(_FORM) else said

    def _watch_speed(self, waited: float = 0.0) -> None:
        """Hang up on who stops sending, or sends by drops."""
        loop, step = asyncio.get_running_loop(), PATIENCE / 4
        silent = not self._taking and loop.time() - self._heard_at >= PATIENCE
        if silent or self.received < (waited - 5 * PATIENCE) * SLOWEST:
            self.hang_up_now()
            return
        self._watch = loop.call_later(step, self._watch_speed, waited + step)

    def on_finish(self) -> None:
        super().on_finish()
        self._forget()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._forget()

    def _forget(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._incoming is not None:
            self._incoming.discard()

    # ------------------------------------------------------------ get and delete

    async def get(self, *args: str) -> None:
        file = await self.files.open(self.id, self.path)
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
        if conditions.unchanged(self.request.headers, validators):
            self.clear_header("Content-Type")
            self.set_status(304)
            return
        applies = conditions.range_applies(self.request.headers, validators)
        start, stop = ranges.begin(self, status.size, applies=applies)
        self.set_header("Content-Type", status.content_type)
        if self.request.method == "HEAD" or start == stop:
            return
        with suppress(ClientGone):
            async with aclosing(file.read(start, stop)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    start += len(piece)
                    await self.send(piece)
            if start < stop:  # code cut the file; only the end of the connection can tell that
                self.hang_up_now()

    async def delete(self, *args: str) -> None:
        await self.files.delete(self.id, self.path, self._check_meant)
        await self.answer({"success": True, "path": self.path, "deleted_at": iso(now())})


def _validators(status: FileStatus | None) -> Validators | None:
    return None if status is None else Validators(status.etag, status.modified_at)


def _listing(snapshot: Snapshot) -> JsonObject:
    listed: list[JsonObject] = []
    for file in snapshot.files:
        time = iso(file.modified_at)
        listed.append({"path": file.path, "size": file.size, "modified_at": time, "uploaded": time})
    return {
        "files": listed,
        "total_count": len(listed),
        "count": len(listed),
        "total_size_bytes": snapshot.total_size,
    }
