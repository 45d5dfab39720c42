"""A program that is executed once runs to its true end, as its plain interpreter would.

For tests/contract/test_execute_ends.py, once the kernel does what `ends` in the metadata of its
execute_request asks for.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.client import Client
from tests.contract.checks import check

# Code → stdout; each with exit code 0.
ENDINGS = {
    "exit handlers, the last first": (
        "import atexit\natexit.register(print, 'a')\natexit.register(print, 'b')\nprint('c')",
        "c\nb\na\n",
    ),
    "a finalizer": ("class A:\n    def __del__(self): print('gone')\na = A()\nprint('end')",
                    "end\ngone\n"),
    "weakref.finalize": (
        "import weakref\nclass A: pass\na = A()\nweakref.finalize(a, print, 'gone')\nprint('end')",
        "end\ngone\n",
    ),
    "a generator's finally": (
        "def g():\n    try: yield\n    finally: print('closed')\nx = g()\nnext(x)\nprint('end')",
        "end\nclosed\n",
    ),
    "a file that is not closed": (
        "import os\nf = os.fdopen(os.dup(1), 'w')\nf.write('text\\n')", "text\n",
    ),
    "a thread": (
        ("import threading, time, atexit\natexit.register(print, 'last')\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()"),
        "thread\nlast\n",
    ),
    "a pool": (
        ("from concurrent.futures import ThreadPoolExecutor\n"
        "ThreadPoolExecutor().submit(print, 'job')"), "job\n",
    ),
    "a child of an exit handler": (
        "import atexit, subprocess\natexit.register(subprocess.run, ['echo', 'child'])",
        "child\n",
    ),
    "an exit handler that writes to the descriptor": (
        "import atexit, os\natexit.register(os.write, 1, b'raw\\n')\nprint('end')", "end\nraw\n",
    ),
}  # fmt: skip


def execute(client: Client, code: str, **body: Any) -> dict[str, Any]:
    request = {"language": "python", "code": code, **body}
    answer: dict[str, Any] = client.http.post("/api/execute", json=request).json()
    return answer


@pytest.mark.parametrize("name", ENDINGS)
def test_end(client: Client, name: str) -> None:
    """What a program does at its end is seen, in the order of its interpreter."""
    code, stdout = ENDINGS[name]
    check(execute(client, code), stdout=stdout, exit_code=0)


@pytest.mark.parametrize(
    ("end", "exit_code"), [("1/0", 1), ("raise SystemExit(3)", 3), ("import sys; sys.exit('x')", 1)]
)
def test_exit_handlers_of_a_program_that_fails(client: Client, end: str, exit_code: int) -> None:
    """They run after every end but a crash, and change no exit code."""
    code = f"import atexit\natexit.register(print, 'last')\n{end}"
    check(execute(client, code), stdout="last\n", exit_code=exit_code)


def test_exit_handler_that_fails(client: Client) -> None:
    """Its error is on stderr, the others still run, and the exit code stays."""
    code = "import atexit\natexit.register(print, 'last')\natexit.register(lambda: 1 / 0)"
    answer = execute(client, code)
    check(answer, stdout="last\n", exit_code=0)
    assert "ZeroDivisionError" in answer["stderr"]


def test_os_exit_runs_nothing(client: Client) -> None:
    """`os._exit` ends a process at once."""
    code = "import atexit, os\natexit.register(print, 'last')\nos._exit(4)"
    check(execute(client, code), stdout="", exit_code=4)


def test_exit_handler_that_hangs(client: Client) -> None:
    """The timeout covers the program's end: 408, 124, and what it printed before."""
    code = "import atexit, time\natexit.register(time.sleep, 60)\nprint('end')"
    answer = execute(client, code, timeout=1)
    check(answer, code="EXECUTION_TIMEOUT", exit_code=124, stdout="end\n")


def test_session_lives_on(client: Client) -> None:
    """A run in a session ends no program: its exit handlers wait for the kernel's end."""
    session = client.session("python")
    check(session.run("import atexit; atexit.register(print, 'last'); x = 1"), stdout="")
    check(session.run("print(x)"), stdout="1\n")
    session.delete()
