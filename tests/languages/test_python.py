"""What Python programs must do in a session, beside the rows that every language has.

That they do what `python main.py` does is compared program by program in
`tests/kernelspecs/python/test_plain_python.py`; here is what only a session has.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from era_kernels.kernels.kernelspecs import builtin_dir
from tests.client import Client, SessionClient


@dataclass(frozen=True)
class Row:
    """Cells that are run one after the other, and what the answer to the last one holds."""

    cells: tuple[str, ...]
    stdout: str | None = ""  # None: whatever it is
    stderr: str = ""  # the last line of it
    exit_code: int = 0
    results: tuple[str, ...] = ()  # their text


ASYNC_F = "import asyncio\nasync def f(x):\n    await asyncio.sleep(0.01)\n    return x\n"

ROWS = {
    # asyncio
    "asyncio.run twice": Row(
        (ASYNC_F + "print(asyncio.run(f(1)))", "print(asyncio.run(f(2)), asyncio.run(f(3)))"),
        "2 3\n",
    ),
    "run_until_complete of the loop that is there": Row(
        (
            ASYNC_F + "loop = asyncio.get_event_loop()\n"
            "tasks = [loop.create_task(f(n)) for n in range(3)]\n"
            "print(loop.run_until_complete(asyncio.gather(*tasks)))",
        ),
        "[0, 1, 2]\n",
    ),
    "top-level await": Row((ASYNC_F, "print(await f(1))\nawait f(2)"), "1\n", results=("2",)),
    "top-level async with and for": Row(
        (
            (
                "import asyncio\nasync def g():\n    yield 1\n"
                "async with asyncio.timeout(1):\n    async for x in g():\n        print(x)"
            ),
        ),
        "1\n",
    ),
    "asyncio.run beside a top-level await": Row(
        (ASYNC_F + "await f(0)\nprint(asyncio.run(f(1)))\nprint(await f(2))",), "1\n2\n"
    ),
    "a task that finishes later": Row(
        (ASYNC_F + "task = asyncio.create_task(f(5))", "import time", "print(await task)"), "5\n"
    ),
    "a task that exits": Row(
        ("import asyncio, sys\nasync def f():\n    sys.exit(3)\nawait asyncio.create_task(f())",),
        exit_code=3,
    ),
    "a task that exits behind the program's back": Row(
        (
            "import asyncio, sys\nasync def f():\n    sys.exit(3)\nt = asyncio.create_task(f())",
            "await asyncio.sleep(0.05)\nprint('on')",
        ),
        "on\n",
    ),
    "all tasks cancelled": Row(
        ("import asyncio\nfor task in asyncio.all_tasks():\n    task.cancel()", "print('on')"),
        "on\n",
    ),
    "the loop stopped": Row(
        ("import asyncio\nasyncio.get_running_loop().stop()", "print('on')"), "on\n"
    ),
    "a context variable lives on": Row(
        (
            "import asyncio, contextvars\nv = contextvars.ContextVar('v')\nv.set(1);",
            "await asyncio.sleep(0)\nv.set(v.get() + 1);",
            "print(v.get())",
        ),
        "2\n",
    ),
    # ends
    "exit()": Row(("exit()\nprint('no')",)),
    "quit()": Row(("quit()\nprint('no')",)),
    "after an exit": Row(("x = 1\nexit()", "print(x)"), "1\n"),
    "KeyboardInterrupt": Row(
        ("raise KeyboardInterrupt",), stderr="KeyboardInterrupt", exit_code=130
    ),
    # processes
    "fork": Row(
        (
            (
                "import os\npid = os.fork()\nif pid == 0:\n    print('child')\nelse:\n"
                "    os.waitpid(pid, 0)\n    print('parent')"
            ),
            "print(os.getpid() != pid)",
        ),
        "True\n",
    ),
    "subprocess(stdout=sys.stdout)": Row(
        ("import subprocess, sys\nsubprocess.run(['echo', 'child'], stdout=sys.stdout);",),
        "child\n",
    ),
    # errors
    "repr raises": Row(
        ("class A:\n    def __repr__(self):\n        raise ValueError('v')\nA()",),
        stderr="ValueError: v",
        exit_code=1,
    ),
    "a function of an earlier run fails": Row(
        ("def f():\n    return 1 / 0", "f()"),
        stderr="ZeroDivisionError: division by zero",
        exit_code=1,
    ),
    # streams
    "sys.stdout.buffer": Row(("import sys\nsys.stdout.buffer.write(b'x\\n');",), "x\n"),
    "sys.stdout.fileno()": Row(("import os, sys\nos.write(sys.stdout.fileno(), b'x\\n');",), "x\n"),
    "sys.stdout = None": Row(("import sys\nsys.stdout = None", "print('on')"), "on\n"),
    "sys.stdout closed": Row(("import sys\nsys.stdout.close()", "print('on')"), "on\n"),
    "descriptor 1 closed": Row(
        ("import os\nos.close(1)", "import os\nos.system('echo on');"), "on\n"
    ),
    "sys.stdin closed": Row(("exit()", "import sys\nprint(repr(sys.stdin.read()))"), "''\n"),
    "a handler of an earlier run logs": Row(
        ("import logging\nlogging.basicConfig()", "logging.warning('w')"), stderr="WARNING:root:w"
    ),
    # the program
    "argparse": Row(
        ("import argparse\nprint(argparse.ArgumentParser().parse_args())",), "Namespace()\n"
    ),
    "argv": Row(("import sys\nprint(sys.argv)",), "['main.py']\n"),
    "no __file__": Row(
        ("__file__",), stderr="NameError: name '__file__' is not defined", exit_code=1
    ),
    "input()": Row(
        ("input('name? ')",), "name? ", stderr="EOFError: EOF when reading a line", exit_code=1
    ),
    "nothing of ours": Row(
        (
            (
                "import sys\nprint([n for n in globals() if n[:2] != '__'], '' in sys.path,\n"
                "      any('kernelspecs' in p and p[-4:] != '/sdk' for p in sys.path),\n"
                "      {'debugpy', 'jedi'} & set(sys.modules))"
            ),
        ),
        "['sys'] True False set()\n",
    ),
    "future import lives on": Row(
        ("from __future__ import annotations", "def f(x: Missing): pass\nprint('on')"), "on\n"
    ),
    # IPython
    "a semicolon hides the result": Row(("6 * 7;",)),
    "a comment hides nothing": Row(("6 * 7  # ;",), results=("42",)),
    "None is no result": Row(("None",)),
    "magic": Row(("%time x = 6 * 7", "print(x)"), "42\n"),
    "no such magic": Row(
        ("%nosuch",), stderr="UsageError: Line magic function `%nosuch` not found.", exit_code=1
    ),
    "shell escape": Row(("print('a')\n!echo b\nprint('c')",), "a\nb\nc\n"),
    "display": Row(("display(42)",), results=("42",)),
    "get_ipython().run_cell": Row(("get_ipython().run_cell('print(1)');", "print(2)"), "2\n"),
}


@pytest.fixture
def session(client: Client) -> Iterator[SessionClient]:
    session = client.session("python")
    yield session
    session.delete()


@pytest.mark.parametrize("name", ROWS)
def test_row(session: SessionClient, name: str) -> None:
    """The last of the row's cells answers what the row says."""
    check_row(session, ROWS[name])


def check_row(session: SessionClient, row: Row) -> None:
    """Runs the cells of a row, and compares the last one's answer."""
    *before, last = row.cells
    for cell in before:
        session.run(cell)
    answer = session.run(last)
    found = {
        "stdout": answer["stdout"] if row.stdout is not None else None,
        "stderr": (answer["stderr"].rstrip("\n").splitlines() or [""])[-1],
        "exit_code": answer["exit_code"],
        "results": tuple(result["data"]["text/plain"] for result in answer["results"]),
        "state": answer["state"],
    }
    assert found == {
        "stdout": row.stdout,
        "stderr": row.stderr,
        "exit_code": row.exit_code,
        "results": row.results,
        "state": "preserved",
    }, answer


# ---------------------------------------------------------------- ends


def test_os_exit(session: SessionClient) -> None:
    """os._exit ends the kernel with its code, and what was printed before is there."""
    answer = session.run("print('before')\nimport os\nos._exit(7)")
    assert (answer["stdout"], answer["exit_code"], answer["state"]) == ("before\n", 7, "lost")
    assert answer["cause"] == "exit 7"
    assert session.run("print(1)")["stdout"] == "1\n"


@pytest.mark.parametrize(
    "waiting",
    ["import time\ntime.sleep(60)", "import asyncio\nawait asyncio.sleep(60)", "while True: pass"],
)
def test_interrupt(session: SessionClient, waiting: str) -> None:
    """SIGINT ends what waits and what computes with 130; the state stays."""
    session.run("x = 41")
    code = "import os, signal, threading\nthreading.Timer(0.3, os.kill, [os.getpid(), 2]).start()\n"
    began = time.monotonic()
    answer = session.run(code + waiting)
    assert time.monotonic() - began < 10
    assert (answer["exit_code"], answer["state"]) == (130, "preserved")
    assert answer["stderr"].endswith("KeyboardInterrupt\n")
    assert session.run("print(x + 1)")["stdout"] == "42\n"


def test_interrupt_of_a_loop_of_prints(session: SessionClient) -> None:
    """An interrupt in the middle of printing tears nothing apart, also not the next run."""
    code = "import itertools\nfor n in itertools.count():\n    print(n)"
    for _ in range(5):
        answer = session.run(code, timeout=0.2)
        assert answer["exit_code"] == 124
        assert answer["state"] == "preserved"
    assert session.run("print('whole')")["stdout"] == "whole\n"


def test_interrupt_between_runs(session: SessionClient) -> None:
    """A SIGINT that finds nothing to interrupt changes nothing."""
    code = "import os, threading\nt = threading.Timer(0.2, os.kill, [os.getpid(), 2])\n"
    session.run(code + "t.daemon = True\nt.start()")
    time.sleep(0.5)
    answer = session.run("print('on')")
    assert (answer["stdout"], answer["exit_code"]) == ("on\n", 0)


def test_interrupt_of_a_thread_that_is_waited_for(session: SessionClient) -> None:
    """Waiting for threads at the end of a run can be interrupted; later runs do not wait again."""
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()"
    assert session.run(code, timeout=0.5)["exit_code"] == 124
    assert session.run("print('on')")["stdout"] == "on\n"


def test_recursion(session: SessionClient) -> None:
    """A RecursionError is reported within seconds, with its repeated lines joined."""
    began = time.monotonic()
    answer = session.run("def f():\n    return f()\nf()")
    assert time.monotonic() - began < 3
    assert answer["exit_code"] == 1
    assert "more times]" in answer["stderr"]
    assert answer["stderr"].endswith("RecursionError: maximum recursion depth exceeded\n")


def test_traceback_names_the_run(session: SessionClient) -> None:
    """A traceback names the run in which a function was defined, and shows its lines."""
    session.run("def f():\n    # a comment\n    return 1 / 0")
    frames = session.run("\nf()")["exception"]["traceback"]
    assert frames[1:5:2] == [
        '  File "<cell 2>", line 2, in <module>',
        '  File "<cell 1>", line 3, in f',
    ]
    assert frames[4] == "    return 1 / 0"


def test_exception_is_reported(session: SessionClient) -> None:
    """The exception has its name, its text and the lines of stderr; an exit is none."""
    answer = session.run("raise ValueError('naïve \\ud800')")
    assert answer["exception"]["name"] == "ValueError"
    assert answer["exception"]["value"] == "naïve \\ud800"
    assert answer["exception"]["traceback"] == answer["stderr"].splitlines()
    assert session.run("exit(3)")["exception"] is None


def test_atexit(session: SessionClient) -> None:
    """What a program registers for its end does not run at the end of a run."""
    assert session.run("import atexit\natexit.register(print, 'bye');")["stdout"] == ""


# ---------------------------------------------------------------- output


def test_late_output_of_a_child(session: SessionClient) -> None:
    """What a child prints after its run is in no later run."""
    session.run("import subprocess\nsubprocess.Popen('sleep 0.3; echo late', shell=True);")
    assert session.run("import time\ntime.sleep(0.6)\nprint('now')")["stdout"] == "now\n"


def test_pool_of_an_earlier_run(session: SessionClient) -> None:
    """A thread pool works for the run that hands it something, whichever run made it."""
    pool = "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(1)\n"
    session.run(pool + "pool.submit(print, 'first')")
    answer = session.run("print('a')\npool.submit(print, 'second').result()\nprint('b')")
    assert answer["stdout"] == "a\nsecond\nb\n"


def test_children_and_prints_in_order(session: SessionClient) -> None:
    """Children, os.write and print take turns."""
    code = (
        "import os, subprocess\nfor n in range(10):\n    print(n)\n"
        "    subprocess.run(['echo', 'child'])\n    os.write(1, b'raw\\n')"
    )
    assert session.run(code)["stdout"] == "".join(f"{n}\nchild\nraw\n" for n in range(10))


def test_env_of_the_user_stays(session: SessionClient) -> None:
    """What code sets in os.environ lives on; only what the request set is taken back."""
    session.run("import os\nos.environ['MINE'] = '1'", env={"YOURS": "2"})
    answer = session.run("print(os.environ.get('MINE'), os.environ.get('YOURS'))")
    assert answer["stdout"] == "1 None\n"


def test_display_that_is_too_large(session: SessionClient) -> None:
    """It is an error of the program, which keeps its variables, and not the end of its kernel."""
    session.run("from IPython.display import HTML, display\nx = 1")
    answer = session.run("display(HTML('x' * 140_000_000))", timeout=60)
    assert (answer["exit_code"], answer["state"]) == (1, "preserved")
    assert answer["exception"]["name"] == "ValueError"
    assert session.run("print(x)")["stdout"] == "1\n"


def test_figures(session: SessionClient) -> None:
    """plt.show() and a figure that was not shown give a PNG each, at their places."""
    pytest.importorskip("matplotlib")
    shown = session.run(
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]);\nplt.show()", timeout=60
    )
    left = session.run("plt.plot([1, 3]);")
    for answer in (shown, left):
        [result] = answer["results"]
        assert result["type"] == "display_data"
        image = base64.b64decode(result["data"]["image/png"])
        assert image.startswith(b"\x89PNG")
        assert (answer["stderr"], answer["files_modified"]) == ("", 0)


def test_data_frame(session: SessionClient) -> None:
    """A DataFrame as last expression is a table in HTML."""
    pytest.importorskip("pandas")
    answer = session.run("import pandas\npandas.DataFrame({'a': [1]})", timeout=60)
    [result] = answer["results"]
    assert "<table" in result["data"]["text/html"]


# ---------------------------------------------------------------- modules


def test_module_and_who_imported_it(session: SessionClient) -> None:
    """A changed module is new also where another module of the workspace imported it."""
    session.run(
        "open('a.py', 'w').write('from b import VALUE')\nopen('b.py', 'w').write('VALUE = 1')"
    )
    assert session.run("import a\nprint(a.VALUE)")["stdout"] == "1\n"
    session.run("open('b.py', 'w').write('VALUE = 2');")
    assert session.run("import a\nprint(a.VALUE)")["stdout"] == "2\n"


def test_unchanged_module_keeps_its_state(session: SessionClient) -> None:
    """A module that did not change is imported once."""
    session.run("open('kept.py', 'w').write('values = []')\nimport kept\nkept.values.append(1)")
    assert session.run("import kept\nprint(kept.values)")["stdout"] == "[1]\n"


def test_package_edited(session: SessionClient) -> None:
    """A changed module of a package is new for `from package import module`, too."""
    make = "import os\nos.makedirs('p', exist_ok=True)\nopen('p/__init__.py', 'a').close()\n"
    for value in (1, 2):
        session.run(f"{make}open('p/m.py', 'w').write('VALUE = {value}');")
        assert session.run("from p import m\nprint(m.VALUE)")["stdout"] == f"{value}\n"


def test_imports_leave_no_files(session: SessionClient) -> None:
    """An import alone changes nothing in the workspace."""
    session.run("open('mod.py', 'w').write('x = 1');")
    assert session.run("import mod, json, sqlite3")["files_modified"] == 0
    names = session.run("import os\nprint(*sorted(os.listdir()))")["stdout"].split()
    assert names == [".session_data.json", "mod.py"]


# ---------------------------------------------------------------- memory


def test_results_are_not_kept(session: SessionClient) -> None:
    """Neither results nor exceptions nor sources keep memory from run to run."""
    rss = "print(int(open('/proc/self/statm').read().split()[1]) * 4096)"
    big = "x = bytearray(20_000_000)\nx[:1]"

    def used() -> int:
        return int(session.run(rss)["stdout"])

    session.run(big)
    before = used()
    for _ in range(10):
        session.run("list(range(1_000_000));\nbytes(20_000_000)[:1]")
        session.run("y = bytes(20_000_000)\n1 / 0\n")
        session.run("del y")
    assert used() - before < 60_000_000


def test_selftest(session: SessionClient) -> None:
    """The kernelspec's own selftest prints its known answer."""
    answer = session.run((builtin_dir() / "python" / "selftest.py").read_text())
    assert (answer["stdout"], answer["exit_code"]) == ("selftest 42 ☃\n", 0)
