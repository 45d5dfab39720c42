"""`kernel` at the creation of a session, where a language has more than one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import Start, check, check_error
from tests.kernels.test_kernelspecs import add_kernelspec as add_own_kernelspec
from tests.kernels.test_kernelspecs import add_program, add_stock_kernelspec
from tests.languages.stock_kernels import add_kernelspec, make_environment
from tests.server_process import Launcher, temporary_launcher
from tests.waiting import wait_until

PREFIX = "import sys; print(sys.prefix)"


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """Another environment with a stock kernel, and kernels that lack their program."""
    with tempfile.TemporaryDirectory(prefix="era-test-") as directory:
        root = Path(directory)
        root.chmod(0o755)
        kernels = add_kernelspec(make_environment(root / "env")) / "kernels"
        add_stock_kernelspec(kernels, "absent", language="python", argv=["no-such-program-1"])
        add_stock_kernelspec(kernels, "broken", language="python", argv=[])
        argv = [str(root / "env" / "bin" / "later"), "{connection_file}"]
        add_stock_kernelspec(kernels, "later", language="Later", argv=argv)
        era = {"minimums": {"memory_mb": 500}}
        add_own_kernelspec(root / "own", "large", language="python", era=era)
        yield root


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[Client]:
    """A client of a server that knows them."""
    with temporary_launcher() as launcher:
        server = launcher.start("--kernelspec-dirs", f"{root / 'env/share/jupyter'},{root / 'own'}")
        client = Client(server.base_url)
        yield client
        client.close()
        # A mistake in Jupyter's directory stops no start, and is told.
        assert "broken/kernel.json" in server.log_text


@pytest.fixture
def session(client: Client) -> Iterator[SessionClient]:
    session = client.session("python", kernel="python3")
    yield session
    session.delete()


def create(client: Client, **body: Any) -> httpx.Response:
    return client.http.post("/api/sessions", json={"language": "python", **body})


def test_the_chosen_kernel_runs(session: SessionClient, root: Path) -> None:
    """A session has the kernel that was named at its creation, also after a restart of it."""
    assert session.run(PREFIX)["stdout"] == f"{root / 'env'}\n"
    session.http.post(f"{session.path}/restart").raise_for_status()
    assert session.run(PREFIX)["stdout"] == f"{root / 'env'}\n"


def test_the_default_stays(client: Client, root: Path) -> None:
    """Without `kernel` a session has the kernel that is named like its language."""
    session = client.session("python")
    assert "kernel" not in session.get()
    assert session.run(PREFIX)["stdout"] != f"{root / 'env'}\n"
    session.delete()


def test_it_is_shown(client: Client, session: SessionClient) -> None:
    """The session shows `kernel` wherever sessions are shown."""
    check(session.get(), kernel="python3", language="python")
    listed = client.http.get("/api/sessions").json()["sessions"]
    assert [one["kernel"] for one in listed if one["id"] == session.id] == ["python3"]
    changed = session.http.patch(session.path, json={"metadata": {"a": 1}}).json()["metadata"]
    check(changed, kernel="python3")


@pytest.mark.parametrize("name", ["PYTHON3", "Python3"])
def test_name_in_any_case(client: Client, name: str) -> None:
    """A kernel is found in any case, and shown under its own name."""
    check(create(client, kernel=name, id="any-case").json(), kernel="python3")
    client.http.delete("/api/sessions/any-case")


@pytest.mark.parametrize("kernel", ["nothing", "", "broken", "lingo", "../python3"])
def test_unknown_kernel(client: Client, kernel: str) -> None:
    """An unknown kernel is 400, which names the known ones."""
    shown = check_error(create(client, kernel=kernel), 400, "INVALID_REQUEST")
    assert shown["details"][0]["field"] == "kernel"
    for known in ("python", "python3", "absent", "large"):
        assert known in shown["message"]


@pytest.mark.parametrize("kernel", [1, ["python3"], {}])
def test_kernel_that_is_no_text(client: Client, kernel: object) -> None:
    """A kernel is a text or null."""
    check_error(create(client, kernel=kernel), 400, "INVALID_REQUEST")


def test_null_is_the_default(client: Client) -> None:
    """Null is as if it was not given."""
    shown = create(client, kernel=None, id="null")
    assert shown.status_code == 201
    assert "kernel" not in shown.json()
    client.http.delete("/api/sessions/null")


def test_unavailable_kernel(client: Client) -> None:
    """A kernel that is not installed is 503 at the first run, saying what is missing."""
    session = client.session("python", kernel="absent")
    answer = client.http.post(f"{session.path}/run", json={"code": ""})
    shown = check_error(answer, 503, "LANGUAGE_UNAVAILABLE")
    assert "no-such-program-1" in shown["message"]
    session.delete()


def test_duplicate_keeps_it(session: SessionClient, root: Path) -> None:
    """A duplicate has the kernel of its source."""
    shown = session.http.post(f"{session.path}/duplicate", json={}).json()
    check(shown, kernel="python3")
    copy = SessionClient(session.http, shown["id"])
    assert copy.run(PREFIX)["stdout"] == f"{root / 'env'}\n"
    copy.delete()


def test_sessions_outlive_the_server(start: Start, launcher: Launcher, root: Path) -> None:
    """The kernel is stored; one that the operator takes away is 503, and the session is there."""
    flags = ("--kernelspec-dirs", str(root / "env" / "share" / "jupyter"))
    start(*flags).session("python", kernel="python3", id="kept")
    launcher.servers[-1].stop()
    kept = SessionClient(start(*flags).http, "kept")
    check(kept.get(), kernel="python3")
    assert kept.run(PREFIX)["stdout"] == f"{root / 'env'}\n"
    launcher.servers[-1].stop()
    kept = SessionClient(start().http, "kept")
    check(kept.get(), kernel="python3")
    answer = kept.http.post(f"{kept.path}/run", json={"code": ""})
    assert "python3" in check_error(answer, 503, "LANGUAGE_UNAVAILABLE")["message"]


# ---------------------------------------------------------------- what the kernel can do


def test_env_of_a_run(session: SessionClient) -> None:
    """A kernel without a fence takes no variables for one run; a program beside it does."""
    body = {"code": "", "env": {"FLAVOUR": "lemon"}}
    for call in ("run", "stream"):
        answer = session.http.post(f"{session.path}/{call}", json=body)
        shown = check_error(answer, 400, "INVALID_REQUEST")
        assert shown["details"][0]["field"] == "env"
    assert session.run("print(1)", env={})["stdout"] == "1\n"
    argv = ["sh", "-c", "echo $FLAVOUR; command -v python"]
    answer = session.http.post(f"{session.path}/exec", json={"argv": argv, "env": body["env"]})
    assert answer.json()["stdout"].startswith("lemon\n")


def test_session_variables_are_there(session: SessionClient) -> None:
    """What every session has in its environment, the stock kernel has, too."""
    code = "import os; print(os.environ['ERA_SESSION_ID'], os.environ['HOME'] == os.getcwd())"
    assert session.run(code)["stdout"] == f"{session.id} True\n"


@pytest.mark.parametrize("capability", ["variables", "stack"])
def test_capabilities_are_those_of_the_kernel(session: SessionClient, capability: str) -> None:
    """What the default kernel can tell, the chosen one may not."""
    if capability == "variables":
        check_error(session.http.get(f"{session.path}/variables"), 409, "NOT_SUPPORTED")
        return
    with session.open_stream("import time; print('on', flush=True); time.sleep(60)") as events:
        assert any(event.event == "stdout" for event in events)
        (run,) = [one["execution_id"] for one in session.executions() if one["status"] == "running"]
        path = f"{session.path}/executions/{run}"
        check_error(session.http.get(f"{path}/stack"), 409, "NOT_SUPPORTED")
        session.http.post(f"{path}/interrupt").raise_for_status()


def test_limits_go_by_the_kernel(client: Client) -> None:
    """A limit may not be below what the chosen kernel needs."""
    limits = {"memory_mb": 256}
    answer = create(client, kernel="large", limits=limits)
    assert "at least 500" in check_error(answer, 400, "INVALID_REQUEST")["message"]
    answer = create(client, kernel="python3", limits=limits)
    check(answer.json(), limits=limits)
    client.http.delete(f"/api/sessions/{answer.json()['id']}")


# ---------------------------------------------------------------- what the server tells


def test_list_of_languages(client: Client) -> None:
    """The kernels of a language are listed by name, and each with what it can do."""
    languages = {one["name"]: one for one in client.http.get("/api/languages").json()["languages"]}
    python = languages["python"]
    assert python["kernels"] == ["python", "absent", "python3", "large"]
    details = {one["name"]: one for one in python["kernel_details"]}
    assert list(details) == python["kernels"]
    own, stock, absent = details["python"], details["python3"], details["absent"]
    assert (own["fence"], stock["fence"]) == (True, False)
    assert own["capabilities"] == python["capabilities"]
    assert stock["capabilities"] == ["interrupt", "rich_output", "state"]
    assert stock["display_name"] == "Python 3 (ipykernel)"
    assert (stock["available"], absent["available"]) == (True, False)
    assert "no-such-program-1" in absent["reason"]
    assert "reason" not in stock
    assert languages["later"]["aliases"] == ["Later"]


def test_what_is_installed_later(client: Client, root: Path) -> None:
    """What is installed while the server runs is seen by it, without a restart."""
    assert client.http.get("/health").json()["languages"]["later"] is False
    session = client.session("Later")
    answer = client.http.post(f"{session.path}/run", json={"code": ""})
    check_error(answer, 503, "LANGUAGE_UNAVAILABLE")
    program = add_program(root / "env" / "bin", "later")
    program.write_text(f'#!/bin/sh\nexec {root}/env/bin/python -m ipykernel_launcher -f "$1"\n')
    assert wait_until(lambda: client.http.get("/health").json()["languages"]["later"])
    assert session.run("print(6 * 7)")["stdout"] == "42\n"
    session.delete()
