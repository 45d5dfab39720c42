"""The languages that `era-kernels install` installs: a few rows of each, with the real kernels.

These are stock kernels; what else does not hold for them is in the table of `docs/languages.md`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from era_kernels.kernels.kernelspecs import builtin_dir
from tests.client import Client, SessionClient


@dataclass(frozen=True)
class SmokePrograms:
    """Programs of one language, each of them short."""

    language: str
    selftest: str  # below the folder of kernelspecs
    set_state: str  # a variable of 41
    use_state: str  # prints it and 1
    fail: str  # an uncaught error "boom"
    busy_loop: str
    exit_with_3: str
    tool: tuple[str, ...]  # a program that sessions find, and its arguments
    interrupt_keeps_state: bool  # of a busy loop
    exit_keeps_state: bool = False


NODE = SmokePrograms(
    language="node",
    selftest="node/selftest.js",
    set_state="let x = 41",
    use_state="console.log(x + 1)",
    fail="throw new Error('boom')",
    busy_loop="while (true) {}",
    exit_with_3="process.exit(3)",
    tool=("npm", "--version"),
    interrupt_keeps_state=True,
    exit_keeps_state=True,
)
TYPESCRIPT = SmokePrograms(
    language="typescript",
    selftest="typescript/selftest.ts",
    set_state="let x: number = 41",
    use_state=NODE.use_state,
    fail=NODE.fail,
    busy_loop=NODE.busy_loop,
    exit_with_3=NODE.exit_with_3,
    tool=("node", "--version"),
    interrupt_keeps_state=True,
    exit_keeps_state=True,
)
DENO = SmokePrograms(
    language="deno",
    selftest="deno/selftest.ts",
    set_state=TYPESCRIPT.set_state,
    use_state=NODE.use_state,
    fail=NODE.fail,
    busy_loop=NODE.busy_loop,
    exit_with_3="Deno.exit(3)",
    tool=("deno", "--version"),
    interrupt_keeps_state=True,
)
GO = SmokePrograms(
    language="go",
    selftest="gophernotes/selftest.go",
    set_state="x := 41",
    use_state='import "fmt"\nfmt.Println(x + 1)',
    fail='panic("boom")',
    busy_loop="for {}",
    exit_with_3='import "os"\nos.Exit(3)',
    tool=("go", "version"),
    interrupt_keeps_state=False,
)


@pytest.fixture(
    params=[NODE, TYPESCRIPT, DENO, GO], ids=lambda programs: programs.language, scope="module"
)
def programs(request: pytest.FixtureRequest, client: Client) -> SmokePrograms:
    chosen: SmokePrograms = request.param
    languages = client.http.get("/api/languages").json()["languages"]
    language = next(one for one in languages if one["name"] == chosen.language)
    if not language["available"]:
        pytest.skip(f"{chosen.language}: {language['reason']}")
    return chosen


@pytest.fixture
def session(client: Client, programs: SmokePrograms) -> Iterator[SessionClient]:
    session = client.session(programs.language)
    yield session
    session.delete()


def check(answer: dict, **expected: object) -> None:
    """Compares the fields named, showing the whole answer when one differs."""
    assert {name: answer[name] for name in expected} == expected, answer


def test_selftest(session: SessionClient, programs: SmokePrograms) -> None:
    """The kernelspec's own selftest prints its known answer, and prints it again."""
    code = (builtin_dir() / programs.selftest).read_text()
    for _ in range(2):
        check(session.run(code), stdout="selftest 42 ☃\n", stderr="", exit_code=0)


def test_state_and_failure(session: SessionClient, programs: SmokePrograms) -> None:
    """An uncaught error is told on stderr, and the next run finds the variables of earlier ones."""
    check(session.run(programs.set_state), exit_code=0, started_from="fresh")
    failed = session.run(programs.fail)
    check(failed, stdout="", exit_code=1, state="preserved")
    assert "boom" in failed["stderr"]
    assert "\x1b" not in failed["stderr"]
    check(session.run(programs.use_state), stdout="42\n", exit_code=0, started_from="live")


def test_timeout(session: SessionClient, programs: SmokePrograms) -> None:
    """A loop that never ends is ended at its time, and the next run works; the state is told."""
    session.run(programs.set_state)
    state = "preserved" if programs.interrupt_keeps_state else "lost"
    check(session.run(programs.busy_loop, timeout_ms=1000), exit_code=124, state=state)
    if programs.interrupt_keeps_state:
        check(session.run(programs.use_state), stdout="42\n", exit_code=0)
    else:
        check(session.run(programs.set_state), exit_code=0, started_from="fresh")


def test_interrupt(session: SessionClient, programs: SmokePrograms) -> None:
    """A loop that never ends is ended by an interrupt."""
    session.run(programs.set_state)
    answers = []
    run = threading.Thread(target=lambda: answers.append(session.run(programs.busy_loop)))
    run.start()
    time.sleep(0.5)
    execution = session.http.get(f"{session.path}/executions").json()["executions"][-1]
    path = f"{session.path}/executions/{execution['execution_id']}/interrupt"
    session.http.post(path).raise_for_status()
    run.join(30)
    state = "preserved" if programs.interrupt_keeps_state else "lost"
    check(answers[0], exit_code=130, state=state)


def test_exit_code(session: SessionClient, programs: SmokePrograms) -> None:
    """A program's exit code is told, and the next run works; a stock kernel's state is lost."""
    state = "preserved" if programs.exit_keeps_state else "lost"
    check(session.run(programs.exit_with_3), exit_code=3, state=state)
    started_from = "live" if programs.exit_keeps_state else "fresh"
    check(session.run(programs.set_state), exit_code=0, started_from=started_from)


def test_tool(session: SessionClient, programs: SmokePrograms) -> None:
    """The language's tools are found by programs beside the kernel, and those of the system."""
    answer = session.http.post(f"{session.path}/exec", json={"argv": programs.tool}).json()
    check(answer, exit_code=0)
    assert any(character.isdigit() for character in answer["stdout"])
    answer = session.http.post(f"{session.path}/exec", json={"command": "echo $((6 * 7))"}).json()
    check(answer, exit_code=0, stdout="42\n")


def test_no_file_is_made(session: SessionClient, programs: SmokePrograms) -> None:
    """A kernel and its tools leave nothing in the workspace: caches lie elsewhere."""
    session.run((builtin_dir() / programs.selftest).read_text())
    session.http.post(f"{session.path}/exec", json={"argv": programs.tool}).raise_for_status()
    assert session.get()["file_count"] == 0
