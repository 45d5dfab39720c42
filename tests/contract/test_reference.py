"""The reference page's own curl lines, run as they are printed, host and port aside.

They are run in every language: with its name and its own code in the place of the printed ones.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client import Client
from tests.contract.checks import check
from tests.languages.conformance import added_kernels
from tests.languages.kernel_programs import KernelPrograms
from tests.languages.programs import ALL_PROGRAMS
from tests.server_process import Server, temporary_launcher

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
# The page names `allowPublicAccess` and says what it is for, without lines of its own.
PUBLISH = r"""# Enable inbound proxy requests
curl -X PATCH https://anewera.dev/api/sessions/my-session \
-H "Content-Type: application/json" \
-d '{
"allowPublicAccess": true
}'"""
HOST = 'curl "https://anewera.dev/api/sessions/my-session/host?port=3000"'
PROXY = r"""curl -X POST "https://anewera.dev/proxy/my-session/3000/users/1?full=true" \
-H "Content-Type: application/json" \
-d '{"name": "Bob"}'"""
DUPLICATE = r"""curl -X POST https://anewera.dev/api/sessions/my-session/duplicate \
-H "Content-Type: application/json" \
-d '{
"new_id": "my-session-backup"
}'"""
DELETE = "curl -X DELETE https://anewera.dev/api/sessions/my-session"
DELETE_ALL = r"""# Delete all sessions
curl -X DELETE https://anewera.dev/api/sessions"""
HEALTH = "curl https://anewera.dev/health"
FILES = "curl https://anewera.dev/api/sessions/my-session/files"
DOWNLOADS = r"""# Download a file
curl https://anewera.dev/api/sessions/my-session/files/data.json -o data.json
# View text file content
curl https://anewera.dev/api/sessions/my-session/files/output.txt"""
UPLOADS = r"""# Upload JSON file
curl -X PUT https://anewera.dev/api/sessions/my-session/files/data.json \
-H "Content-Type: application/json" \
--data-binary @data.json
# Upload text file
echo "Hello World" | curl -X PUT https://anewera.dev/api/sessions/my-session/files/hello.txt \
--data-binary @-
# Upload binary file
curl -X PUT https://anewera.dev/api/sessions/my-session/files/image.png \
-H "Content-Type: image/png" \
--data-binary @image.png"""

# The code in these lines, and the name of the program that does the same in other languages.
PRINTED_CODE = {
    r"print(\"Hello World\")": "print_hello_world",
    r"import os; print(f\"Session: {os.environ.get('\''ERA_SESSION_ID'\'')}\");"
    r" print(f\"API Key: {os.environ.get('\''API_KEY'\'')}\")": "print_session",
    r"import time; [print(f\"Processing {i}\") or time.sleep(0.5)"
    r" for i in range(5)]": "print_slowly",
}

KV_GET = "curl https://anewera.dev/api/storage/kv/myapp/config"
KV_PUT = r"""curl -X PUT https://anewera.dev/api/storage/kv/myapp/config \
-H "Content-Type: application/json" \
-d '{"value": "{\"theme\":\"dark\"}"}'"""
KV_LIST = 'curl "https://anewera.dev/api/storage/kv/myapp?prefix=user:&limit=50"'
D1_QUERY = r"""curl -X POST https://anewera.dev/api/storage/d1/myapp/query \
-H "Content-Type: application/json" \
-d '{"sql": "SELECT * FROM users", "params": []}'"""
RESOURCES = """# List all resources
curl https://anewera.dev/api/resources/list
# Filter by namespace
curl "https://anewera.dev/api/resources/list?namespace=myapp"
# Filter by type
curl "https://anewera.dev/api/resources/list?type=kv\""""
RESOURCE_STATS = "curl https://anewera.dev/api/resources/stats"


# Code that answers a request with what it is told of it.
_TOLD = ("HTTP_METHOD", "HTTP_PATH", "HTTP_QUERY", "HTTP_BODY", "HTTP_PORT", "REQUEST_MODE")
_NAMES = json.dumps([f"ERA_{name}" for name in _TOLD])
_JAVASCRIPT = f"console.log(JSON.stringify({{told: {_NAMES}.map((name) => GET)}}))"
REQUEST_HANDLERS = {
    "python": f"import json, os\nprint(json.dumps({{'told': [os.environ[n] for n in {_NAMES}]}}))",
    "node": _JAVASCRIPT.replace("GET", "process.env[name]"),
    "typescript": _JAVASCRIPT.replace("(name)", "(name: string)").replace(
        "GET", "process.env[name]"
    ),
    "deno": _JAVASCRIPT.replace("GET", "Deno.env.get(name)"),
    "go": 'package main\nimport ("encoding/json"; "os")\nfunc main() {\nvar told []string\n'
    f"for _, name := range []string{{{_NAMES[1:-1]}}} {{ told = append(told, os.Getenv(name)) }}\n"
    'json.NewEncoder(os.Stdout).Encode(map[string]any{"told": told})\n}',
}

LANGUAGES = [programs for programs in ALL_PROGRAMS if programs.kernel is None]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that has all languages."""
    with added_kernels(LANGUAGES) as directories, temporary_launcher() as launcher:
        yield launcher.start("--kernelspec-dirs", ",".join(map(str, directories)))


@pytest.fixture(scope="module", params=LANGUAGES, ids=lambda programs: programs.language)
def programs(request: pytest.FixtureRequest, client: Client) -> KernelPrograms:
    """The programs of one language that is installed."""
    chosen: KernelPrograms = request.param
    listed = client.http.get("/api/languages").json()["languages"]
    [reason] = [one.get("reason") for one in listed if one["name"] == chosen.language]
    if reason is not None:
        pytest.skip(f"{chosen.language}: {reason}")
    return chosen


def in_language(lines: str, programs: KernelPrograms) -> str:
    """Returns the lines with the language's name and code in the place of the printed ones."""
    for printed, name in PRINTED_CODE.items():
        code = json.dumps(getattr(programs, name))[1:-1].replace("'", r"'\''")
        lines = lines.replace(printed, code)
    return lines.replace('"language": "python"', f'"language": "{programs.language}"')


@pytest.fixture
def page(server: Server, client: Client, tmp_path: Path) -> Iterator[Any]:
    """Runs lines of the page against the server, and gives what they print."""

    def run(lines: str) -> str:
        script = lines.replace(PAGE, server.base_url)
        ended = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, capture_output=True, timeout=60
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.decode()

    yield run
    client.http.delete("/api/sessions")


@pytest.fixture
def curl(page: Any, programs: KernelPrograms) -> Any:
    """Runs them in each language."""
    return lambda lines: page(in_language(lines, programs))


def test_languages() -> None:
    """The lines say the code that each language has a program for, and Python's are as printed."""
    for programs in LANGUAGES:
        is_printed = programs.language in CREATE
        lines = "".join((EXECUTE, CREATE, RUN, STREAM))
        assert all(code in lines for code in PRINTED_CODE)
        assert (in_language(lines, programs) == lines) is is_printed


def test_execute(curl: Any) -> None:
    """Execute code in a one-shot session."""
    answer = json.loads(curl(EXECUTE))
    check(answer, stdout="Hello World\n", stderr="", exit_code=0)
    assert isinstance(answer["session_id"], str)
    assert answer["execution_time_ms"] > 0


def test_create(curl: Any, programs: KernelPrograms) -> None:
    """Create a new persistent session."""
    text = curl(CREATE)
    assert '"id":"my-session"' in text
    answer = json.loads(text)
    check(answer, id="my-session", language=programs.language, persistent=True)
    check(answer, data={"user": "developer"})
    assert {"created_at", "last_run_at", "file_count", "total_size_bytes", "metadata"} <= set(
        answer
    )


def test_list(curl: Any, programs: KernelPrograms) -> None:
    """List all active sessions."""
    curl(CREATE)
    answer = json.loads(curl(LIST))
    check(answer, count=1)
    check(answer["sessions"][0], id="my-session", language=programs.language, file_count=0)


def test_show(curl: Any) -> None:
    """Get session metadata and status."""
    curl(CREATE)
    check(json.loads(curl(SHOW)), id="my-session", files=[], data={"user": "developer"})


def test_run(curl: Any, programs: KernelPrograms) -> None:
    """Execute code in an existing session, with variables of the environment."""
    curl(CREATE)
    answer = json.loads(curl(RUN))
    if "environment" in programs.does_not_hold:  # a kernel without a fence takes no variables
        check(answer, code="INVALID_REQUEST")
        return
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


def test_duplicate(curl: Any, programs: KernelPrograms) -> None:
    """Clone an existing session with all its files and state."""
    curl(CREATE)
    answer = json.loads(curl(DUPLICATE))
    check(answer, id="my-session-backup", source_session_id="my-session")
    check(answer, language=programs.language)
    check(answer, persistent=True, file_count=0, total_size_bytes=0, data={"user": "developer"})
    assert answer["created_at"].endswith("Z")


def test_uploads(curl: Any, client: Client, tmp_path: Path) -> None:
    """Upload files: each is there as it was, with the declared type, else that of its name."""
    (tmp_path / "data.json").write_bytes(b'{"a": 1}\n')
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00")
    curl(CREATE)
    text = curl(UPLOADS).replace("}{", "}\n{").splitlines()
    assert [json.loads(line) for line in text] == [
        {"path": "data.json", "size": 9},
        {"path": "hello.txt", "size": 12},
        {"path": "image.png", "size": 9},
    ]
    for name, kind in [
        ("data.json", "application/json"), ("hello.txt", "text/plain"), ("image.png", "image/png"),
    ]:  # fmt: skip
        got = client.http.get(f"/api/sessions/my-session/files/{name}")
        assert got.headers["Content-Type"] == kind
        if name != "hello.txt":
            assert got.content == (tmp_path / name).read_bytes()
    assert got.content == b"\x89PNG\r\n\x1a\n\x00"


def test_files(curl: Any) -> None:
    """List all files in a session."""
    curl(CREATE)
    check(json.loads(curl(FILES)), files=[], total_count=0, total_size_bytes=0)
    curl('echo "Hello World" > image.png; echo "{}" > data.json')
    curl(UPLOADS)
    answer = json.loads(curl(FILES))
    check(answer, total_count=3, total_size_bytes=27)
    assert [file["path"] for file in answer["files"]] == ["data.json", "hello.txt", "image.png"]
    assert all({"path", "size", "modified_at"} <= set(file) for file in answer["files"])


def test_downloads(curl: Any, client: Client, programs: KernelPrograms, tmp_path: Path) -> None:
    """Download files that code wrote."""
    curl(CREATE)
    client.http.post("/api/sessions/my-session/run", json={"code": programs.write_results})
    assert curl(DOWNLOADS) == "shown"
    assert (tmp_path / "data.json").read_bytes() == b"{}"


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
        if answer.get("code") == "NOT_ENFORCEABLE":  # the isolation cannot allow internet access
            assert expected["allowInternetAccess"]
            continue
        check(answer, success=True, id="my-session")
        check(answer["metadata"], **expected)
        assert "allowPublicAccess" in answer["metadata"]
        assert answer["updated_at"].endswith("Z")


def test_host_and_proxy(
    curl: Any, client: Client, server: Server, programs: KernelPrograms
) -> None:
    """Tell where a port is served; a request to it is answered by the code of the session."""
    curl(CREATE)
    for lines in (PUBLISH.replace("true", "false"), PUBLISH):
        is_public = "true" in lines
        check(json.loads(curl(lines))["metadata"], allowPublicAccess=is_public)
    place = f"{server.base_url}/proxy/my-session/3000"
    assert json.loads(curl(HOST)) == {
        "url": place, "base_url": place, "session_id": "my-session", "port": 3000
    }  # fmt: skip
    check(json.loads(curl(PROXY)), code="NOTHING_LISTENING")
    code = {"code": REQUEST_HANDLERS.get(programs.language, "none")}
    client.http.put("/api/sessions/my-session/code", json=code).raise_for_status()
    if programs.language not in REQUEST_HANDLERS:  # its kernel names no program that runs code
        check(json.loads(curl(PROXY)), code="NOT_SUPPORTED")
        return
    check(
        json.loads(curl(PROXY)),
        told=["POST", "/users/1", "?full=true", '{"name": "Bob"}', "3000", "proxy"],
    )


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


def test_health(page: Any) -> None:
    """Health check endpoint."""
    answer = json.loads(page(HEALTH))
    check(answer, status="healthy")
    assert answer["timestamp"].endswith("Z")
    assert isinstance(answer["version"], str)


def test_kv(page: Any, client: Client) -> None:
    """Set, get and list values of KV."""
    assert json.loads(page(KV_PUT)) == {"success": True}
    check(json.loads(page(KV_GET)), value='{"theme":"dark"}')
    client.http.put("/api/storage/kv/myapp/user:1", json={"value": "a"}).raise_for_status()
    listed = json.loads(page(KV_LIST))
    assert listed == {
        "keys": [{"name": "user:1", "metadata": {}}], "list_complete": True, "cursor": ""
    }  # fmt: skip


def make_users(client: Client) -> None:
    """Has a table of users with one row in the database of the page."""
    for sql in (
        "CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, name TEXT)",
        "INSERT OR REPLACE INTO users VALUES (1, 'Bob')",
    ):
        client.http.post("/api/storage/d1/myapp/exec", json={"sql": sql}).raise_for_status()


def test_d1(page: Any, client: Client) -> None:
    """Query a database of D1."""
    make_users(client)
    answer = json.loads(page(D1_QUERY))
    check(answer, success=True, results=[{"id": 1, "name": "Bob"}])
    assert answer["meta"]["duration"] >= 0


def test_resources(curl: Any, client: Client) -> None:
    """List all storage resources with optional filters, and their statistics."""
    curl(KV_PUT)
    make_users(client)
    client.http.delete("/api/storage/kv/myapp/user:1").raise_for_status()
    curl(CREATE)
    answers = [json.loads(part) for part in curl(RESOURCES).replace("}{", "}\n{").splitlines()]
    assert [sorted(one["type"] for one in answer["resources"]) for answer in answers] == [
        ["d1", "do", "kv"], ["d1", "kv"], ["kv"]
    ]  # fmt: skip
    check(answers[2]["resources"][0], namespace="myapp", key="config", size=16, metadata={})
    check(answers[2], total=1, offset=0, limit=100, has_more=False)
    stats = json.loads(curl(RESOURCE_STATS))
    check(stats, total=3, by_type={"kv": 1, "d1": 1, "r2": 0, "do": 1})
    check(stats, by_namespace={"myapp": 2, "sessions": 1})
    assert stats["total_size"] > 16
