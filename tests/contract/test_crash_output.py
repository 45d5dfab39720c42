"""A kernel that dies in a run: its crash output is the run's stderr, once, before the end."""

from __future__ import annotations

import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import check

SEGFAULT = "import ctypes\ndef inner():\n    ctypes.string_at(0)\ninner()"
FATAL = "Fatal Python error: Segmentation fault\n"


def test_segmentation_fault(session: SessionClient) -> None:
    """The program's own frames, innermost first, and none of the kernel's."""
    answer = session.run(SEGFAULT)
    check(answer, exit_code=139, state="lost", cause="signal 11 (SIGSEGV)")
    stderr = answer["stderr"]
    assert stderr.count(FATAL) == 1
    assert stderr.startswith(FATAL)
    assert 'File "<cell 1>", line 3 in inner\n  File "<cell 1>", line 4 in <module>\n' in stderr
    assert "era_" not in stderr
    assert "asyncio" not in stderr


@pytest.mark.alone  # libzmq must get a processor within milliseconds to write what was printed last
def test_order(session: SessionClient) -> None:
    """All that was printed, then the crash output, then `error`, then `done`."""
    code = f"import sys\nprint('out')\nprint('err', file=sys.stderr)\n{SEGFAULT}"
    events = session.stream(code)
    kinds = [event.event for event in events]
    assert kinds[0] == "stdout"
    assert kinds[-3:] == ["stderr", "error", "done"]
    assert "".join(e.data["content"] for e in events if e.event == "stdout") == "out\n"
    stderr = "".join(e.data["content"] for e in events if e.event == "stderr")
    assert stderr.startswith(f"err\n{FATAL}")
    assert "signal 11 (SIGSEGV)" in events[-2].data["message"]
    replayed = session.http.get(
        f"{session.path}/executions/{events[-1].data['execution_id']}/stderr"
    )
    assert replayed.text == stderr


@pytest.mark.parametrize(
    "own",
    [
        "faulthandler.enable()",
        "faulthandler.enable(all_threads=False)",
        "faulthandler.enable(sys.stderr)",
        "faulthandler.enable(2)",
        "faulthandler.enable(open('dump', 'w'))",
        "faulthandler.disable()",
    ],
)
def test_program_with_a_faulthandler_of_its_own(session: SessionClient, own: str) -> None:
    """It works as in every program, and nothing is printed twice."""
    answer = session.run(f"import faulthandler, sys\n{own}\n{SEGFAULT}")
    check(answer, exit_code=139, cause="signal 11 (SIGSEGV)")
    assert answer["stderr"].count(FATAL) <= 1
    if "dump" in own:
        dump = session.http.get(f"{session.path}/files/dump").text
        assert dump.count(FATAL) == 1
        assert 'File "<cell 1>", line 5 in inner' in dump
    if own == "faulthandler.enable()":
        assert FATAL in answer["stderr"]
    if "d" in own and "disable" in own:
        assert answer["stderr"].startswith("[era] the process was killed by signal 11 (SIGSEGV)")


def test_faulthandler_functions(session: SessionClient) -> None:
    """What else a program does with it is untouched by ours."""
    code = """
import faulthandler, os, signal, sys
faulthandler.register(signal.SIGUSR1, file=open("dump", "w"), all_threads=False)
os.kill(os.getpid(), signal.SIGUSR1)
faulthandler.unregister(signal.SIGUSR1)
faulthandler.dump_traceback(open("other", "w"))
faulthandler.disable()
dump, other = open("dump").read(), open("other").read()
print(faulthandler.is_enabled(), '"<cell 1>", line 4' in dump, len(other) > 50)
faulthandler.enable()
print(faulthandler.is_enabled())
"""
    check(session.run(code), stdout="False True True\nTrue\n", stderr="", exit_code=0)


def test_handlers_of_signals(session: SessionClient) -> None:
    """A program that handles the signals of crashes itself is asked first."""
    code = """
import os, signal
signal.signal(signal.SIGFPE, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGFPE)
"""
    check(session.run(code), stdout="handled\n", stderr="", exit_code=0, state="preserved")


def test_quiet_deaths(session: SessionClient) -> None:
    """A kernel that dies silently has no crash output, also when an earlier kernel had some."""
    assert FATAL in session.run(SEGFAULT)["stderr"]
    for code, cause in (("os._exit(7)", "exit 7"), ("os.kill(os.getpid(), 9)", "signal 9")):
        answer = session.run(f"import os, sys\nprint('x', file=sys.stderr)\n{code}")
        lines = answer["stderr"].splitlines()
        assert [line for line in lines if not line.startswith("[era] ")] == ["x"]
        assert len(lines) == (1 if cause == "exit 7" else 2)
        assert answer["cause"].startswith(cause)


def test_deep_stack(session: SessionClient) -> None:
    """Crash output is bounded, however deep the program was."""
    code = "import ctypes\ndef f(n):\n    ctypes.string_at(0) if n == 0 else f(n - 1)\nf(800)"
    stderr = session.run(code)["stderr"].partition("[era] ")[0]
    assert FATAL in stderr
    assert stderr.count("in f\n") > 50
    assert len(stderr) <= 8192


def test_execute(client: Client) -> None:
    """Crash output is in the answer of `execute`, too."""
    answer = client.http.post("/api/execute", json={"language": "python", "code": SEGFAULT}).json()
    check(answer, exit_code=139)
    assert answer["stderr"].startswith(FATAL)


def test_no_entry_in_the_log(session: SessionClient) -> None:
    """Output in a run's answer is not in the log."""
    session.run(SEGFAULT)
    session.run("pass")
    assert session.http.get(f"{session.path}/log").json()["entries"] == []
