"""The languages that `era-kernels install` installs: what the conformance table does not show."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from era_kernels.kernels.kernelspecs import builtin_dir
from tests.client import Client, SessionClient
from tests.languages.kernel_programs import KernelPrograms
from tests.languages.programs import deno, go, gophernotes, node, typescript
from tests.languages.rows.table_rows import check
from tests.waiting import wait_until


@dataclass(frozen=True)
class Installed:
    """A language's own parts beside its column of the table."""

    programs: KernelPrograms
    selftest: str  # below the folder of kernelspecs
    tool: tuple[str, ...]  # a program that sessions find, and its arguments
    interrupt_keeps_state: bool = True  # of a busy loop
    failure_code: int = 1


INSTALLED = [
    Installed(node.PROGRAMS, "node/selftest.js", ("npm", "--version")),
    Installed(typescript.PROGRAMS, "typescript/selftest.ts", ("node", "--version")),
    Installed(deno.PROGRAMS, "deno/selftest.ts", ("deno", "--version")),
    Installed(go.PROGRAMS, "go/selftest.go", ("go", "version"), failure_code=2),
    Installed(gophernotes.PROGRAMS, "gophernotes/selftest.go", ("go", "version"), False),
]


@pytest.fixture(params=INSTALLED, ids=lambda one: one.programs.column, scope="module")
def installed(request: pytest.FixtureRequest, client: Client) -> Installed:
    chosen: Installed = request.param
    languages = client.http.get("/api/languages").json()["languages"]
    language = next(one for one in languages if one["name"] == chosen.programs.language)
    if not language["available"]:
        pytest.skip(f"{language['name']}: {language['reason']}")
    return chosen


@pytest.fixture(scope="module")
def session(client: Client, installed: Installed) -> Iterator[SessionClient]:
    """One session of each language: the last test may end its kernel."""
    programs = installed.programs
    body = {} if programs.kernel is None else {"kernel": programs.kernel}
    session = client.session(programs.language, **body)
    yield session
    session.delete()


def test_selftest(session: SessionClient, installed: Installed) -> None:
    """The kernelspec's own selftest prints its known answer, and prints it again."""
    code = (builtin_dir() / installed.selftest).read_text()
    for _ in range(2):
        check(session.run(code), stdout="selftest 42 ☃\n", stderr="", exit_code=0)


def test_failure(session: SessionClient, installed: Installed) -> None:
    """An uncaught error is told on stderr without colours, and the state stays."""
    programs = installed.programs
    session.run(programs.set_state or "")
    failed = session.run(programs.fail or "")
    check(failed, stdout="", exit_code=installed.failure_code, state="preserved")
    assert "boom" in failed["stderr"]
    assert "\x1b" not in failed["stderr"]
    check(session.run(programs.use_state or ""), stdout="42\n", started_from="live")


def test_tool(session: SessionClient, installed: Installed) -> None:
    """The language's tools are found by programs beside the kernel, and those of the system."""
    path = f"{session.path}/exec"
    answer = session.http.post(path, json={"argv": installed.tool}).json()
    check(answer, exit_code=0)
    assert any(character.isdigit() for character in answer["stdout"])
    answer = session.http.post(path, json={"command": "echo $((6 * 7))"}).json()
    check(answer, exit_code=0, stdout="42\n")


def test_no_file_is_made(session: SessionClient, installed: Installed) -> None:
    """A kernel and its tools leave nothing in the workspace: caches lie elsewhere."""
    session.run((builtin_dir() / installed.selftest).read_text())
    session.http.post(f"{session.path}/exec", json={"argv": installed.tool}).raise_for_status()
    assert session.get()["file_count"] == 0


def test_interrupt(session: SessionClient, installed: Installed) -> None:
    """A loop that never ends is ended by an interrupt, whatever the kernel claims."""
    code = f"{installed.programs.write_file}\n{installed.programs.busy_loop}"
    session.run(installed.programs.set_state or "")
    answers = []
    run = threading.Thread(target=lambda: answers.append(session.run(code)))
    run.start()
    assert wait_until(lambda: session.http.get(f"{session.path}/files").json()["total_count"] > 0)
    listed = session.http.get(f"{session.path}/executions").json()["executions"]
    path = f"{session.path}/executions/{listed[-1]['execution_id']}/interrupt"
    session.http.post(path).raise_for_status()
    run.join(30)
    state = "preserved" if installed.interrupt_keeps_state else "lost"
    check(answers[0], exit_code=130, state=state)
