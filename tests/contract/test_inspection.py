"""Where a program is, and what its names hold: also while it is busy, and never disturbing it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.client import SessionClient
from tests.contract.checks import (
    background_runs,
    check,
    check_error,
    wait_for_executions,
    wait_for_file,
)

READY = "open('ready', 'w').close()\n"
# A call that keeps the interpreter's lock, and has it when it says `ready`, until it may `go`.
HEAVY = """import ctypes
def g(s):
    return ctypes.PyDLL(None).system(s)
def h():
    return g(b'touch ready; until [ -e go ]; do sleep 0.05; done')
"""


@contextmanager
def running(session: SessionClient, code: str, **body: Any) -> Iterator[str]:
    """A program that has said that it is there; the path of its execution."""
    with background_runs(session) as start:
        coming = start(code, **{"timeout": 20, **body})
        wait_for_file(session)
        yield session.execution_path()
        session.http.put(f"{session.path}/files/go", content=b"")
        coming.result()


def calls(answer: httpx.Response) -> list[tuple[str, int, str, str]]:
    """The frames of cells."""
    assert answer.status_code == 200, answer.text
    return [
        (frame["file"], frame["line"], frame["function"], frame["source"])
        for frame in answer.json()["frames"]
        if frame["file"].startswith("<cell")
    ]


# ---------------------------------------------------------------- the stack


def test_stack_of_a_busy_loop(session: SessionClient) -> None:
    """Frames are the program's own, innermost last, with the text of their lines."""
    session.run("def spin():\n    while not done(): pass")
    code = "import os\ndef done(): return os.path.exists('go')\n" + READY + "spin()"
    with running(session, code) as path:
        answer = session.http.get(f"{path}/stack")
        assert answer.json()["language"] == "python"
        found = calls(answer)
        assert found[0] == ("<cell 2>", 4, "<module>", "spin()")
        assert found[1] == ("<cell 1>", 2, "spin", "while not done(): pass")
        assert "era_" not in answer.text
        assert "ipykernel" not in answer.text
    check_error(session.http.get(f"{path}/stack"), 409, "NOT_RUNNING")


def test_stack_in_a_call_that_lets_nothing_run(session: SessionClient) -> None:
    """A call that keeps the interpreter's lock is shown, too; its run is not disturbed."""
    code = HEAVY + "print(h())"
    with running(session, code) as path:
        found = calls(session.http.get(f"{path}/stack"))
        assert found == [
            ("<cell 1>", 6, "<module>", "print(h())"),
            ("<cell 1>", 5, "h", "return g(b'touch ready; until [ -e go ]; do sleep 0.05; done')"),
            ("<cell 1>", 3, "g", "return ctypes.PyDLL(None).system(s)"),
        ]
    answer = session.http.get(path).json()
    assert (answer["stdout"], answer["stderr"], answer["exit_code"]) == ("0\n", "", 0)


def test_stack_of_an_await(session: SessionClient) -> None:
    """A program that awaits is where its coroutines are."""
    code = (
        "import asyncio, os\nasync def inner():\n    while not os.path.exists('go'):\n"
        "        await asyncio.sleep(0.01)\nasync def outer():\n    await inner()\n"
        + READY
        + "await outer()"
    )
    with running(session, code) as path:
        found = calls(session.http.get(f"{path}/stack"))
        assert [(line, function) for _, line, function, _ in found[:2]] == [
            (8, "<module>"),
            (6, "outer"),
        ]


def test_deep_stack(session: SessionClient) -> None:
    """Of a deep recursion the innermost frames are shown."""
    code = (
        "import sys, time, os\nsys.setrecursionlimit(30_000)\n"
        "def down(n):\n    if n: return down(n - 1)\n"
        "    open('ready', 'w').close()\n    while not os.path.exists('go'): time.sleep(0.01)\n"
        "down(20_500)"
    )
    with running(session, code) as path:
        frames = session.http.get(f"{path}/stack").json()["frames"]
        assert len(frames) == 200
        assert frames[-1]["line"] in (5, 6)  # which makes the file, or waits
        assert {frame["line"] for frame in frames[:-1]} == {4}
    assert session.http.get(path).json()["exit_code"] == 0


def test_stack_while_it_waits_for_input(session: SessionClient) -> None:
    """A program that waits for an answer is in `input`'s line."""
    with session.open_stream("def ask():\n    return input('? ')\nask()") as events:
        assert next(events).event == "input_request"
        path = session.execution_path()
        found = calls(session.http.get(f"{path}/stack"))
        assert found[-1] == ("<cell 1>", 2, "ask", "return input('? ')")
        session.http.post(f"{path}/input", json={"value": ""}).raise_for_status()
        assert [event.event for event in events][-1] == "done"


def test_looking_changes_nothing(session: SessionClient) -> None:
    """A program that is looked at a few hundred times computes what it would compute alone."""
    code = (
        "import hashlib, os\nopen('ready', 'w').close()\nn, h = 0, hashlib.sha256()\n"
        "data = {}\nwhile not os.path.exists('go'):\n    n += 1\n    h.update(str(n).encode())\n"
        "    data[n % 1000] = [n]\n    del data[n % 1000]\n"
        "twin = hashlib.sha256()\nfor m in range(1, n + 1): twin.update(str(m).encode())\n"
        "print(twin.digest() == h.digest(), len(data))"
    )
    with running(session, code) as path, ThreadPoolExecutor(4) as pool:
        asked = [f"{path}/stack", f"{session.path}/variables"] * 100
        answers = list(pool.map(session.http.get, asked))
        assert {answer.status_code for answer in answers} == {200}
    answer = session.http.get(path).json()
    assert (answer["stdout"], answer["stderr"]) == ("True 0\n", "")


def test_queued_and_unknown(session: SessionClient) -> None:
    """What has not begun, and what is not there, has no stack."""
    with (
        running(
            session, READY + "import time, os\nwhile not os.path.exists('go'): time.sleep(0.1)"
        ),
        background_runs(session) as start,
    ):
        coming = start("pass")
        wait_for_executions(session, 2)
        path = session.execution_path()
        check_error(session.http.get(f"{path}/stack"), 409, "NOT_RUNNING")
        session.http.put(f"{session.path}/files/go", content=b"")
        coming.result()
    unknown = session.http.get(f"{session.path}/executions/exec-0/stack")
    check_error(unknown, 404, "EXECUTION_NOT_FOUND")
    check_error(session.http.get("/api/sessions/none/variables"), 404, "SESSION_NOT_FOUND")


def test_program_that_uses_the_signal_itself(session: SessionClient) -> None:
    """A program keeps its own handler for SIGURG, and is reported as silent at worst."""
    code = (
        HEAVY
        + "import signal\nsignal.signal(signal.SIGURG, lambda *a: print('urgent'))\n"
        + "h()\nprint('end')"
    )
    with running(session, code) as path:
        answer = session.http.get(f"{path}/stack")
        assert answer.status_code in (200, 503)
    assert session.http.get(path).json()["stdout"].endswith("end\n")


# ---------------------------------------------------------------- variables


def variables(session: SessionClient) -> dict[str, dict[str, Any]]:
    """By their names, without them."""
    answer = session.http.get(f"{session.path}/variables")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["variables"]
    return {one["name"]: {k: v for k, v in one.items() if k != "name"} for one in found}


def test_without_a_kernel(session: SessionClient) -> None:
    """A session that has not run anything has no variables, and gets no kernel for the question."""
    answer = session.http.get(f"{session.path}/variables")
    assert answer.json() == {"variables": [], "truncated": False}
    assert session.get()["status"] == "stopped"


def test_values(session: SessionClient) -> None:
    """Built-in types have their values, all others type, shape and size; modules are left out."""
    session.run(
        "import math, os as system\n"
        "i, big, huge = 5, 10**30, 1 << 10_000\n"
        "f, nan, c, b, n = 0.5, float('nan'), 1j, True, None\n"
        "s, long = 'é', 'x' * 5000\n"
        "raw = b'a\\xff'\n"
        "l, t, d, st = [1, [2, 'a']], (1,), {'a': None}, {7}\n"
        "many, odd, deep = list(range(1000)), {1: 2}, [object()]\n"
        "def f1(): pass\n"
        "class C: pass\n"
        "o, _hidden, r = C(), 1, range(3)"
    )
    assert variables(session) == {
        "i": {"type": "int", "value": 5},
        "big": {"type": "int", "value": 10**30},
        "huge": {"type": "int"},
        "f": {"type": "float", "value": 0.5},
        "nan": {"type": "float", "value": "nan"},
        "c": {"type": "complex", "value": "1j"},
        "b": {"type": "bool", "value": True},
        "n": {"type": "NoneType", "value": None},
        "s": {"type": "str", "size": 1, "value": "é"},
        "long": {"type": "str", "size": 5000, "value": "x" * 1000},
        "raw": {"type": "bytes", "size": 2, "value": "b'a\\xff'"},
        "l": {"type": "list", "size": 2, "value": [1, [2, "a"]]},
        "t": {"type": "tuple", "size": 1, "value": [1]},
        "d": {"type": "dict", "size": 1, "value": {"a": None}},
        "st": {"type": "set", "size": 1, "value": [7]},
        "many": {"type": "list", "size": 1000},
        "odd": {"type": "dict", "size": 1},
        "deep": {"type": "list", "size": 1},
        "f1": {"type": "function"},
        "C": {"type": "type"},
        "o": {"type": "C"},
        "r": {"type": "range", "value": "range(0, 3)"},
    }


def test_shapes(session: SessionClient) -> None:
    """Arrays and tables have shapes."""
    answer = session.run(
        "import numpy as np, pandas as pd\n"
        "a, z = np.zeros((3, 4)), np.array(1)\n"
        "df = pd.DataFrame({'x': [1, 2], 'y': ['a', 'b'], 'z': [0.5, None]})\n"
        "s = df.x\n"
        "dates = pd.DataFrame({'x': range(4)}, index=pd.date_range('2020', periods=4))\n"
        "levels = pd.concat({'k': df, 'l': df})\n"
        "empty = pd.DataFrame()\n"
        "class Mine(np.ndarray): pass\n"
        "mine = a.view(Mine)"
    )
    if "ModuleNotFoundError" in answer["stderr"]:
        pytest.skip("pandas is not installed")
    found = variables(session)
    shapes = {name: found[name].get("shape") for name in found}
    assert shapes == {
        "a": [3, 4], "z": [], "df": [2, 3], "s": [2], "dates": [4, 1], "levels": [4, 3],
        "empty": [0, 0], "Mine": None, "mine": None,
    }  # fmt: skip


HOSTILE = """
called = []
def trap(name):
    def method(self, *args, **kwargs):
        called.append(name)
        raise RuntimeError(name)
    return method
class Meta(type):
    __name__ = property(trap("meta __name__"))
    __module__ = property(trap("meta __module__"))
    __mro__ = property(trap("meta __mro__"))
    __flags__ = property(trap("meta __flags__"))
    __getattribute__ = trap("meta __getattribute__")
    __instancecheck__ = trap("meta __instancecheck__")
    __subclasscheck__ = trap("meta __subclasscheck__")
    __eq__ = trap("meta __eq__")
    __hash__ = trap("meta __hash__")
    __bool__ = trap("meta __bool__")
names = ("repr str len eq hash bool iter getattr getattribute format sizeof dir index int float "
         "reduce_ex array contains").split()
body = {f"__{name}__": trap(name) for name in names}
body["__class__"] = property(trap("__class__"))
body["__dict__"] = property(trap("__dict__"))
body["shape"] = property(trap("shape"))
body["_mgr"] = property(trap("_mgr"))
body["axes"] = property(trap("axes"))
plain = dict(body)
DataFrame = type.__call__(Meta, "DataFrame", (), dict(body))
table = object.__new__(DataFrame)
ndarray = type.__call__(Meta, "ndarray", (), dict(body))
array = object.__new__(ndarray)
array2 = array
for base in (int, str, list, dict, float, tuple, set, bytes):
    kind = type.__call__(Meta, "Odd" + base.__name__, (base,), dict(body))
    globals()["odd_" + base.__name__] = base.__new__(kind)
class Key(str):
    __hash__ = lambda self: hash("x")
    __eq__ = trap("key eq")
    startswith = trap("key startswith")
globals()[Key("strange")] = 1
globals()[7] = 1
nested = [table, odd_list]
surrogate = "\\ud800"
globals()["na\\udc80me"] = 2
globals()["n" * 1000] = 3
del called[:], base, kind
"""


def test_no_code_of_the_program_is_called(session: SessionClient) -> None:
    """Classes and metaclasses that trap everything are shown by type, and nothing of them runs."""
    check(session.run(HOSTILE), stderr="", exit_code=0)
    answer = session.http.get(f"{session.path}/variables")
    assert answer.json()["truncated"]
    found = variables(session)
    check(session.run("print(called)"), stdout="[]\n")
    assert found["table"] == {"type": "DataFrame"}
    assert found["array"] == {"type": "ndarray"}
    assert found["odd_list"] == {"type": "Oddlist", "size": 0}
    assert found["odd_int"] == {"type": "Oddint"}
    assert found["nested"] == {"type": "list", "size": 2}
    assert found["surrogate"] == {"type": "str", "size": 1, "value": "?"}
    assert "strange" not in found


def test_many_variables(session: SessionClient) -> None:
    """A namespace of any size is answered within bounds."""
    code = "for n in range(200_000): globals()[f'v{n}'] = 'x' * 1000 if n < 2000 else n"
    check(session.run(code), exit_code=0)
    answer = session.http.get(f"{session.path}/variables")
    found = answer.json()
    assert found["truncated"]
    assert 100 < len(found["variables"]) <= 1000
    assert len(answer.content) < 3 * 1024 * 1024


def test_during_a_run(session: SessionClient) -> None:
    """Variables are those of the moment, while a run computes."""
    code = "import os\nx = 1\n" + READY + "while not os.path.exists('go'): y = [x]\nx = 2"
    with running(session, code):
        assert variables(session)["x"] == {"type": "int", "value": 1}
    assert variables(session)["x"] == {"type": "int", "value": 2}


def test_silent_kernel(session: SessionClient) -> None:
    """While a call lets nothing else run, variables cannot be read, which is an error."""
    with running(session, HEAVY + "h()"):
        answer = session.http.get(f"{session.path}/variables")
        check_error(answer, 503, "KERNEL_SILENT")
        assert int(answer.headers["Retry-After"]) > 0
    assert "h" in variables(session)
