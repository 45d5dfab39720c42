"""KV: reads, puts, deletes and lists texts by key, in namespaces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, RootModel

from era_kernels.errors import KeyNotFound, Unavailable
from era_kernels.web import headers
from era_kernels.web.base_handler import HandlerContext
from era_kernels.web.base_request_models import JsonMap, PositiveSeconds, RequestModel
from era_kernels.web.base_response_models import ResponseModel
from era_kernels.web.operations import Operation
from era_kernels.web.server import BODY_TIMEOUT
from era_kernels.web.storage_handler import KeyQuery, PageQuery, StorageHandler, wait_for_turn

if TYPE_CHECKING:
    from era_kernels.storage.kv import KVStore

MAX_TTL = 1e12  # seconds; a greater one means the same, and is lowered to this
# JSON may write each character as an escape of 6 bytes, which in UTF-8 has one byte.
MAX_JSON_BYTES_PER_BYTE = 6
EXPIRES_IN = "X-Era-Expires-In"  # the header that tells how many seconds a key still has
MAX_REST_OF_BODY = 64 * 1024  # bytes of JSON beside a value
LARGE_BODY_WAIT = 30.0  # seconds that a body beyond `max_body` waits until others have left memory


class PutValue(RequestModel):
    """A value, and what goes with it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"value": '{"theme":"dark"}', "metadata": {"by": "me"}}]}
    )

    synonyms = {"ttl": "expiration_ttl", "expires_in": "expiration_ttl"}
    remarks = {"expires_at": "is not known; `expiration_ttl` takes the seconds until it expires"}

    value: str = Field(description="Any text, of at most `max_kv_value` bytes in UTF-8.")
    metadata: JsonMap | None = Field(
        None, description="At most 1 KiB of JSON; replaces the old one, also when absent."
    )
    expiration_ttl: (
        Annotated[PositiveSeconds, AfterValidator(lambda seconds: min(seconds, MAX_TTL))] | None
    ) = Field(None, description="Seconds until the key expires; without it, never.")


class ListQuery(KeyQuery, PageQuery):
    """With `key`, selects that one; without it, a page of the list."""


class ValueAnswer(ResponseModel):
    """The value of a key."""

    value: str
    metadata: dict[str, Any]


class KeyListed(ResponseModel):
    """A key in a list."""

    name: str
    metadata: dict[str, Any]


class KeysAnswer(ResponseModel):
    """A page of keys, sorted by the bytes of their names."""

    keys: list[KeyListed]
    list_complete: bool
    cursor: Annotated[str, Field(description="Asks for the next page; empty at the end.")]


class KeysOrValueAnswer(RootModel[KeysAnswer | ValueAnswer]):
    """A page of keys; with `?key=`, the value of that key."""


class KVDoneAnswer(ResponseModel):
    """The key is put, or deleted."""

    success: Literal[True]


class KVHandler(StorageHandler):
    """Handles one key, by path or by `?key=`, and the list where there is none."""

    format = "/api/storage/kv/{namespace}/{key}"
    operations = {
        "GET": Operation(
            "Get a value from KV",
            {200: ValueAnswer},
            description=f"The header `{EXPIRES_IN}` tells in how many seconds the key expires.",
        ),
        "PUT": Operation("Put a value into KV", {200: KVDoneAnswer}, request=PutValue),
        "DELETE": Operation("Delete a key of KV", {200: KVDoneAnswer}),
    }

    def initialize(self, context: HandlerContext, kv: KVStore) -> None:
        super().initialize(context)
        self.kv = kv
        self._body_timer: asyncio.TimerHandle | None = None
        self._is_large = False  # while it has one of the places of large bodies

    @property
    def max_body(self) -> int:
        if self.request.method != "PUT":
            return super().max_body
        largest = MAX_JSON_BYTES_PER_BYTE * self.kv.max_value + MAX_REST_OF_BODY
        return max(super().max_body, largest)

    def before_body(self) -> Awaitable[None] | None:
        """Bounds the time of the body by a timer: that of Tornado costs a fifth of a short put."""
        if self.request.method != "PUT":
            return None
        self.request.connection.set_body_timeout(None)  # type: ignore[union-attr]
        self._body_timer = asyncio.get_running_loop().call_later(
            BODY_TIMEOUT, self.abort_connection
        )
        declared = headers.parse_content_length(self.request.headers)
        return self._take_large_place() if declared > super().max_body else None

    def on_chunk(self, chunk: bytes) -> Awaitable[None] | None:
        if self._is_large or self.received_bytes <= super().max_body:
            return super().on_chunk(chunk)
        return self._receive_large_chunk(chunk)  # of a body that did not tell its length

    async def _receive_large_chunk(self, chunk: bytes) -> None:
        try:
            await self._take_large_place()
        except Unavailable as error:
            self.reject(error)
        else:
            waiting = super().on_chunk(chunk)
            if waiting is not None:
                await waiting

    async def _take_large_place(self) -> None:
        """Waits until few other bodies of this size are in memory. Raises Unavailable.

        Such a body takes some hundred MiB while it is read, and holds up everything while it is
        parsed: the code of one session must not do so many times at once.
        """
        try:
            async with asyncio.timeout(LARGE_BODY_WAIT):
                await self.context.large_bodies.acquire()
        except TimeoutError:
            raise Unavailable("Other values as large are being put.", retry_after=1) from None
        self._is_large = True

    async def _execute(self, transforms: list[Any], *args: bytes, **kwargs: bytes) -> None:
        """Gives the place of a large body back at the end of all work, also without a client."""
        try:
            await super()._execute(transforms, *args, **kwargs)
        finally:
            if self._is_large:
                self._is_large = False
                self.context.large_bodies.release()

    def on_finish(self) -> None:
        super().on_finish()
        self._cancel_body_timer()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._cancel_body_timer()

    def _cancel_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()

    async def get(self, *args: str) -> None:
        key = self.key
        if key is None:
            await self._list()
            return
        try:
            entry = await self.kv.get(self.namespace, key)
        except KeyNotFound:
            await wait_for_turn(self)  # as those that find something
            raise
        if entry.expires_at is not None:
            left = max(entry.expires_at - time.time(), 0.001)
            self.set_header(EXPIRES_IN, f"{left:.3f}")
        await self.finish_json(
            ValueAnswer(value=entry.value, metadata=entry.metadata), size=len(entry.value)
        )

    async def _list(self) -> None:
        query = self.read_query(ListQuery)
        page = await self.kv.list_keys(
            self.namespace, self.read_prefix("prefix"), query.limit, query.cursor
        )
        await self.finish_json(
            KeysAnswer(
                keys=[{"name": key.name, "metadata": key.metadata} for key in page.keys],
                list_complete=not page.cursor,
                cursor=page.cursor,
            )
        )

    async def put(self, *args: str) -> None:
        self._cancel_body_timer()
        key = self.required_key
        body = await self.read_body(PutValue)
        await self.kv.put(self.namespace, key, body.value, body.metadata, body.expiration_ttl)
        await self.finish_json(KVDoneAnswer(success=True))

    async def delete(self, *args: str) -> None:
        await self.kv.delete(self.namespace, self.required_key)
        await self.finish_json(KVDoneAnswer(success=True))


class KVNamespaceHandler(KVHandler):
    """Handles a namespace's own path: lists its keys, or handles one that `?key=` names."""

    operations = {
        "GET": Operation("List keys of KV", {200: KeysOrValueAnswer}, query=ListQuery),
        "PUT": Operation(
            "Put a value into KV, by query", {200: KVDoneAnswer}, request=PutValue, query=KeyQuery
        ),
        "DELETE": Operation("Delete a key of KV, by query", {200: KVDoneAnswer}, query=KeyQuery),
    }
