"""Objects: bytes of any size."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

from . import requests

if TYPE_CHECKING:
    Content = bytes | bytearray | memoryview | IO[bytes] | os.PathLike[str]

_MISSING = "OBJECT_NOT_FOUND"
_HEADER = "X-Era-Meta-"
# Names and values that a header carries as they are.
_HEADER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_HEADER_VALUE = re.compile(r"([!-~]([ !-~]*[!-~])?)?")


class R2Storage:
    """Stores objects under keys, in namespaces. Every method raises StorageError when it fails."""

    @staticmethod
    def get(namespace: str, key: str) -> bytes | None:
        """Returns the content of an object, None where there is no such object."""
        path = requests.key_path("r2", namespace, key)
        call = requests.Call("R2 get", "GET", path, headers={"Accept": requests.BYTES})
        answer = requests.send(call, missing_code=_MISSING)
        return None if answer.status == 404 else answer.body

    @staticmethod
    def put(
        namespace: str, key: str, content: Content, metadata: Mapping[str, str] | None = None
    ) -> bool:
        """Stores an object, durably: bytes, a file open for reading bytes, or the path of a file.

        A file is sent piece by piece from where it stands (after writing to it, `seek(0)`), and may
        be larger than the memory. An object of that key is replaced with its metadata.
        """
        if isinstance(content, os.PathLike):
            with open(content, "rb") as file:  # noqa: PTH123 - any path
                return R2Storage.put(namespace, key, file, metadata)
        is_file = hasattr(content, "read") and not isinstance(content, io.TextIOBase)
        if not is_file and not isinstance(content, (bytes, bytearray, memoryview)):
            raise TypeError(
                "the content of an object must be bytes, a file opened with 'rb', or a path, "
                f"not {type(content).__name__}"
            )
        path = requests.key_path("r2", namespace, key)
        named = dict(metadata or {})
        if not all(map(_fits_header, named.items())):
            return _put_json(path, content, named)
        headers = {_HEADER + name: value for name, value in named.items()}
        headers["Content-Type"] = requests.BYTES
        body: Any = content if is_file else bytes(content)  # type: ignore[arg-type]
        call = requests.Call("R2 put", "PUT", path, body, headers, is_repeatable=not is_file)
        return bool(requests.load(call.what, requests.send(call)).get("success"))

    @staticmethod
    def delete(namespace: str, key: str) -> bool:
        """Deletes an object; fine where there is none."""
        call = requests.Call("R2 delete", "DELETE", requests.key_path("r2", namespace, key))
        return bool(requests.load(call.what, requests.send(call)).get("success"))

    @staticmethod
    def list(namespace: str, prefix: str = "", limit: int | None = 100) -> list[dict[str, Any]]:
        """Returns up to `limit` objects whose keys begin with `prefix`, sorted by key.

        Each has `key`, `size`, `uploaded` and `etag`. With `limit=None`, all of them.
        """
        return requests.pages("R2 list", "r2", namespace, "objects", prefix, limit)


def _fits_header(pair: tuple[object, object]) -> bool:
    return all(
        isinstance(text, str) and pattern.fullmatch(text)
        for pattern, text in zip((_HEADER_NAME, _HEADER_VALUE), pair)  # noqa: B905 - not in 3.8
    )


def _put_json(path: str, content: Any, metadata: Mapping[str, str]) -> bool:
    """Sends the object as JSON, which carries any metadata, and holds it in memory."""
    data = content.read() if hasattr(content, "read") else content
    body = {"content": base64.b64encode(data).decode("ascii"), "metadata": metadata}
    return bool(requests.send_json("R2 put", "PUT", path, body).get("success"))
