"""Holds what has come of a request's body, and parses it without stopping the loop."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

from era_kernels.json_incremental import LARGE_BYTES, free_in_steps
from era_kernels.web import requests

M = TypeVar("M", bound=BaseModel)


class Body:
    """Collects the chunks of one body, and parses it."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._value: object = None  # of a large body, as it was parsed

    @property
    def size(self) -> int:
        """The bytes that are held."""
        return sum(map(len, self._chunks))

    def add(self, chunk: bytes) -> None:
        """Takes the next chunk."""
        self._chunks.append(chunk)

    def take(self) -> bytes:
        """Returns all of the body, which is not held here any more."""
        whole = b"".join(self._chunks)
        self._chunks.clear()
        return whole

    def drop(self) -> None:
        """Lets go of what has come: nobody will read it."""
        self._chunks.clear()

    async def parse(self, model: type[BaseModel], data: bytes) -> Any:
        """Returns the JSON of a body for `model`, not validated. Raises InvalidJson, TooLarge."""
        value = await requests.loads_for(model)(data)
        if len(data) > LARGE_BYTES:
            self._value = value
        return value

    async def validate(self, model: type[M], value: Any) -> M:
        """Returns what `parse` returned as `model`. Raises InvalidId, InvalidRequest."""
        if self._value is None:
            return requests.validate(model, value)
        return await requests.validate_large(model, value)

    def close(self) -> None:
        """Lets go of everything; a large value goes in steps. A second call does nothing."""
        self._chunks.clear()
        if self._value is not None:
            free_in_steps(self._value)
            self._value = None
