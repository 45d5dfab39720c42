"""A small client of the API for tests: sessions, runs and parsed streams over a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class SseEvent:
    """One server-sent event."""

    id: int
    event: str
    data: dict[str, Any]


def parse_sse(lines: Iterator[str]) -> Iterator[SseEvent]:
    """Parse server-sent events strictly: id, event, one data line, blank line."""
    fields: dict[str, str] = {}
    for line in lines:
        if line == "":
            if fields:
                yield SseEvent(int(fields["id"]), fields["event"], json.loads(fields["data"]))
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            assert name in {"id", "event", "data"}, line
            assert name not in fields, "two lines of one kind in a frame"
            fields[name] = value


@dataclass
class SessionClient:
    """One session of the server under test."""

    http: httpx.Client
    id: str

    @property
    def path(self) -> str:
        return f"/api/sessions/{self.id}"

    def run(self, code: str, **body: Any) -> dict[str, Any]:
        """Runs code and returns the result, also that of a timeout (status 408)."""
        response = self.http.post(f"{self.path}/run", json={"code": code, **body})
        assert response.status_code in (200, 408), response.text
        result: dict[str, Any] = response.json()
        return result

    @contextmanager
    def open_stream(self, code: str, **body: Any) -> Iterator[Iterator[SseEvent]]:
        with self.http.stream(
            "POST", f"{self.path}/stream", json={"code": code, **body}
        ) as response:
            assert response.status_code == 200, response.read()
            yield parse_sse(response.iter_lines())

    def stream(self, code: str, **body: Any) -> list[SseEvent]:
        with self.open_stream(code, **body) as events:
            return list(events)

    def get(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.http.get(self.path).raise_for_status().json()
        return answer

    def executions(self) -> list[dict[str, Any]]:
        """Returns the executions as they are listed: the oldest first."""
        answer = self.http.get(f"{self.path}/executions").raise_for_status().json()
        listed: list[dict[str, Any]] = answer["executions"]
        return listed

    def execution_path(self, index: int = -1) -> str:
        """Returns the path of an execution by its place in the list; of the newest by default."""
        return f"{self.path}/executions/{self.executions()[index]['execution_id']}"

    def delete(self) -> None:
        self.http.delete(self.path).raise_for_status()


@dataclass
class Client:
    """The server under test."""

    base_url: str
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
        self.http = httpx.Client(
            base_url=self.base_url, timeout=120, headers=self.headers, limits=limits
        )

    def session(self, language: str, **body: Any) -> SessionClient:
        response = self.http.post("/api/sessions", json={"language": language, **body})
        assert response.status_code == 201, response.text
        return SessionClient(self.http, response.json()["id"])

    @property
    def has_memory_groups(self) -> bool:
        """Whether control groups count memory: then what is reserved is not bounded so soon."""
        missing = self.http.get("/health").json()["isolation"]["missing"]
        return not any("memory is polled" in text for text in missing)

    def close(self) -> None:
        self.http.close()
