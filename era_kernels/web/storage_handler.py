"""The base of the handlers of KV, D1 and R2, and the answer to all other paths of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar
from urllib.parse import unquote_to_bytes

from pydantic import AfterValidator, BaseModel, Field

from era_kernels.errors import InvalidPath, InvalidRequest, NotFound
from era_kernels.json_codec import SLICE_BYTES
from era_kernels.json_incremental import estimate_size
from era_kernels.models import ResourceType
from era_kernels.models.storage_namespaces import NAMESPACE_PATTERN, NAMESPACE_RULE
from era_kernels.web.base_handler import BaseHandler, HandlerContext
from era_kernels.web.base_request_models import PositiveInt, QueryModel
from era_kernels.web.connection_limit import client_of
from era_kernels.web.operations import Operation

DEFAULT_PAGE = 100  # entries of a list
MAX_PAGE = 1000  # a greater limit is lowered to this


_EMPTY_IT = "A namespace is there as long as it has keys: GET lists them, DELETE removes each."
_DROP_TABLES = (
    "A database of D1 is used by POST to …/query, …/exec and …/batch; DROP TABLE empties it, "
    "and its namespace stays."
)


class KeyQuery(QueryModel):
    """Names a key where the path does not."""

    key: str | None = Field(
        None, description="The key, where URL normalisers might change it in the path."
    )


class PageQuery(QueryModel):
    """Selects a page of a list of keys."""

    prefix: str = Field("", description="What the keys begin with.")
    limit: Annotated[PositiveInt, AfterValidator(lambda limit: min(limit, MAX_PAGE))] = Field(
        DEFAULT_PAGE, description=f"How many at most; a number above {MAX_PAGE} is lowered to it."
    )
    cursor: str = Field("", description="The cursor of the page before; empty for the first.")


class StorageHandler(BaseHandler):
    """Handles `/api/storage/{type}/{namespace}` and what lies below."""

    format: ClassVar[str]  # how the path should look; part of the answer to a wrong one
    takes_key: ClassVar[bool] = True  # a key as `?key=`, and what selects a part of their list

    def initialize(self, context: HandlerContext, *args: Any, **kwargs: Any) -> None:
        super().initialize(context)
        context.storage_turns.members.add(self)

    def on_finish(self) -> None:
        super().on_finish()
        self.context.storage_turns.members.discard(self)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.context.storage_turns.members.discard(self)

    async def finish_json(
        self, value: Mapping[str, Any], status: int = 200, *, size: int = 0
    ) -> None:
        """Finishes with a JSON object, when it is this request's turn."""
        await wait_for_turn(self)
        size = max(size, estimate_size(value, SLICE_BYTES))  # metadata may be of very many values
        await super().finish_json(value, status, size=size)

    @property
    def namespace(self) -> str:
        return self.path_args[0]

    @property
    def key(self) -> str | None:
        """The key of the request: `?key=` or what the path holds after the namespace.

        None where neither is there, which means the list. Keys are decoded once, and never
        normalised. Raises InvalidPath for a key that is no UTF-8, and for an empty `?key=`.
        """
        queried = self.request.query_arguments.get("key")
        if queried:
            if not queried[-1]:
                raise self._invalid_path("A key must not be empty.")
            return self._decode(queried[-1])
        # /api/storage/{type}/{namespace}/{key}; Tornado reads a request line as Latin-1.
        parts = self.request.path.split("/", 5)
        rest = parts[5] if len(parts) > 5 else ""
        return self._decode(unquote_to_bytes(rest.encode("latin1"))) if rest else None

    async def _execute(self, transforms: list[Any], *args: bytes, **kwargs: bytes) -> None:
        """Does all of Tornado's work on the request, also when the client leaves meanwhile."""
        with self.context.in_work(self.request):
            await super()._execute(transforms, *args, **kwargs)

    def query_model(self, operation: Operation) -> type[BaseModel] | None:
        """Returns also for a path that ends in a key what it takes: another key, or a list's part.

        Such a path may end in no key, which is the list.
        """
        if operation.query is not None or not self.takes_key:
            return operation.query
        return PageQuery if self.key is None else KeyQuery

    @property
    def required_key(self) -> str:
        """The key of the request. Raises InvalidPath where there is none."""
        key = self.key
        if key is None:
            hint = _EMPTY_IT if self.request.method == "DELETE" else None
            raise self._invalid_path("A key is missing, in the path or as `?key=`.", hint)
        return key

    def read_prefix(self, name: str) -> str:
        """Returns a query parameter that keys begin with. Raises InvalidRequest for no UTF-8."""
        try:
            return self.request.query_arguments.get(name, [b""])[-1].decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidRequest(f"`{name}` must be UTF-8.") from None

    def check_path(self) -> None:
        if not NAMESPACE_PATTERN.fullmatch(self.namespace):
            raise self._invalid_path(f"A namespace {NAMESPACE_RULE}.")

    def _invalid_path(self, message: str, hint: str | None = None) -> InvalidPath:
        """Returns the error for a path that has not the handler's format."""
        return InvalidPath(message, format=self.format, hint=hint)

    def _decode(self, key: bytes) -> str:
        try:
            return key.decode("utf-8")
        except UnicodeDecodeError:
            raise self._invalid_path("A key must be UTF-8.") from None


async def wait_for_turn(handler: StorageHandler) -> None:
    """Waits until a request to the storage may be answered: see `Turns`.

    A client that has its answer sends its next request; so the pace of the answers is that of
    everything that these requests cost.
    """
    turns, active = handler.context.storage_turns, handler.context.active_handlers
    owner = client_of(handler.request).owner
    turn = turns.take(is_alone=len(active) == len(turns.members), owner=owner)
    if turn is not None:
        await turn


STORAGE_TYPES = (ResourceType.KV, ResourceType.D1, ResourceType.R2)


class StoragePathHandler(BaseHandler):
    """Answers every path below `/api/storage` that is none of KV, D1 or R2.

    It is 404 where type and namespace are right, and there is nothing below them.
    """

    format = "/api/storage/(kv|d1|r2)/{namespace}[/{key}]"

    def check_path(self) -> None:
        type_, _, rest = self.path_args[0].partition("/") if self.path_args else ("", "", "")
        if type_ in STORAGE_TYPES and NAMESPACE_PATTERN.fullmatch(rest.partition("/")[0]):
            hint = _DROP_TABLES if type_ == ResourceType.D1 else None
            raise NotFound("There is nothing at this path.", hint=hint)
        raise InvalidPath(
            "A path of the storage holds a type, which is kv, d1 or r2, and a namespace.",
            format=self.format,
        )

    def allowed_methods(self) -> str:
        """Allows the request's own method, so that the answer tells about the path."""
        return str(self.request.method)
