"""Keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import requests

_MISSING = "KEY_NOT_FOUND"


class KVStorage:
    """Stores texts under keys, in namespaces. Every method raises StorageError when it fails."""

    @staticmethod
    def get(namespace: str, key: str) -> str | None:
        """Returns the value of a key, None where there is no such key."""
        found = KVStorage.get_with_metadata(namespace, key)
        return None if found is None else found[0]

    @staticmethod
    def get_with_metadata(namespace: str, key: str) -> tuple[str, dict[str, Any]] | None:
        """Returns the value of a key and its metadata, None where there is no such key."""
        call = requests.Call("KV get", "GET", requests.key_path("kv", namespace, key))
        answer = requests.send(call, missing_code=_MISSING)
        if answer.status == 404:
            return None
        found = requests.load(call.what, answer, "value")
        return found["value"], found.get("metadata") or {}

    @staticmethod
    def set(
        namespace: str,
        key: str,
        value: str,
        metadata: Mapping[str, Any] | None = None,
        expiration_ttl: float | None = None,
    ) -> bool:
        """Sets the value of a key, durably; `expiration_ttl` is in seconds from now.

        Metadata that the key had is replaced, too.
        """
        body: dict[str, object] = {"value": value}
        if metadata is not None:
            body["metadata"] = metadata
        if expiration_ttl is not None:
            body["expiration_ttl"] = expiration_ttl
        path = requests.key_path("kv", namespace, key)
        return bool(requests.send_json("KV set", "PUT", path, body).get("success"))

    @staticmethod
    def delete(namespace: str, key: str) -> bool:
        """Deletes a key; fine where there is none."""
        call = requests.Call("KV delete", "DELETE", requests.key_path("kv", namespace, key))
        return bool(requests.load(call.what, requests.send(call)).get("success"))

    @staticmethod
    def list(namespace: str, prefix: str = "", limit: int | None = 100) -> list[dict[str, Any]]:
        """Returns up to `limit` keys that begin with `prefix`, sorted: name and metadata of each.

        With `limit=None`, all of them.
        """
        return requests.pages("KV list", "kv", namespace, "keys", prefix, limit)
