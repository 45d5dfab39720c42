"""The stock ipykernel of another environment, whose kernelspec has only Jupyter's own keys."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client import Client, SessionClient
from tests.languages.stock_kernels import add_kernelspec, make_environment
from tests.server_process import UNSANDBOXED_FLAGS, temporary_launcher
from tests.waiting import wait_until

# Flags of the server, and how its kernels are interrupted.
SERVERS = {
    "tier 1, by signal": ((), "signal"),
    "tier 4, by message": (UNSANDBOXED_FLAGS, "message"),
}


@pytest.fixture(scope="module")
def environment() -> Iterator[Path]:
    """A virtual environment of its own, where sessions of any uid may look into it."""
    with tempfile.TemporaryDirectory(prefix="era-test-") as directory:
        root = Path(directory)
        root.chmod(0o755)
        yield make_environment(root / "env")


@pytest.fixture(scope="module", params=SERVERS)
def client(request: pytest.FixtureRequest, environment: Path) -> Iterator[Client]:
    """A client of a server that knows the environment by Jupyter's data directory."""
    flags, interrupt_mode = SERVERS[request.param]
    data = add_kernelspec(environment, language="Other Python", interrupt_mode=interrupt_mode)
    with temporary_launcher() as launcher:
        server = launcher.start(*flags, "--kernelspec-dirs", str(data))
        client = Client(server.base_url)
        yield client
        client.close()


@pytest.fixture(scope="module")
def session(client: Client) -> Iterator[SessionClient]:
    """One session for all tests, since the kernel takes long to start; the last test ends it."""
    session = client.session("Other Python")
    yield session
    session.delete()


def test_it_runs_in_its_own_environment(session: SessionClient, environment: Path) -> None:
    """The interpreter and its tools are those of the environment, though they are named bare."""
    answer = session.run("import sys, shutil; print(sys.prefix, shutil.which('python'))")
    assert answer["stdout"].split() == [str(environment), str(environment / "bin" / "python")]
    assert (answer["exit_code"], answer["stderr"]) == (0, "")
    assert answer["files_modified"] == 0


def test_state_streams_and_results(session: SessionClient) -> None:
    """Variables stay, streams are apart, a result is one and children are heard."""
    session.run("x = 41")
    code = """
import os, sys, time
print(x + 1); print("problem", file=sys.stderr); sys.stdout.flush()
os.system("echo from a child")
time.sleep(0.3)  # this kernel reads what children write by and by
x + 2
"""
    answer = session.run(code)
    assert answer["stdout"].split("\n") == ["42", "from a child", ""]
    assert answer["stderr"] == "problem\n"
    assert answer["results"][0]["data"] == {"text/plain": "43"}


def test_error_and_next_run(session: SessionClient) -> None:
    """An error is an exit code, an exception and a text without colours; the state stays."""
    session.run("x = 41")
    answer = session.run("1/0")
    assert (answer["exit_code"], answer["state"]) == (1, "preserved")
    assert answer["exception"]["name"] == "ZeroDivisionError"
    assert answer["stderr"].count("ZeroDivisionError: division by zero") == 1
    assert "\x1b" not in answer["stderr"] + "".join(answer["exception"]["traceback"])
    assert session.run("print(x)")["stdout"] == "41\n"


def test_many_lines(session: SessionClient) -> None:
    """Ten megabytes arrive whole before the run has ended."""
    answer = session.run("for n in range(100_000): print(f'{n:08d}' + '.' * 91)")
    path = f"{session.path}/executions/{answer['execution_id']}/stdout"
    expected = "".join(f"{n:08d}{'.' * 91}\n" for n in range(100_000))
    assert session.http.get(path).text == expected


def test_input_finds_no_one(session: SessionClient) -> None:
    """A program that asks for input gets an error at once, and does not hang."""
    answer = session.run("input('name?')", timeout=10)
    assert (answer["exit_code"], answer["exception"]["name"]) == (1, "StdinNotImplementedError")


@pytest.mark.parametrize(
    "code",
    ["import time; time.sleep(60)", "await __import__('asyncio').sleep(60)"],
)
def test_timeout(session: SessionClient, code: str) -> None:
    """A run past its deadline ends with 124, and its session works on."""
    session.run("x = 41")
    answer = session.run(code, timeout=1)
    assert answer["exit_code"] == 124
    answer = session.run("print(x)") if answer["state"] == "preserved" else session.run("print(41)")
    assert answer["stdout"] == "41\n"


def test_interrupt(session: SessionClient) -> None:
    """An interrupt ends the run with 130 and keeps the variables."""
    session.run("x = 41")
    code = "print('on', flush=True)\nwhile True: pass"
    with session.open_stream(code) as events:
        for event in events:
            if event.event == "stdout":
                time.sleep(0.3)
                listed = session.http.get(f"{session.path}/executions").json()["executions"]
                (running,) = [one["execution_id"] for one in listed if one["status"] == "running"]
                path = f"{session.path}/executions/{running}/interrupt"
                session.http.post(path).raise_for_status()
            last = event
    assert (last.data["exit_code"], last.data["state"]) == (130, "preserved")
    assert session.run("print(x)")["stdout"] == "41\n"


def test_late_output_is_in_no_other_run(session: SessionClient) -> None:
    """Output that comes after its run, and carries that run's id, goes to the session's log."""
    code = """
import asyncio
async def tell_later():
    await asyncio.sleep(0.5)
    print("late")
task = asyncio.ensure_future(tell_later())
"""
    session.run(code)
    assert session.run("await asyncio.sleep(1); print('own')")["stdout"] == "own\n"
    assert "late" in session.http.get(f"{session.path}/log").text


def test_output_between_runs_is_late(session: SessionClient) -> None:
    """Whatever comes while no run is under way goes to the session's log."""
    session.run("import threading; threading.Timer(0.3, print, ['between']).start()")
    assert wait_until(lambda: "between" in session.http.get(f"{session.path}/log").text)


def test_death_is_told(session: SessionClient) -> None:
    """A kernel that ends in a run is told as such, and the next run starts another."""
    answer = session.run("import os; os._exit(7)")
    assert (answer["exit_code"], answer["state"], answer["cause"]) == (7, "lost", "exit 7")
    assert session.run("print('again')")["stdout"] == "again\n"
