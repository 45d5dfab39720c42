"""The reference page's own curl lines, run as they are printed, host and port aside."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.client import Client
from tests.contract.checks import check
from tests.launching import Server

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

PAGE = "https://anewera.dev"

EXECUTE = r"""curl -X POST https://anewera.dev/api/execute \
-H "Content-Type: application/json" \
-d '{
"language": "python",
"code": "print(\"Hello World\")"
}'"""
CREATE = r"""curl -X POST https://anewera.dev/api/sessions \
-H "Content-Type: application/json" \
-d '{
"language": "python",
"persistent": true,
"session_id": "my-session",
"data": {"user": "developer"}
}'"""
LIST = "curl https://anewera.dev/api/sessions"
SHOW = "curl https://anewera.dev/api/sessions/my-session"
RUN = r"""curl -X POST https://anewera.dev/api/sessions/my-session/run \
-H "Content-Type: application/json" \
-d '{
"code": "import os; print(f\"Session: {os.environ.get('\''ERA_SESSION_ID'\'')}\"); print(f\"API Key: {os.environ.get('\''API_KEY'\'')}\")",
"env": {
"API_KEY": "secret123"
}
}'"""  # noqa: E501 - as printed
STREAM = r"""# Simple streaming example
curl -X POST https://anewera.dev/api/sessions/my-session/stream \
-H "Content-Type: application/json" \
-d '{
"code": "import time; [print(f\"Processing {i}\") or time.sleep(0.5) for i in range(5)]"
}'"""
CHANGES = [
    r"""# Update default timeout to 5 minutes
curl -X PATCH https://anewera.dev/api/sessions/my-session \
-H "Content-Type: application/json" \
-d '{
"default_timeout": 300
}'""",
    r"""# Disable internet access
curl -X PATCH https://anewera.dev/api/sessions/my-session \
-H "Content-Type: application/json" \
-d '{
"allowInternetAccess": false
}'""",
    r"""# Update multiple fields at once
curl -X PATCH https://anewera.dev/api/sessions/my-session \
-H "Content-Type: application/json" \
-d '{
"default_timeout": 600,
"allowInternetAccess": true
}'""",
]
DELETE = "curl -X DELETE https://anewera.dev/api/sessions/my-session"
DELETE_ALL = r"""# Delete all sessions
curl -X DELETE https://anewera.dev/api/sessions"""
HEALTH = "curl https://anewera.dev/health"


@pytest.fixture
def curl(server: Server, client: Client) -> Iterator[Any]:
    """Runs lines of the page against the server, and gives what they print."""

    def run(lines: str) -> str:
        script = lines.replace(PAGE, server.base_url)
        ended = subprocess.run(["bash", "-c", script], capture_output=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.decode()

    yield run
    client.http.delete("/api/sessions")


def test_execute(curl: Any) -> None:
    """Execute code in a one-shot session."""
    answer = json.loads(curl(EXECUTE))
    check(answer, stdout="Hello World\n", stderr="", exit_code=0)
    assert isinstance(answer["session_id"], str)
    assert answer["execution_time_ms"] > 0


def test_create(curl: Any) -> None:
    """Create a new persistent session."""
    text = curl(CREATE)
    assert '"id":"my-session"' in text
    answer = json.loads(text)
    check(answer, id="my-session", language="python", persistent=True, data={"user": "developer"})
    assert {"created_at", "last_run_at", "file_count", "total_size_bytes", "metadata"} <= set(
        answer
    )


def test_list(curl: Any) -> None:
    """List all active sessions."""
    curl(CREATE)
    answer = json.loads(curl(LIST))
    check(answer, count=1)
    check(answer["sessions"][0], id="my-session", language="python", file_count=0)


def test_show(curl: Any) -> None:
    """Get session metadata and status."""
    curl(CREATE)
    check(json.loads(curl(SHOW)), id="my-session", files=[], data={"user": "developer"})


def test_run(curl: Any) -> None:
    """Execute code in an existing session, with variables of the environment."""
    curl(CREATE)
    answer = json.loads(curl(RUN))
    check(answer, stdout="Session: my-session\nAPI Key: secret123\n", stderr="", exit_code=0)
    check(answer, files_modified=0)


def test_stream(curl: Any) -> None:
    """Execute code with real-time streaming output."""
    curl(CREATE)
    text = curl(STREAM)
    frames = [part.splitlines() for part in text.strip().split("\n\n")]
    data = [
        json.loads(line.removeprefix("data: "))
        for frame in frames
        for line in frame
        if line.startswith("data: ")
    ]
    printed = "".join(one["content"] for one in data if one["type"] == "stdout")
    assert printed == "".join(f"Processing {number}\n" for number in range(5))
    check(data[-1], type="done", exit_code=0)
    assert isinstance(data[-1]["duration"], str)


def test_changes(curl: Any) -> None:
    """Update session configuration."""
    curl(CREATE)
    for lines, expected in zip(
        CHANGES,
        [
            {"default_timeout": 300, "allowInternetAccess": False},
            {"default_timeout": 300, "allowInternetAccess": False},
            {"default_timeout": 600, "allowInternetAccess": True},
        ],
        strict=True,
    ):
        answer = json.loads(curl(lines))
        if answer.get("code") == "NOT_ENFORCEABLE":  # walls without a door say so
            assert expected["allowInternetAccess"]
            continue
        check(answer, success=True, id="my-session")
        check(answer["metadata"], **expected)
        assert "allowPublicAccess" in answer["metadata"]
        assert answer["updated_at"].endswith("Z")


def test_delete(curl: Any) -> None:
    """Delete a session and all its data."""
    curl(CREATE)
    answer = json.loads(curl(DELETE))
    check(answer, success=True, id="my-session")
    assert answer["deleted_at"].endswith("Z")


def test_delete_all(curl: Any) -> None:
    """Delete all sessions."""
    curl(CREATE)
    answer = json.loads(curl(DELETE_ALL))
    check(answer, success=True, deleted_count=1, deleted_sessions=["my-session"])
    assert answer["deleted_at"].endswith("Z")


def test_health(curl: Any) -> None:
    """Health check endpoint."""
    answer = json.loads(curl(HEALTH))
    check(answer, status="healthy")
    assert answer["timestamp"].endswith("Z")
    assert isinstance(answer["version"], str)
