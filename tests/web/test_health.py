"""Health, languages and limits."""

from __future__ import annotations

import re

import pytest

from era_kernels import __version__
from tests.web.fakes import LANGUAGE
from tests.web.serving import ServerUnderTest

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.mark.parametrize("path", ["/health", "/api/health"])
def test_healthy(server: ServerUnderTest, path: str) -> None:
    """Health is served under two addresses, and the time under two names."""
    shown = server.http.get(path).json()
    assert TIME.fullmatch(shown["timestamp"])
    assert shown == {
        "status": "healthy",
        "timestamp": shown["timestamp"],
        "time": shown["timestamp"],
        "version": __version__,
        "isolation": {"tier": 4, "missing": ["files", "network"]},
        "languages": {LANGUAGE: True},
    }


def test_unhealthy(server: ServerUnderTest) -> None:
    """A part that is down is named, with 503 and a time to come again."""
    server.server_info.failed_parts = {"store": "The disk is gone."}
    try:
        answer = server.http.get("/health")
    finally:
        server.server_info.failed_parts = {}
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["status"] == "unhealthy"
    assert answer.json()["problems"] == {"store": "The disk is gone."}


def test_languages(server: ServerUnderTest) -> None:
    """Languages are shown as the service describes them."""
    assert server.http.get("/api/languages").json() == {"languages": server.server_info.languages()}


def test_limits(server: ServerUnderTest) -> None:
    """Limits are shown by their settings' names, in plain numbers."""
    answer = server.http.get("/api/limits")
    assert answer.text == '{"max_queue":100,"max_json_body":33554432}\n'
