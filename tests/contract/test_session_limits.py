"""Limits of one session: asked for at creation, shown, kept, and in force."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import Start, check, check_error
from tests.server_process import Launcher

# A server whose own limits are near.
SERVER_FLAGS = (
    "--session-memory", "512M", "--session-processes", "100", "--session-workspace", "64M",
)  # fmt: skip
LEAST = {"memory_mb": 64, "processes": 8}
TAKE = """
import os, time
for _ in range(4): os.fork()
data = b"x" * (20 << 20)
time.sleep(60)
"""


def tier(client: Client) -> int:
    found: int = client.http.get("/health").json()["isolation"]["tier"]
    return found


def require_isolation(client: Client) -> None:
    if tier(client) == 4:
        pytest.skip("this host has no walls")


def create_session(client: Client, **limits: Any) -> Any:
    return client.http.post("/api/sessions", json={"language": "python", "limits": limits})


# ---------------------------------------------------------------- what is taken


def test_shown_when_set(client: Client) -> None:
    """As they were asked for, in every answer that shows a session; a duplicate has them, too."""
    limits = {"memory_mb": 256, "processes": 50, "workspace_mb": 8}
    session = client.session("python", limits={**limits, "unknown": 1})
    check(session.get(), limits=limits)
    (listed,) = client.http.get("/api/sessions").json()["sessions"]
    check(listed, limits=limits)
    changed = client.http.patch(session.path, json={"metadata": {}}).json()["metadata"]
    check(changed, limits=limits)
    copy = client.http.post(f"{session.path}/duplicate", json={"variables": False}).json()
    check(copy, limits=limits)
    client.http.delete("/api/sessions")


@pytest.mark.parametrize("limits", [None, {}, {"memory_mb": None}])
def test_not_shown_when_not_set(client: Client, limits: object) -> None:
    """Null and nothing are no limits of the session's own."""
    session = client.session("python", limits=limits)
    assert "limits" not in session.get()
    session.delete()


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ('{"memory_mb": "256"}', "`limits.memory_mb` must be an integer"),
        ('{"memory_mb": 256.0}', "`limits.memory_mb` must be an integer"),
        ('{"memory_mb": true}', "`limits.memory_mb` must be an integer"),
        ('{"processes": 0}', "`limits.processes` must be at least 1"),
        ('{"workspace_mb": -1}', "`limits.workspace_mb` must be at least 1"),
        ('{"cpu": 0}', "`limits.cpu` must be above 0"),
        ('{"cpu": "1"}', "`limits.cpu` must be a number"),
        ('{"cpu": 1e300}', "`limits.cpu` must be at most"),
        ("[]", "`limits` must be an object"),
        ("7", "`limits` must be an object"),
        ('{"memory_mb": 513}', "`limits.memory_mb` must be at most 512, session_memory"),
        ('{"processes": 101}', "`limits.processes` must be at most 100, session_processes"),
        ('{"workspace_mb": 65}', "`limits.workspace_mb` must be at most 64, session_workspace"),
        (f'{{"memory_mb": {10**60}}}', "`limits.memory_mb` must be at most 512"),
        ('{"memory_mb": 63}', "`limits.memory_mb` must be at least 64, which python needs"),
        ('{"processes": 7}', "`limits.processes` must be at least 8, which python needs"),
    ],
)
def test_refused(client: Client, limits: str, expected: str) -> None:
    """400 that names the field and the bound, and nothing was made."""
    body = f'{{"language": "python", "session_id": "s", "limits": {limits}}}'
    answer = client.http.post("/api/sessions", content=body)
    shown = check_error(answer, 400, "INVALID_REQUEST")
    assert shown["message"].startswith(expected), shown
    assert shown["details"][0]["field"] in expected
    check_error(client.http.get("/api/sessions/s"), 404, "SESSION_NOT_FOUND")


def test_processors(client: Client) -> None:
    """Taken where something enforces it, or where nothing enforces anything; else 409."""
    answer = create_session(client, cpu=0.5)
    missing = client.http.get("/health").json()["isolation"]["missing"]
    if tier(client) < 4 and any("processors" in text for text in missing):
        check_error(answer, 409, "NOT_ENFORCEABLE")
    else:
        check(answer.json(), limits={"cpu": 0.5})
    client.http.delete("/api/sessions")


def test_without_isolation(start: Start) -> None:
    """They are stored, `isolation` shows that nothing enforces them; uploads are held to them."""
    client = start("--allow-unsandboxed", "--strongest-tier", "4")
    session = client.session("python", limits={"workspace_mb": 1, "cpu": 2})
    shown = session.get()
    check(shown, limits={"workspace_mb": 1, "cpu": 2})
    assert any("limits" in text for text in shown["isolation"]["missing"])
    check(session.run("print(6 * 7)"), stdout="42\n")
    path = f"{session.path}/files/f"
    check_error(client.http.put(path, content=bytes(1024**2 + 1)), 413, "QUOTA_EXCEEDED")


# ---------------------------------------------------------------- what they do


def test_the_least_is_enough(client: Client) -> None:
    """With the least that is taken a kernel starts, runs, and restarts."""
    require_isolation(client)
    session = client.session("python", limits=LEAST)
    check(session.run("x = 41"), exit_code=0)
    check(session.run("import json; print(x + 1)"), stdout="42\n", exit_code=0)
    client.http.post(f"{session.path}/restart").raise_for_status()
    check(session.run("print(6 * 7)"), stdout="42\n", state="preserved")
    session.delete()


def test_memory(client: Client) -> None:
    """One process that takes too much, or many together, end the kernel, which says why.

    Without control groups one process gets a MemoryError and lives.
    """
    require_isolation(client)
    session = client.session("python", limits={"memory_mb": 128})
    answer = session.run("x = bytearray(200 << 20)")
    if client.has_memory_groups:
        check(answer, exit_code=137, state="lost", cause="out of memory at 128 MB")
    else:
        assert (answer["exit_code"], answer["exception"]["name"]) == (1, "MemoryError")
    check(session.run(TAKE), exit_code=137, state="lost", cause="out of memory at 128 MB")
    check(session.run("print(6 * 7)"), stdout="42\n", started_from="fresh")
    session.delete()


def test_memory_that_is_only_reserved(client: Client) -> None:
    """What a program reserves and does not use counts only where no control group counts memory.

    Polars, BLAS, Go and V8 reserve many times what they use; so do the stacks of threads.
    """
    require_isolation(client)
    session = client.session("python", limits={"memory_mb": 256})
    code = (
        "import mmap\n"
        "kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS\n"
        "held = [mmap.mmap(-1, 512 << 20, kind) for _ in range(6)]\n"
        "for one in held: one[:4096] = bytes(4096)\n"
        "print(len(held))"
    )
    answer = session.run(code)
    if client.has_memory_groups:
        check(answer, exit_code=0, stdout="6\n")
    else:
        check(answer, exit_code=1, state="preserved")
        assert answer["exception"]["value"] == "[Errno 12] Cannot allocate memory"
    session.delete()


def test_more_than_can_ever_be_had(client: Client) -> None:
    """A size that is a mistake is refused to the program at once, which lives."""
    require_isolation(client)
    session = client.session("python", limits={"memory_mb": 128})
    answer = session.run("x = bytearray(20 << 30)")
    check(answer, exit_code=1, state="preserved")
    assert answer["exception"]["name"] == "MemoryError"
    session.delete()


def test_programs_beside_the_kernel(client: Client) -> None:
    """They hold for programs, too, whether there is a kernel or not."""
    require_isolation(client)
    session = client.session("python", limits={"memory_mb": 128})
    program = {"argv": ["python3", "-c", "x = bytearray(200 << 20)"]}
    for _ in range(2):
        answer = client.http.post(f"{session.path}/exec", json=program).json()
        assert "session's limit is 128 MiB" in answer["stderr"].splitlines()[-1]
        if client.has_memory_groups:
            assert answer["exit_code"] == 137, answer
            assert "out of memory at 128 MB" in answer["cause"]
        else:
            assert answer["exit_code"] == 1
            assert answer["stderr"].splitlines()[-2] == "MemoryError"
        check(session.run("pass"), exit_code=0)
    session.delete()


def test_memory_of_others(client: Client) -> None:
    """The limits of one session are not those of its neighbour."""
    small = client.session("python", limits={"memory_mb": 128})
    other = client.session("python")
    check(small.run("pass"), exit_code=0)
    check(other.run("print(len(bytearray(200 << 20)))"), stdout="209715200\n")
    for session in (small, other):
        session.delete()


def test_processes(client: Client) -> None:
    """More cannot be started, or end the kernel, which is reported."""
    require_isolation(client)
    session = client.session("python", limits={"processes": 20})
    code = (
        "import os, time\n"
        "try:\n"
        "    for n in range(60):\n"
        "        if os.fork() == 0: time.sleep(60)\n"
        "except BlockingIOError: print(n < 20)\n"
        "else: time.sleep(60)"
    )
    answer = session.run(code)
    assert answer["stdout"] == "True\n" or answer["cause"] == "more than 20 processes", answer
    session.delete()


def test_workspace(client: Client) -> None:
    """Code that writes more is ended, one file cannot be larger; uploads are refused."""
    require_isolation(client)
    session = client.session("python", limits={"workspace_mb": 4})
    code = (
        "import os\n"
        "try: open('large', 'wb').write(bytes(5 << 20))\n"
        "except OSError as error: print(error)\n"
        "os.unlink('large')"  # at once: with its directory it is more than the workspace may hold
    )
    check(session.run(code), stdout="[Errno 27] File too large\n", exit_code=0)
    put = client.http.put(f"{session.path}/files/a", content=bytes(3 << 20))
    assert put.status_code == 200, put.text
    refused = client.http.put(f"{session.path}/files/b", content=bytes(2 << 20))
    check_error(refused, 413, "QUOTA_EXCEEDED")
    code = "import time; open('b', 'wb').write(bytes(2 << 20)); time.sleep(60)"
    check(session.run(code), exit_code=137, cause="workspace larger than 4 MB")
    session.delete()


def test_temporary_files(client: Client) -> None:
    """/tmp is memory: it holds no more than the session may have."""
    if tier(client) > 2:
        pytest.skip("sessions have no /tmp of their own here")
    session = client.session("python", limits={"memory_mb": 64})
    code = "import os; s = os.statvfs('/tmp'); print(s.f_blocks * s.f_frsize >> 20)"
    check(session.run(code), stdout="64\n")
    session.delete()


def test_kept(start: Start, launcher: Launcher) -> None:
    """They survive the server, killed; where it is started with less, that is what counts."""
    client = start(*SERVER_FLAGS)
    require_isolation(client)
    limits = {"memory_mb": 200}
    session_id = client.session("python", limits=limits).id
    launcher.servers[-1].kill()
    client = start("--session-memory", "100M")
    session = SessionClient(client.http, session_id)
    check(session.get(), limits=limits)
    answer = session.run("bytearray(150 << 20)")
    if client.has_memory_groups:
        check(answer, exit_code=137, cause="out of memory at 100 MB")
    else:
        check(answer, exit_code=1, cause=None)
        assert answer["exception"]["name"] == "MemoryError"


def test_not_by_patch(client: Client) -> None:
    """They are for life: what is sent later is ignored like any unknown field."""
    session = client.session("python", limits={"processes": 50})
    body = json.dumps({"limits": {"processes": 60}})
    changed = client.http.patch(session.path, content=body).json()["metadata"]
    check(changed, limits={"processes": 50})
    session.delete()
