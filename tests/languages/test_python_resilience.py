"""Whatever a run leaves behind, the next one of the session is answered, and right."""

from __future__ import annotations

import time

import pytest

from tests.client import SessionClient
from tests.languages.test_python import Row, check_row, session

__all__ = ["session"]

HANDLER = "import signal, time\ndef h(*a):\n    raise TimeoutError('late')\n"
SET_ALARM = "signal.signal(signal.SIGALRM, h)\nsignal.setitimer(signal.ITIMER_REAL, 0.1)\n"
TAKE_ALL = (
    "files = []\ntry:\n    while True: files.append(open('/dev/null'))\nexcept OSError: pass\n"
)
ECHO = "import os\nos.system('echo child');"

# What every run needs, taken away by the one before.
TAKEN = {
    "no descriptor left": Row((TAKE_ALL, "print('on')"), "on\n"),
    "no descriptor left, and a child": Row((TAKE_ALL, ECHO), "child\n"),
    "no descriptor left, three times": Row((TAKE_ALL, TAKE_ALL, TAKE_ALL, ECHO), "child\n"),
    "descriptors are back": Row((TAKE_ALL, "files.clear()", "print('a')", ECHO), "child\n"),
    "few descriptors": Row(
        (
            "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))",
            "print('a')",
            "print('b')",
        ),
        "b\n",
    ),
    "an error without descriptors": Row(
        (TAKE_ALL, "1 / 0"), stderr="ZeroDivisionError: division by zero", exit_code=1
    ),
    "stdin closed": Row(("import os\nos.close(0)", "print(repr(input.__name__))"), "'input'\n"),
    "stdout and stderr closed": Row(
        ("import os\nos.close(1); os.close(2)", "print('on')\n" + ECHO), "on\nchild\n"
    ),
    "the streams deleted": Row(
        ("import sys\ndel sys.stdout, sys.stderr, sys.stdin", "print('on')"), "on\n"
    ),
    "the streams replaced": Row(
        (
            (
                "import sys\nclass S:\n    def __getattr__(self, name): raise KeyError(name)\n"
                "sys.stdout = sys.stderr = sys.stdin = S()"
            ),
            "print('on')",
        ),
        "on\n",
    ),
    "the directory removed": Row(
        ("import os\nos.mkdir('d'); os.chdir('d'); os.rmdir('../d')", "print('on')"), "on\n"
    ),
    "no recursion": Row(("import sys\nsys.setrecursionlimit(60)", "print('on')"), "on\n"),
    "sys.argv deleted": Row(("import sys\ndel sys.argv", "print(sys.argv)"), "['main.py']\n"),
    "sys.modules cleared": Row(("import sys\nsys.modules.clear()", "print('on')"), "on\n"),
    "odd objects in sys.modules": Row(
        (
            (
                "import sys, types\nclass M:\n    def __getattr__(self, n): raise KeyError(n)\n"
                "class L(types.ModuleType):\n"
                "    def __getattribute__(self, n): raise SystemExit(n)\n"
                "sys.modules['m'], sys.modules['l'] = M(), L('l')\nsys.modules['n'] = None\n"
                "sys.modules[5] = 5"
            ),
            "print('on')",
        ),
        "on\n",
    ),
    "hooks that exit": Row(
        (
            (
                "import sys\ndef hook(*a): sys.exit(3)\n"
                "get_ipython().events.register('pre_run_cell', hook)"
            ),
            "print('on')",
        ),
        "on\n",
        stderr="SystemExit: 3",
    ),
    "hooks that raise": Row(
        (
            (
                "def hook(*a): raise ValueError('h')\n"
                "get_ipython().events.register('post_execute', hook);"
            ),
            "x = 5",
        ),
        None,  # IPython tells on stdout which callback failed
        stderr="ValueError: h",
    ),
    "a displayhook that exits": Row(
        ("import sys\nsys.displayhook = lambda value: sys.exit(4)", "5"), exit_code=4
    ),
    "no displayhook": Row(("import sys\ndel sys.displayhook", "5"), results=("5",)),
    "an excepthook that exits": Row(
        ("import sys\nsys.excepthook = lambda *a: sys.exit(5)", "1 / 0"), exit_code=5
    ),
    "collections that fail": Row(
        (
            "import gc\ndef callback(*a): raise SystemExit(3)\ngc.callbacks.append(callback)",
            "gc.callbacks.clear()\nprint('on')",
        ),
        "on\n",
    ),
}

# Replaced and never restored; functions of the library are in
# tests/kernelspecs/python/test_bound_at_import.py, where it is seen that the kernel calls none.
MOCKS = {
    "__import__": "import builtins\nbuiltins.__import__ = None",
    "len": "import builtins\nbuiltins.len = lambda x: 99",
    "isinstance": "import builtins\nbuiltins.isinstance = lambda *a: False",
    "getattr": "import builtins\ndef f(*a): raise SystemExit(3)\nbuiltins.getattr = f",
    "settrace": "import sys\ndef t(*a): raise ValueError('traced')\nsys.settrace(t)",
    "setprofile": "import sys\nsys.setprofile(lambda *a: 1 / 0)",
    "freezing": (
        "import sys, time\nfor module in list(sys.modules.values()):\n"
        "    for name in dir(module):\n        if getattr(module, name, None) is time.monotonic:\n"
        "            setattr(module, name, lambda: 1.0)"
    ),
}

SIGNALS = {
    "an alarm in the run": Row(
        (HANDLER, SET_ALARM + "time.sleep(5)"), stderr="TimeoutError: late", exit_code=1
    ),
    "an alarm caught": Row(
        (HANDLER, SET_ALARM + "try:\n    time.sleep(5)\nexcept TimeoutError as e:\n    print(e)"),
        "late\n",
    ),
    "an alarm around an await": Row(
        (HANDLER + "import asyncio", SET_ALARM + "await asyncio.sleep(5)"),
        stderr="TimeoutError: late",
        exit_code=1,
    ),
    "an alarm around an await, and the run after it": Row(
        (
            HANDLER + "import asyncio",
            SET_ALARM + "await asyncio.sleep(5)",
            "await asyncio.sleep(0)\nprint('on')",
        ),
        "on\n",
    ),
    "a handler that exits": Row(
        (
            "import os, signal, sys\nsignal.signal(signal.SIGUSR1, lambda *a: sys.exit(6))",
            "os.kill(os.getpid(), signal.SIGUSR1)",
        ),
        exit_code=6,
    ),
    "handlers of earlier runs": Row(
        (
            "import os, signal\nsignal.signal(signal.SIGUSR1, lambda *a: print('got it'));",
            "os.kill(os.getpid(), signal.SIGUSR1)",
        ),
        "got it\n",
    ),
    "a signal blocked in one run and pending in the next": Row(
        (
            "import os, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]);",
            "os.kill(os.getpid(), signal.SIGUSR1)\nprint(signal.sigwait([signal.SIGUSR1]).name)",
        ),
        "SIGUSR1\n",
    ),
    "threads that nobody started": Row(
        (
            (
                "import glob, os\nmasks = [line.split()[1]"
                " for task in glob.glob('/proc/self/task/*') if int(task[16:]) != os.getpid()"
                " for line in open(task + '/status')"
                " if line.startswith('SigBlk')]"
            ),
            "print(len(masks) > 3, {int(mask, 16) >> 9 & 1 for mask in masks})",
        ),
        "True {1}\n",
    ),
    "a handler that is told": Row(
        (
            "import signal\ndef h(*a): pass\nsignal.signal(signal.SIGUSR1, h);",
            "print(signal.getsignal(signal.SIGUSR1) is h)",
        ),
        "True\n",
    ),
}

LOOPS = {
    "the loop closed": Row(
        (
            (
                "import asyncio\nloop = asyncio.get_event_loop()\n"
                "loop.run_until_complete(asyncio.sleep(0))\nloop.close()"
            ),
            "print(asyncio.get_event_loop().run_until_complete(asyncio.sleep(0, 5)))",
        ),
        "5\n",
    ),
    "the loop closed, then awaited": Row(
        (
            "import asyncio\nawait asyncio.sleep(0)\nloop = asyncio.get_event_loop()",
            "loop.close()",
            "await asyncio.sleep(0)\nprint('on')",
        ),
        "on\n",
    ),
    "the executor shut down": Row(
        (
            "import asyncio\nawait asyncio.get_running_loop().shutdown_default_executor()",
            "print(await asyncio.to_thread(lambda: 'thread'))",
        ),
        "thread\n",
    ),
    "the loop stopped": Row(
        ("import asyncio\nasyncio.get_event_loop().stop()", "await asyncio.sleep(0)\nprint('on')"),
        "on\n",
    ),
    "a loop that was set": Row(
        (
            "import asyncio\nloop = asyncio.new_event_loop()\nasyncio.set_event_loop(loop)",
            "print(asyncio.get_event_loop() is loop, await asyncio.sleep(0, 5))",
            "print(asyncio.get_event_loop() is loop)",
        ),
        "True\n",
    ),
    "a task of an earlier run": Row(
        (
            (
                "import asyncio\nasync def f():\n    await asyncio.sleep(0.05)\n    return 5\n"
                "t = asyncio.create_task(f())"
            ),
            "asyncio.run(asyncio.sleep(0))",
            "print(await t)",
        ),
        "5\n",
    ),
    "a task of the run exits": Row(
        (
            "import asyncio, sys\nasync def f(): sys.exit(9)",
            "t = asyncio.create_task(f())\nawait asyncio.sleep(1)\nprint('no')",
        ),
        exit_code=9,
    ),
    "a timer of the run exits": Row(
        (
            "import asyncio, sys",
            (
                "asyncio.get_running_loop().call_later(0.01, sys.exit, 7)\n"
                "await asyncio.sleep(1)\nprint('no')"
            ),
        ),
        exit_code=7,
    ),
    "asyncio emptied": Row(
        (
            "import asyncio\n[setattr(asyncio, n, None) for n in dir(asyncio) if n[0] != '_'];",
            "print('on')",
        ),
        "on\n",
    ),
    "a pool over several runs": Row(
        (
            "from concurrent.futures import ProcessPoolExecutor\npool = ProcessPoolExecutor(1)",
            "pool.submit(abs, -1).result();",
            "print(pool.submit(abs, -2).result())\npool.shutdown()",
        ),
        "2\n",
    ),
    "a task goes on between runs": Row(
        (
            (
                "import asyncio, time\nseen = []\nasync def f():\n    while True:\n"
                "        seen.append(1)\n        await asyncio.sleep(0.01)\n"
                "t = asyncio.create_task(f())"
            ),
            "n = len(seen)",
            "time.sleep(0)",
            "t.cancel();",
            "print(t.done())",
        ),
        None,
    ),
    "a policy of the program's own": Row(
        (
            (
                "import asyncio\nclass P(asyncio.DefaultEventLoopPolicy):\n"
                "    def new_event_loop(self):\n        print('made')\n"
                "        return super().new_event_loop()\n"
                "asyncio.set_event_loop_policy(P())"
            ),
            "await asyncio.sleep(0)\nprint('on')",
        ),
        "made\non\n",
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_taken(session: SessionClient, name: str) -> None:
    """A run is answered although an earlier one took away what it needs."""
    check_row(session, TAKEN[name])


@pytest.mark.parametrize("name", MOCKS)
def test_mocks(session: SessionClient, name: str) -> None:
    """What a program replaced reaches neither its output nor the kernel."""
    session.run("import signal, sys, time")
    session.run(MOCKS[name])
    assert session.run("print('a', flush=True)\nprint('b')")["stdout"] == "a\nb\n"
    answer = session.run("6 * 7")
    assert [r["data"]["text/plain"] for r in answer["results"]] == ["42"]
    answer = session.run("1 / 0")
    assert answer["stderr"].endswith("ZeroDivisionError: division by zero\n")
    assert answer["exit_code"] == 1
    assert answer["state"] == "preserved"


@pytest.mark.parametrize("name", SIGNALS)
def test_signals(session: SessionClient, name: str) -> None:
    """Handlers of the program raise in the program, never in the kernel."""
    check_row(session, SIGNALS[name])


@pytest.mark.parametrize("name", LOOPS)
def test_loops(session: SessionClient, name: str) -> None:
    """The program has a loop of its own, and whatever becomes of it harms no later run."""
    check_row(session, LOOPS[name])


def test_an_alarm_between_runs_is_logged(session: SessionClient) -> None:
    """What a handler raises while nothing runs stands in the session's log."""
    session.run(HANDLER + SET_ALARM)
    time.sleep(0.4)
    assert session.run("print('on')")["stdout"] == "on\n"
    assert session.run("print('on')")["stdout"] == "on\n"
    log = session.http.get(f"{session.path}/log").text
    assert "TimeoutError: late" in log


def test_interrupt_although_sigint_was_blocked(session: SessionClient) -> None:
    """The mask of signals is restored for each run, as the handlers are."""
    session.run("import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32));")
    session.run("signal.signal(signal.SIGINT, signal.SIG_IGN);")
    answer = session.run("import time\ntime.sleep(60)", timeout=0.3)
    assert (answer["exit_code"], answer["state"]) == (124, "preserved")


def test_a_task_that_blocks_is_interrupted(session: SessionClient) -> None:
    """A task of an earlier run that blocks costs the next run its time, not the variables."""
    session.run(
        "import asyncio, time\nx = 5\nasync def f():\n    await asyncio.sleep(0.01)\n"
        "    time.sleep(60)\nt = asyncio.create_task(f())"
    )
    time.sleep(0.2)
    session.run("await asyncio.sleep(60)", timeout=0.3)
    assert session.run("print(x)")["stdout"] == "5\n"


def test_libraries_that_start_loops(session: SessionClient) -> None:
    """anyio, and what asks for the current library, find no loop in a cell."""
    answer = session.run(
        "import anyio\nasync def main():\n    await anyio.sleep(0)\n    return 'done'\n"
        "print(anyio.run(main))"
    )
    if answer["exit_code"] and "No module named" in answer["stderr"]:
        pytest.skip("anyio is not installed")
    assert answer["stdout"] == "done\n"


def test_failed_runs_leave_nothing(session: SessionClient) -> None:
    """Of failed runs only the last one's variables stay, for a debugger."""
    code = "def f():\n    data = bytearray(20_000_000)\n    raise ValueError('x')\nf()"
    for _ in range(5):
        assert session.run(code)["exit_code"] == 1
    count = "import gc\nprint(sum(type(o) is bytearray for f in gc.get_objects()"
    count += " if type(f).__name__ == 'frame' for o in f.f_locals.values()))"
    assert int(session.run(count)["stdout"]) <= 1
    rss = "print(int(open('/proc/self/statm').read().split()[1]) * 4096)"
    assert int(session.run(rss)["stdout"]) < 150_000_000


def test_exec_replaces_the_program(session: SessionClient) -> None:
    """`os.execv` ends the kernel as the new program ends, with all of its output."""
    answer = session.run(
        "import os\nprint('old')\nos.execv('/bin/sh', ['sh', '-c', 'seq 200000; exit 9'])"
    )
    assert (answer["exit_code"], answer["state"], answer["cause"]) == (9, "lost", "exit 9")
    assert answer["stdout"].startswith("old\n1\n2\n")
    execution = f"{session.path}/executions/{answer['execution_id']}/stdout"
    expected = "old\n" + "".join(f"{n}\n" for n in range(1, 200_001))
    assert session.http.get(execution).text == expected


def test_output_of_c_belongs_to_its_run(session: SessionClient) -> None:
    """What `printf` leaves in its buffer is sent at the end of the run, not in a later one."""
    code = "import ctypes\nctypes.CDLL(None).printf(b'from C');"
    assert session.run(code)["stdout"] == "from C"
    assert session.run("print('next')")["stdout"] == "next\n"
