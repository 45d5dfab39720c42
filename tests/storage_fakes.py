"""Handlers of storage that keep everything in memory, for tests of what lies around them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict

from era_kernels.errors import KeyNotFound, ObjectNotFound, SqlError
from era_kernels.web.base_handler import HandlerContext
from era_kernels.web.base_request_models import RequestModel
from era_kernels.web.operations import Operation, Route
from era_kernels.web.storage_handler import StorageHandler


class AnyBody(RequestModel):
    """A body of any form."""

    model_config = ConfigDict(extra="allow")


class AnyAnswer(BaseModel):
    """An answer of any form."""


ANY = {200: AnyAnswer}


@dataclass
class Memory:
    """What is stored, what was asked, and how many requests are in work."""

    values: dict[tuple[str, str], Any] = field(default_factory=dict)
    objects: dict[tuple[str, str], bytes] = field(default_factory=dict)
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0  # that each request to KV takes
    in_work: int = 0
    most_in_work: int = 0
    begun: int = 0  # requests that came into work so far

    @contextmanager
    def working(self) -> Iterator[None]:
        self.in_work += 1
        self.begun += 1
        self.most_in_work = max(self.in_work, self.most_in_work)
        try:
            yield
        finally:
            self.in_work -= 1


class MemoryHandler(StorageHandler):
    """The base: every handler gets the memory."""

    format = "/api/storage/{type}/{namespace}/{key}"

    def initialize(self, context: HandlerContext, memory: Memory) -> None:  # type: ignore[override]
        super().initialize(context)
        self.memory = memory

    @property
    def place(self) -> tuple[str, str]:
        assert self.key is not None
        return self.namespace, self.key

    def page(self, entries: list[tuple[str, Any]]) -> tuple[list[Any], str]:
        """One page of sorted entries, and the cursor: the last key of the page."""
        prefix = self.get_query_argument("prefix", "")
        limit = min(int(self.get_query_argument("limit", "100")), 1000)
        after = self.get_query_argument("cursor", "")
        rest = [one for one in sorted(entries) if one[0].startswith(prefix) and one[0] > after]
        page = rest[:limit]
        return [value for _, value in page], page[-1][0] if len(rest) > limit else ""


class MemoryKV(MemoryHandler):
    operations = {
        "GET": Operation("Get", ANY),
        "PUT": Operation("Set", ANY, request=AnyBody),
        "DELETE": Operation("Delete", ANY),
    }

    async def get(self, *_: str) -> None:
        self.memory.headers.append(dict(self.request.headers.get_all()))
        with self.memory.working():
            await asyncio.sleep(self.memory.seconds)
        if self.key is None:
            mine = [
                (key, {"name": key, "metadata": value["metadata"]})
                for (namespace, key), value in self.memory.values.items()
                if namespace == self.namespace
            ]
            keys, cursor = self.page(mine)
            await self.finish_json({"keys": keys, "list_complete": not cursor, "cursor": cursor})
            return
        if self.place not in self.memory.values:
            raise KeyNotFound(f"There is no key {self.key}.")
        await self.finish_json(self.memory.values[self.place])

    async def put(self, *_: str) -> None:
        body = (await self.read_body(AnyBody)).model_dump()
        self.memory.calls.append(("set", self.namespace, body))
        self.memory.values[self.place] = {"metadata": {}, **body}
        await self.finish_json({"success": True})

    async def delete(self, *_: str) -> None:
        self.memory.values.pop(self.place, None)
        await self.finish_json({"success": True})


class MemoryR2(MemoryHandler):
    operations = {
        "GET": Operation("Get", ANY),
        "PUT": Operation("Put", ANY),
        "DELETE": Operation("Delete", ANY),
    }

    @property
    def max_body(self) -> int:
        return self.context.max_upload

    async def get(self, *_: str) -> None:
        if self.key is None:
            mine = [
                (key, {"key": key, "size": len(data)})
                for (namespace, key), data in self.memory.objects.items()
                if namespace == self.namespace
            ]
            objects, cursor = self.page(mine)
            await self.finish_json(
                {"objects": objects, "truncated": bool(cursor), "cursor": cursor}
            )
            return
        if self.place not in self.memory.objects:
            raise ObjectNotFound(f"There is no object {self.key}.")
        assert self.request.headers["Accept"] == "application/octet-stream"
        self.finish(self.memory.objects[self.place])

    async def put(self, *_: str) -> None:
        names = [name for name in self.request.headers if name.startswith("X-Era-Meta-")]
        metadata: Any = {name: self.request.headers[name] for name in names}
        if self.request.headers["Content-Type"] == "application/json":
            body = (await self.read_body(AnyBody)).model_dump()
            data, metadata = base64.b64decode(body["content"]), body["metadata"]
        else:
            data = self._body.take()
        self.memory.calls.append(("put", self.namespace, metadata))
        self.memory.objects[self.place] = data
        await self.finish_json({"success": True, "size": len(data)})

    async def delete(self, *_: str) -> None:
        self.memory.objects.pop(self.place, None)
        await self.finish_json({"success": True})


class MemoryD1(MemoryHandler):
    """Answers each statement with its parameters as a row."""

    operations = {"POST": Operation("Run SQL", ANY, request=AnyBody)}

    async def post(self, *_: str) -> None:
        what = self.request.path.rpartition("/")[2]
        body = self._body.take()
        self.memory.calls.append((what, self.namespace, body.decode()))
        answer = {"success": True, "meta": {"changes": 1}, "results": [_row(body)]}
        if b"wrong" in body:
            raise SqlError("The statement is wrong.", details='near "wrong": syntax error')
        if what == "batch":
            answer = {"success": True, "results": [answer, {"success": True, "meta": {}}]}
        await self.finish_json(answer)


def _row(body: bytes) -> dict[str, Any]:
    from era_kernels import json_codec

    if body.startswith(b"["):
        return {"n": 1}
    params = json_codec.loads_object(body).get("params", [])
    pairs = params.items() if isinstance(params, dict) else enumerate(params)
    return {f"c{name}": value for name, value in pairs}


def memory_routes(memory: Memory) -> list[Route]:
    """The paths of storage, kept in this memory."""
    given = {"memory": memory}
    kv, r2, d1 = (f"/api/storage/{kind}/{{namespace}}" for kind in ("kv", "r2", "d1"))
    return [
        Route(kv, MemoryKV, given),
        Route(f"{kv}/{{path}}", MemoryKV, given),
        Route(r2, MemoryR2, given),
        Route(f"{r2}/{{path}}", MemoryR2, given),
        *(Route(f"{d1}/{what}", MemoryD1, given) for what in ("query", "exec", "batch")),
    ]
