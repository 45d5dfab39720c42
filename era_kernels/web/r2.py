"""Objects of R2: lists them, and puts, reads and deletes them as JSON or as raw bytes."""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field, RootModel

from era_kernels import json_codec
from era_kernels.errors import InvalidRequest, TooLarge
from era_kernels.json_codec import in_thread_if_large
from era_kernels.models import JsonObject, format_size, to_iso
from era_kernels.storage import content_types, custom_metadata_headers
from era_kernels.storage.key_ranges import cursor_from_key, key_from_cursor
from era_kernels.storage.r2 import check_key
from era_kernels.storage.r2_table import StoredObject
from era_kernels.storage.uploads import Upload
from era_kernels.web.base_handler import ClientDisconnected, HandlerContext
from era_kernels.web.base_request_models import PositiveInt, QueryModel, RequestModel, TextMap
from era_kernels.web.base_response_models import ResponseModel
from era_kernels.web.conditional import Validators
from era_kernels.web.file_transfers import TransferHandler
from era_kernels.web.operations import Media, Operation
from era_kernels.web.storage_handler import StorageHandler, wait_for_turn

if TYPE_CHECKING:
    from era_kernels.storage.open_file import OpenFile
    from era_kernels.storage.r2 import R2Store

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
RAW_TYPE = "application/octet-stream"

# Types of bodies that are taken as JSON: clients name those by default, whatever they send.
_JSON_BODY_TYPES = frozenset(
    {"", "application/json", "application/x-www-form-urlencoded", "multipart/form-data"}
)
_WHITE_SPACE = b" \t\r\n"  # base64(1) breaks lines
_JSON_HEAD = b'{"content":"'
_RAW_HINT = (
    "Send the bytes themselves with a Content-Type of their own, such as application/octet-stream."
)
_FORMS = (
    "JSON by default, with the bytes in base64; with `Accept: application/octet-stream` the bytes "
    "themselves, of which ranges are served."
)


# ---------------------------------------------------------------- models


class HttpMetadata(RequestModel):
    """What HTTP says of an object."""

    contentType: str | None = None


class PutObject(RequestModel):
    """An object as JSON. A body of any type but JSON and forms is the object itself."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"content": "aGVsbG8K", "metadata": {"type": "text"}}]}
    )

    synonyms = {"body": "content", "customMetadata": "metadata"}

    content: str = Field(description="The bytes in base64.")
    metadata: TextMap | None = Field(None, description="The custom metadata.")
    httpMetadata: HttpMetadata | None = None


class R2Query(QueryModel):
    """Selects one object or a part of a list."""

    key: str | None = Field(None, description="The key of one object; else the list.")
    prefix: str = Field("", description="How the listed keys begin.")
    limit: PositiveInt = Field(DEFAULT_LIMIT, description=f"How many at most, up to {MAX_LIMIT}.")
    cursor: str = Field("", description="The `cursor` of the page before.")


class KeyQuery(QueryModel):
    """Names the object."""

    key: str | None = Field(None, description="The key of the object.")


class ObjectListed(ResponseModel):
    """One object in a list."""

    key: str
    size: int
    uploaded: str
    etag: str


class ObjectsAnswer(ResponseModel):
    """Objects, sorted by the bytes of their keys."""

    objects: list[ObjectListed]
    truncated: Annotated[bool, Field(description="There are more.")]
    cursor: Annotated[
        str, Field(description="Behind which the next page begins; empty at the end.")
    ]


class HttpMetadataAnswer(ResponseModel):
    """What HTTP says of an object."""

    contentType: NotRequired[Annotated[str | None, Field(None)]]


class ObjectAnswer(ResponseModel):
    """An object as JSON."""

    content: Annotated[str, Field(description="The bytes in base64.")]
    size: int
    httpMetadata: HttpMetadataAnswer
    customMetadata: dict[str, str]
    etag: Annotated[str, Field(description="The MD5 of the bytes, in hexadecimal digits.")]
    uploaded: str


class ObjectsOrObjectAnswer(RootModel[ObjectsAnswer | ObjectAnswer]):
    """A list, or the object that `?key=` names."""


class ObjectPutAnswer(ResponseModel):
    """The object stands."""

    success: Literal[True]
    size: int


class ObjectDeletedAnswer(ResponseModel):
    """There is no such object any more."""

    success: Literal[True]


_RAW_OBJECT = Media(RAW_TYPE, "The bytes of the object.")
_PUT = Operation(
    "Put an object",
    {200: ObjectPutAnswer},
    request=PutObject,
    description=f"{_RAW_HINT} Custom metadata is then in headers `X-Era-Meta-<name>`.",
)
_DELETE = Operation("Delete an object", {200: ObjectDeletedAnswer})
_PUT_BY_QUERY = dataclasses.replace(
    _PUT, summary="Put the object that `?key=` names", query=KeyQuery
)
_DELETE_BY_QUERY = dataclasses.replace(
    _DELETE, summary="Delete the object that `?key=` names", query=KeyQuery
)


# ---------------------------------------------------------------- handlers


class R2ObjectHandler(TransferHandler[Upload], StorageHandler):
    """Reads, puts and deletes one object; an empty key is the list."""

    operations = {
        "GET": Operation(
            "Read an object", {200: ObjectAnswer}, description=_FORMS, alternative=_RAW_OBJECT
        ),
        "PUT": _PUT,
        "DELETE": _DELETE,
    }
    format = "/api/storage/r2/{namespace}/{key}"

    def initialize(self, context: HandlerContext, objects: R2Store) -> None:
        super().initialize(context)
        self.objects = objects

    @property
    def is_raw_body(self) -> bool:
        """True where the body is the object itself, not JSON that holds it."""
        declared = self.request.headers.get("Content-Type", "").partition(";")[0]
        return self.request.method == "PUT" and declared.strip().lower() not in _JSON_BODY_TYPES

    @property
    def wants_raw(self) -> bool:
        """True where the caller accepts the bytes themselves."""
        return accepts_raw(self.request.headers.get("Accept", ""))

    @property
    def max_body(self) -> int:
        return self.objects.max_object if self.is_raw_body else super().max_body

    def check_path(self) -> None:
        super().check_path()
        key = self.key
        if key is not None:
            check_key(key)

    # ------------------------------------------------------------ put and delete

    def before_body(self) -> Awaitable[None] | None:
        return self._start_raw_upload() if self.is_raw_body else None

    async def _start_raw_upload(self) -> None:
        """Starts the upload before the body is read. Raises the error for an unwanted one."""
        custom_metadata_headers.from_headers(self.request.headers.get_all())
        self.begin_upload(await self._start_upload(self.declared_size()))

    async def _start_upload(self, size: int) -> Upload:
        return await self.objects.start_upload(
            self.namespace, self.required_key, size, self._check_object
        )

    def _check_object(self, found: StoredObject | None) -> None:
        self.check_preconditions(None if found is None else found.status)

    def _too_large(self) -> TooLarge:
        bound, hint = format_size(self.max_body), None
        if self.request.method == "PUT" and not self.is_raw_body:
            hint = f"{_RAW_HINT} Then it may have {format_size(self.objects.max_object)}."
        return TooLarge(f"The body is larger than {bound}.", hint=hint)

    async def put(self, *args: str) -> None:
        key = self.required_key
        if self.is_raw_body:
            declared = self.request.headers.get("Content-Type", "").strip()
            content_type = declared if content_types.is_media_type(declared) else ""
            metadata = custom_metadata_headers.from_headers(self.request.headers.get_all())
            upload, content = self.finish_upload(), b""  # the content is written already
        else:
            try:
                body = await self.read_body(PutObject)
            except InvalidRequest as error:
                error.hint = _RAW_HINT  # it may be a file, sent without a type
                raise
            content_type, metadata = _content_type(body), body.metadata or {}
            custom_metadata_headers.check_size(metadata)
            content = await in_thread_if_large(len(body.content), decode_content, body.content)
            upload = await self._start_upload(len(content))
        try:
            await upload.write(content)
            stored = await self.objects.put(
                self.namespace,
                key,
                upload,
                content_type,
                metadata,
                self._check_object,
            )
        finally:
            upload.discard()
        self.set_header("ETag", stored.status.etag)
        await self.finish_json(ObjectPutAnswer(success=True, size=stored.size))

    async def delete(self, *args: str) -> None:
        await self.objects.delete(self.namespace, self.required_key, self._check_object)
        await self.finish_json(ObjectDeletedAnswer(success=True))

    # ------------------------------------------------------------ get

    async def get(self, *args: str) -> None:
        key = self.key
        if key is None:
            await self._list()
            return
        stored, file = await self.objects.open(self.namespace, key)
        try:
            await wait_for_turn(self)
            self.add_header("Vary", "Accept")
            if self.wants_raw:
                for name, value in custom_metadata_headers.to_headers(stored.custom_metadata):
                    self.add_header(name, value)
                await self.send_file(file)
            else:
                await self._send_json(stored, file)
        finally:
            await file.aclose()

    async def _send_json(self, stored: StoredObject, file: OpenFile) -> None:
        """Streams the object as JSON, a piece of base64 at a time."""
        status = stored.status
        is_complete = self.answer_not_modified(Validators(status.etag, status.modified_at))
        # Weak: the bytes of this answer are not those that the raw answer's tag names.
        self.set_header("ETag", f"W/{status.etag}")
        if is_complete:
            return
        tail = b'",' + json_codec.dumps(_described(stored))[1:-1] + self.json_end()
        length = len(_JSON_HEAD) + (stored.size + 2) // 3 * 4 + len(tail)
        self.set_header("Content-Length", length)
        if self.request.method == "HEAD":
            return
        sent = 0
        with suppress(ClientDisconnected):
            async with aclosing(_json_pieces(file, stored.size, tail)) as pieces:
                async for piece in pieces:
                    sent += len(piece)
                    await self.send(piece)
            if sent < length:  # the blob was truncated; closing is the only signal left
                self.abort_connection()

    async def _list(self) -> None:
        query = self.read_query(R2Query)
        after = key_from_cursor(query.cursor) if query.cursor else None
        limit = min(query.limit, MAX_LIMIT)
        prefix = self.read_prefix("prefix")
        found, truncated = await self.objects.list(self.namespace, prefix, limit, after)
        listed = [
            ObjectListed(key=one.key, size=one.size, uploaded=to_iso(one.updated_at), etag=one.etag)
            for one in found
        ]
        cursor = cursor_from_key(found[-1].key) if truncated else ""
        out = ObjectsAnswer(objects=listed, truncated=truncated, cursor=cursor)
        await self.finish_json(out)


class R2NamespaceHandler(R2ObjectHandler):
    """Lists the objects of a namespace, and handles one that `?key=` names."""

    operations = {
        "GET": Operation(
            "List objects",
            {200: ObjectsOrObjectAnswer},
            query=R2Query,
            description=f"An object that `?key=` names: {_FORMS}",
            alternative=_RAW_OBJECT,
        ),
        "PUT": _PUT_BY_QUERY,
        "DELETE": _DELETE_BY_QUERY,
    }


def accepts_raw(accept: str) -> bool:
    """Returns whether a header `Accept` asks for bytes, not for JSON."""
    wanted = {}
    for part in accept.lower().split(","):
        media, _, parameters = part.partition(";")
        quality = re.search(r"\bq=([0-9.]{1,9})", parameters)
        try:
            wanted[media.strip()] = float(quality[1]) if quality else 1.0
        except ValueError:
            wanted[media.strip()] = 1.0
    raw = wanted.get(RAW_TYPE, 0.0)
    return raw > 0 and raw >= wanted.get("application/json", 0.0)


def decode_content(content: str) -> bytes:
    """Returns the bytes of base64, which may have line breaks. Raises InvalidRequest."""
    try:
        text = content.encode("ascii").translate(None, _WHITE_SPACE)
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise InvalidRequest(
            "`content` must be base64.",
            details=[{"field": "content", "problem": "must be base64"}],
            hint=_RAW_HINT,
        ) from None


def _content_type(body: PutObject) -> str:
    declared = "" if body.httpMetadata is None else body.httpMetadata.contentType or ""
    if declared and not content_types.is_media_type(declared):
        raise InvalidRequest("`httpMetadata.contentType` must be a media type.")
    return declared


def _described(stored: StoredObject) -> JsonObject:
    http_metadata = {"contentType": stored.content_type} if stored.content_type else {}
    return {
        "size": stored.size,
        "httpMetadata": http_metadata,
        "customMetadata": stored.custom_metadata,
        "etag": stored.etag,
        "uploaded": to_iso(stored.updated_at),
    }


async def _json_pieces(file: OpenFile, size: int, tail: bytes) -> AsyncGenerator[bytes]:
    """Yields the JSON of an object; it ends early when bytes are missing."""
    head, rest, read = _JSON_HEAD, b"", 0
    async with aclosing(file.read(0, size)) as chunks:
        async for chunk in chunks:
            read += len(chunk)
            if read == size:
                yield head + base64.b64encode(rest + chunk) + tail
                return
            data = rest + chunk
            whole = len(data) // 3 * 3
            yield head + base64.b64encode(data[:whole])
            head, rest = b"", data[whole:]
    if not size:
        yield head + tail
