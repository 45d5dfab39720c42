"""The base of the handlers of KV, D1 and R2: namespaces and keys in paths."""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import unquote_to_bytes

from era_kernels.errors import InvalidPath
from era_kernels.models.storage import NAMESPACE_PATTERN, NAMESPACE_RULE
from era_kernels.web.base import BaseHandler


class StorageHandler(BaseHandler):
    """Handles `/api/storage/{type}/{namespace}` and what lies below."""

    format: ClassVar[str]  # how the path should look; part of the answer to a wrong one

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
                raise self.invalid_path("A key must not be empty.")
            return self._decode(queried[-1])
        # /api/storage/{type}/{namespace}/{key}; Tornado reads a request line as Latin-1.
        parts = self.request.path.split("/", 5)
        rest = parts[5] if len(parts) > 5 else ""
        return self._decode(unquote_to_bytes(rest.encode("latin1"))) if rest else None

    def check_path(self) -> None:
        if not NAMESPACE_PATTERN.fullmatch(self.namespace):
            raise self.invalid_path(f"A namespace {NAMESPACE_RULE}.")

    def invalid_path(self, message: str) -> InvalidPath:
        """Returns the error for a path that has not the handler's format."""
        return InvalidPath(message, format=self.format)

    def _decode(self, key: bytes) -> str:
        try:
            return key.decode("utf-8")
        except UnicodeDecodeError:
            raise self.invalid_path("A key must be UTF-8.") from None
