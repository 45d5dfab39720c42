"""Lists, reads, puts and deletes the files of a session.

Bodies are opaque bytes and are streamed in both directions.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import unquote_to_bytes

from pydantic import Field

from era_kernels.errors import UnsupportedMediaType
from era_kernels.json_codec import in_thread_if_large
from era_kernels.models import now, to_iso
from era_kernels.services.files import QuotaUpload
from era_kernels.storage.files import validate_path
from era_kernels.web import base_request_models
from era_kernels.web.base_handler import BaseHandler, HandlerContext
from era_kernels.web.base_response_models import ResponseModel
from era_kernels.web.file_transfers import TransferHandler
from era_kernels.web.operations import Media, Operation
from era_kernels.web.sessions import LARGE_LIST, LARGE_LIST_BYTES

if TYPE_CHECKING:
    from era_kernels.services.files import FileService
    from era_kernels.storage.file_listing import FileListing

_FORM_TYPE = "application/x-www-form-urlencoded"
_MULTIPART_TYPE = "multipart/form-data"
UPLOADED_FILE = Media("application/octet-stream", "The file; its Content-Type is kept.")
SERVED_FILE = Media("*/*", "The file; byte ranges are served.")


class FileListed(ResponseModel):
    """One file in a list."""

    path: str
    size: int
    modified_at: str
    uploaded: Annotated[str, Field(description="The same as `modified_at`, under its other name.")]


class FilesAnswer(ResponseModel):
    """The files, sorted by path."""

    files: list[FileListed]
    total_count: int
    count: Annotated[int, Field(description="The same as `total_count`.")]
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

    def initialize(self, context: HandlerContext, files: FileService) -> None:
        super().initialize(context)
        self.files = files

    async def get(self, session_id: str) -> None:
        listing = await self.files.list_files(session_id)
        size = LARGE_LIST_BYTES if listing.count > LARGE_LIST else 0
        await self.finish_json(await in_thread_if_large(size, _files_response, listing), size=size)


class FileHandler(TransferHandler[QuotaUpload]):
    """Reads, puts and deletes one file of a session."""

    operations = {
        "GET": Operation("Read a file", {200: SERVED_FILE, 206: SERVED_FILE}),
        "PUT": Operation("Put a file", {200: PutAnswer}, request=UPLOADED_FILE),
        "DELETE": Operation("Delete a file", {200: FileDeletedAnswer}),
    }

    def initialize(self, context: HandlerContext, files: FileService) -> None:
        super().initialize(context)
        self.files = files

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
        base_request_models.check_id(self.session_id)
        validate_path(self.path)

    def before_body(self) -> Awaitable[None] | None:
        return self._start_upload() if self.request.method == "PUT" else None

    async def _start_upload(self) -> None:
        """Starts the upload before the body is read. Raises the error for an unwanted one."""
        declared = self.request.headers.get("Content-Type", "").strip().lower()
        if declared.startswith(_MULTIPART_TYPE):
            raise UnsupportedMediaType(
                "A form with parts is no file, and its parts are not taken out of it.",
                hint="Send the bytes of the file alone as the body, as `curl -T FILE URL` does.",
            )
        size = self.declared_size()
        self.begin_upload(
            await self.files.start_upload(
                self.session_id, self.path, size, self.check_preconditions
            )
        )

    async def get(self, *args: str) -> None:
        file = await self.files.open(self.session_id, self.path)
        try:
            await self.send_file(file)
        finally:
            await file.aclose()

    async def put(self, *args: str) -> None:
        upload = self.finish_upload()
        content_type = self._content_type()
        try:
            status = await self.files.put(
                self.session_id, self.path, upload, content_type, self.check_preconditions
            )
        finally:
            upload.discard()
        self.set_header("ETag", status.etag)
        await self.finish_json(PutAnswer(path=self.path, size=status.size))

    def _content_type(self) -> str:
        """Returns the declared type, empty for a form: clients name that type by default."""
        declared = self.request.headers.get("Content-Type", "").strip()
        return "" if declared.lower().startswith(_FORM_TYPE) else declared

    async def delete(self, *args: str) -> None:
        await self.files.delete(self.session_id, self.path, self.check_preconditions)
        await self.finish_json(
            FileDeletedAnswer(success=True, path=self.path, deleted_at=to_iso(now()))
        )


def _files_response(listing: FileListing) -> FilesAnswer:
    listed: list[FileListed] = []
    for file in listing.files:
        time = to_iso(file.modified_at)
        listed.append({"path": file.path, "size": file.size, "modified_at": time, "uploaded": time})
    return FilesAnswer(
        files=listed,
        total_count=len(listed),
        count=len(listed),
        total_size_bytes=listing.total_size,
    )
