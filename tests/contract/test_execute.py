"""Execute: one run in a throw-away session."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.client import Client
from tests.contract.checks import DURATION, check, check_error
from tests.server_process import PRINT_PID, Server, host_pid
from tests.waiting import wait_until

Execute = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def execute(client: Client) -> Execute:
    """Runs Python code once."""

    def run(code: str, **body: Any) -> httpx.Response:
        return client.http.post("/api/execute", json={"language": "python", "code": code, **body})

    return run


def test_answer(execute: Execute) -> None:
    """The answer holds what the contract names, and one id under two names."""
    shown = execute("import sys; print('out'); print('err', file=sys.stderr); 6 * 7").json()
    assert set(shown) == {
        "session_id", "vm_id", "language", "stdout", "stderr", "exit_code", "execution_time_ms",
        "duration", "results",
    }  # fmt: skip
    check(shown, language="python", stdout="out\n", stderr="err\n", exit_code=0)
    assert shown["session_id"] == shown["vm_id"]
    assert DURATION.fullmatch(shown["duration"])
    [result] = shown["results"]
    assert (result["type"], result["data"]["text/plain"]) == ("execute_result", "42")


def test_session_is_thrown_away(client: Client, execute: Execute, server: Server) -> None:
    """Nothing is left: no session, no execution, no directory."""
    shown = execute("open('made', 'w').close()").json()
    assert client.http.get(f"/api/sessions/{shown['session_id']}").status_code == 404
    assert client.http.get("/api/sessions").json()["total"] == 0
    assert wait_until(lambda: not list((server.data_dir / "sessions").iterdir()))


def test_each_run_begins_anew(execute: Execute) -> None:
    """Two runs share neither variables nor files nor their id."""
    first = execute("x = 1; open('made', 'w').close()").json()
    second = execute("import os; print(os.path.exists('made'), 'x' in globals())").json()
    check(second, stdout="False False\n")
    assert first["session_id"] != second["session_id"]


@pytest.mark.parametrize("language", ["python", "PYTHON", "py", "PY", "Python3"])
def test_aliases(execute: Execute, language: str) -> None:
    """A language is known by its aliases, in any case, and shown by its name."""
    check(execute("print(1)", language=language).json(), language="python", stdout="1\n")


@pytest.mark.parametrize("language", ["latin", "", "python ", "python3\n", "../python", "x" * 9999])
def test_unknown_language(execute: Execute, language: str) -> None:
    """An unknown language is UNSUPPORTED_LANGUAGE listing the known ones."""
    answer = execute("", language=language)
    check_error(answer, 400, "UNSUPPORTED_LANGUAGE")
    assert "python" in answer.json()["message"]
    assert len(answer.text) < 2000


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("", 0),
        ("1/0", 1),
        ("(", 1),
        ("exit(3)", 3),
        ("import os; os._exit(7)", 7),
        ("import os; os.kill(os.getpid(), 9)", 137),
        ("raise KeyboardInterrupt", 130),
    ],
)
def test_exit_codes(execute: Execute, code: str, exit_code: int) -> None:
    """A failing program is HTTP 200 with its exit code."""
    answer = execute(code)
    assert answer.status_code == 200
    check(answer.json(), exit_code=exit_code)


def test_timeout(execute: Execute) -> None:
    """A timeout is 408 with the error and what there is, and the next run works."""
    answer = execute("print('a', flush=True)\nimport time; time.sleep(60)", timeout_ms=500)
    assert answer.status_code == 408
    shown = answer.json()
    check(shown, code="EXECUTION_TIMEOUT", exit_code=124, stdout="a\n")
    assert {"error", "message", "session_id", "duration"} <= set(shown)
    check(execute("print('b')").json(), stdout="b\n")


def test_environment(execute: Execute) -> None:
    """The caller's variables and the server's own are there."""
    code = "import os\nfor n in ('A', 'B', 'ERA_SESSION', 'ERA_LANGUAGE'): print(os.environ[n])"
    answer = execute(code, env={"A": "x", "B": 1.50, "ERA_SESSION": "forged"})
    check(answer.json(), stdout="x\n1.5\ntrue\npython\n", exit_code=0)


def test_addresses(execute: Execute, server: Server) -> None:
    """Code knows its session and the server's address."""
    names = "'ERA_SESSION_ID', 'ERA_BASE_URL', 'ERA_PROXY_URL'"
    shown = execute(f"import os\nfor n in ({names}): print(os.environ[n])").json()
    url, session = server.base_url, shown["session_id"]
    assert shown["stdout"].split() == [session, url, f"{url}/proxy/{session}"]


def test_client_that_leaves(client: Client, server: Server) -> None:
    """A run whose client left is ended: nobody else could read it."""

    def read_pids() -> list[str]:
        files = server.data_dir.glob("sessions/*/workspace/printed")
        return [text for file in files if (text := file.read_text()).endswith("\n")]

    code = f"{PRINT_PID[:-1]}, file=open('printed', 'w'), flush=True)\nimport time; time.sleep(300)"
    request = client.http.build_request(
        "POST", "/api/execute", json={"language": "python", "code": code}
    )
    head = (
        f"POST /api/execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(request.content)}"
    )
    port = int(server.base_url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(head.encode() + b"\r\n\r\n" + request.content)
        assert wait_until(lambda: read_pids() != [], 20)
        pid = host_pid(read_pids()[0])
        assert Path(f"/proc/{pid}").exists()
    assert wait_until(lambda: not Path(f"/proc/{pid}").exists(), 20)


def test_many_at_once(client: Client) -> None:
    """Several run side by side, each with its own output."""

    def run(number: int) -> str:
        body = {"language": "python", "code": f"print({number})"}
        text: str = client.http.post("/api/execute", json=body).json()["stdout"]
        return text

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(run, range(12))) == [f"{number}\n" for number in range(12)]
