"""Resources: lists and counts what KV, D1, R2 and the sessions hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from era_kernels import json_codec
from era_kernels.models import ResourceType, to_iso
from era_kernels.storage.stored_items import StoredItem, StoredItemFilter
from era_kernels.web.base_handler import BaseHandler, HandlerContext
from era_kernels.web.base_request_models import QueryModel
from era_kernels.web.base_response_models import ResponseModel
from era_kernels.web.operations import Operation
from era_kernels.web.storage_handler import DEFAULT_PAGE, MAX_PAGE

if TYPE_CHECKING:
    from era_kernels.storage.stored_items import StoredItemIndex

_MAX_OFFSET = 2**62  # stores have integers of 64 bits


def _number(text: Any, *, least: int, most: int, default: int) -> int:
    """Returns the number of a text; the default where it is none, or below `least`."""
    digits = str(text).strip()
    if not (digits.isascii() and digits.isdigit()):
        return default
    number = most if len(digits) > 19 else min(int(digits), most)
    return number if number >= least else default


class ResourcesQuery(QueryModel):
    """Selects resources, and a page of them; bad numbers count as the default."""

    type: Literal["kv", "d1", "r2", "do"] | None = Field(None, description="`do` is a session.")
    namespace: str | None = Field(None, description="Sessions have the namespace `sessions`.")
    key_prefix: str = Field("", description="What the keys begin with.")
    limit: Annotated[
        int,
        BeforeValidator(lambda text: _number(text, least=1, most=MAX_PAGE, default=DEFAULT_PAGE)),
    ] = Field(DEFAULT_PAGE, description=f"How many at most, up to {MAX_PAGE}.")
    offset: Annotated[
        int, BeforeValidator(lambda text: _number(text, least=0, most=_MAX_OFFSET, default=0))
    ] = Field(0, description="How many to skip.")


class ResourceListed(ResponseModel):
    """A key, a table, an object or a session."""

    type: Literal["kv", "d1", "r2", "do"]
    namespace: str
    key: Annotated[
        str, Field(description="The key, or the name of a table, or the id of a session.")
    ]
    created_at: str
    updated_at: str
    size: Annotated[int, Field(description="Bytes; of a session, those of its files.")]
    metadata: dict[str, Any]


class ResourcesAnswer(ResponseModel):
    """A page of resources, newest update first."""

    resources: list[ResourceListed]
    total: int
    offset: int
    limit: int
    has_more: bool


class ResourceCounts(ResponseModel):
    """Numbers of resources by type."""

    kv: int
    d1: int
    r2: int
    do: int


class ResourceStatsAnswer(ResponseModel):
    """How many resources there are, and how large they are together."""

    total: int
    by_type: ResourceCounts
    by_namespace: dict[str, int]
    total_size: Annotated[int, Field(description="Bytes.")]


class ResourcesHandler(BaseHandler):
    """Lists resources."""

    operations = {"GET": Operation("List resources", {200: ResourcesAnswer}, query=ResourcesQuery)}

    def initialize(self, context: HandlerContext, resources: StoredItemIndex) -> None:
        super().initialize(context)
        self.resources = resources

    async def get(self) -> None:
        query = self.read_query(ResourcesQuery)
        wanted = StoredItemFilter(
            ResourceType(query.type) if query.type else None, query.namespace, query.key_prefix
        )
        found, total = await self.resources.list_items(wanted, query.limit, query.offset)
        listed, count = await json_codec.dumps_array(map(_response, found))
        has_more = b"true" if query.offset + count < total else b"false"
        await self.finish_encoded(
            b'{"resources":%b,"total":%d,"offset":%d,"limit":%d,"has_more":%b}'
            % (listed, total, query.offset, query.limit, has_more)
        )


class ResourceStatsHandler(BaseHandler):
    """Counts resources."""

    operations = {"GET": Operation("Count resources", {200: ResourceStatsAnswer})}

    def initialize(self, context: HandlerContext, resources: StoredItemIndex) -> None:
        super().initialize(context)
        self.resources = resources

    async def get(self) -> None:
        totals = await self.resources.totals()
        await self.finish_json(
            ResourceStatsAnswer(
                total=totals.total,
                by_type=ResourceCounts(
                    kv=totals.by_type[ResourceType.KV],
                    d1=totals.by_type[ResourceType.D1],
                    r2=totals.by_type[ResourceType.R2],
                    do=totals.by_type[ResourceType.DO],
                ),
                by_namespace=dict(totals.by_namespace),
                total_size=totals.total_size,
            )
        )


def _response(resource: StoredItem) -> ResourceListed:
    return ResourceListed(
        type=resource.type.value,
        namespace=resource.namespace,
        key=resource.key,
        created_at=to_iso(resource.created_at),
        updated_at=to_iso(resource.updated_at),
        size=resource.size,
        metadata=resource.metadata,
    )
