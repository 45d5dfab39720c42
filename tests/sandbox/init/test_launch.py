"""A forked program looks and ends like one that a plain interpreter was started for."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys

import pytest

from era_kernels.models import ExitInfo
from era_kernels.sandbox.server.process_spec import ProcessSpec
from era_kernels.sandbox.server.sandbox import Sandbox
from tests.sandbox.sandboxes import (
    ENV,
    forked_program,
    new_sandbox,
    open_sandbox,
    open_sandboxes,
    run_to_end,
    wait_for_lines,
)

# What a program can see of its interpreter.
LOOK = """
import gc, json, os, signal, sys, threading
known = {"known", "gc", "json", "os", "signal", "sys", "threading", "handlers", "streams"}
handlers = {
    number: str(handler) for number in signal.valid_signals()
    if (handler := signal.getsignal(number)) is not signal.SIG_DFL
}
streams = (sys.stdin, sys.stdout, sys.stderr)
print(json.dumps({
    "flags": str(sys.flags),
    "path": sys.path[1:],
    "executable": [sys.executable, sys.prefix, sys.base_prefix],
    "encodings": [sys.getfilesystemencoding(), sys.getdefaultencoding()],
    "streams": [
        [s.name, s.mode, s.encoding, s.errors, s.line_buffering, s.fileno(), s.isatty()]
        for s in streams
    ],
    "same": [s is o for s, o in zip(streams, (sys.__stdin__, sys.__stdout__, sys.__stderr__))],
    "stdin": sys.stdin.read(),
    "signals": handlers,
    "mask": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
    "wakeup": signal.set_wakeup_fd(-1),
    "gc": [gc.isenabled(), gc.get_threshold()],
    "threads": [threading.active_count(), threading.current_thread() is threading.main_thread()],
    "main": sorted(name for name in vars(sys.modules["__main__"]) if name not in known),
    "environment": dict(os.environ),
    "project": [name for name in sys.modules if name.startswith("era_kernels")],
    "hooks": [sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__],
    "limit": sys.getrecursionlimit(),
    "umask": os.umask(0o22),
    "leader": [os.getpid() == os.getpgrp(), os.getpid() == os.getsid(0)],
}))
"""


async def in_sandbox_run(command: ProcessSpec) -> tuple[ExitInfo, str, str]:
    """Run one command in a sandbox of its own."""
    async with open_sandbox() as sandbox:
        return await run_to_end(sandbox, command)


async def test_it_looks_like_a_plain_interpreter() -> None:
    """Flags, path, streams, signals and threads are those of `interpreter main.py < /dev/null`."""
    plain = subprocess.run(
        [sys.executable, "-c", LOOK],
        env=ENV,
        cwd="/tmp",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        start_new_session=True,
    )
    _, out, err = await in_sandbox_run(forked_program(LOOK))
    assert err == ""
    assert json.loads(out) == json.loads(plain.stdout)


async def test_its_path_is_the_command_s() -> None:
    """The working directory is first, PYTHONPATH next, and the paths of entries are hidden."""
    env = {**ENV, "PYTHONPATH": "/one:/two"}
    code = "import sys, json; print(json.dumps([sys.path, sys.argv, sys.orig_argv]))"
    path, argv, orig_argv = json.loads(
        (await in_sandbox_run(forked_program(code, "x", env=env)))[1]
    )
    assert path[:3] == ["", "/one", "/two"]
    assert not [entry for entry in path if entry.endswith("tests/sandbox/entries")]
    assert argv == ["main.py", "x"]
    assert orig_argv == [sys.executable]


async def test_its_environment_is_replaced_in_place() -> None:
    """os.environ, the C library's environment and children's are the command's, the zone too."""
    code = """
import ctypes, os, subprocess, time
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
print(getenv(b"ONLY"), getenv(b"HOME"), time.tzname[0])
print(subprocess.run(["/usr/bin/env"], capture_output=True, text=True).stdout)
"""
    env = {"ONLY": "this", "TZ": "XYZ5"}
    _, out, _ = await in_sandbox_run(forked_program(code, env=env))
    assert out.split() == ["b'this'", "None", "XYZ", "ONLY=this", "TZ=XYZ5"]


@pytest.mark.parametrize(
    ("code", "ending", "out", "err"),
    [
        ("print('fine')", ExitInfo(code=0), "fine\n", ""),
        ("raise SystemExit", ExitInfo(code=0), "", ""),
        ("import sys; sys.exit(3)", ExitInfo(code=3), "", ""),
        ("import sys; sys.exit(300)", ExitInfo(code=44), "", ""),
        ("import sys; sys.exit('words')", ExitInfo(code=1), "", "words\n"),
        ("import os; os._exit(5)", ExitInfo(code=5), "", ""),
        ("import os; os.abort()", ExitInfo(signal=signal.SIGABRT), "", ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", ExitInfo(signal=15), "", ""),
        ("import atexit; atexit.register(print, 'bye')", ExitInfo(code=0), "bye\n", ""),
        ("class A:\n def __del__(s): print('del')\na = A()", ExitInfo(code=0), "del\n", ""),
    ],
)
async def test_it_ends_like_a_plain_program(
    code: str, ending: ExitInfo, out: str, err: str
) -> None:
    """Exit codes, last output, callbacks and finalizers are those of plain Python."""
    assert await in_sandbox_run(forked_program(code)) == (ending, out, err)


async def test_it_waits_for_its_threads() -> None:
    """A program has ended when its non-daemon threads have."""
    code = "import threading, time\n"
    code += "threading.Timer(0.2, print, ['from a thread']).start()"
    assert await in_sandbox_run(forked_program(code)) == (ExitInfo(code=0), "from a thread\n", "")


async def test_an_uncaught_error_is_a_traceback() -> None:
    """The traceback names the entry's frames and none of ours; the exit code is 1."""
    ending, _, err = await in_sandbox_run(forked_program("def f():\n    1 / 0\nf()"))
    assert ending == ExitInfo(code=1)
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.endswith("ZeroDivisionError: division by zero\n")
    assert 'File "main.py", line 2, in f' in err
    assert "era_kernels" not in err


@pytest.mark.parametrize("entry", ["no_such_module:main", "sandbox_entry:no_such_function"])
async def test_a_missing_entry_is_a_traceback(entry: str) -> None:
    """An entry that is not there ends the process with 1 and says so on descriptor 2."""
    ending, _, err = await in_sandbox_run(ProcessSpec(entry=entry, env=ENV, cwd="/"))
    assert ending == ExitInfo(code=1)
    assert "no_such" in err


async def test_an_interrupt_raises_in_the_program() -> None:
    """SIGINT is KeyboardInterrupt, as in every program, and 130 when nobody catches it."""
    async with open_sandbox() as sandbox:
        code = "import time\nprint(1, flush=True)\ntime.sleep(600)"
        process = await sandbox.spawn(forked_program(code))
        await wait_for_lines(process, 1)
        await process.signal(signal.SIGINT)
        assert (await asyncio.wait_for(process.ended, 10)).exit_code == 130
        assert process.stderr.tail().endswith(b"KeyboardInterrupt\n")


async def test_an_executed_program_gets_default_signals() -> None:
    """What interpreters and our own processes ignore is not ignored in an executed program."""
    command = ProcessSpec(
        argv=("/bin/grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"), env={}, cwd="/"
    )
    _, out, _ = await in_sandbox_run(command)
    masks = [int(line.split()[1], 16) for line in out.splitlines()]
    handled = sum(1 << (number - 1) for number in signal.valid_signals())  # libc keeps two
    assert [mask & handled for mask in masks] == [0, 0]


async def test_forks_do_not_share_their_chance() -> None:
    """Two forks draw different numbers, from numpy too, and different keys."""
    code = """
import sys
assert {"numpy.random", "multiprocessing.process"} <= sys.modules.keys()
import random, numpy, multiprocessing.process as process, uuid, tempfile
print(random.random(), numpy.random.random(), process.current_process().authkey.hex())
print(uuid.uuid4(), next(tempfile._get_candidate_names()))
"""
    preload = ["quiet_numpy", "random", "multiprocessing.process", "uuid", "tempfile"]

    async def draw(sandbox: Sandbox) -> list[str]:
        ending, out, err = await run_to_end(sandbox, forked_program(code))
        assert (ending, err) == (ExitInfo(code=0), "")
        return out.split()

    async with open_sandboxes(preload) as sandboxes:
        first, second = (
            await draw(await new_sandbox(sandboxes)),
            await draw(await new_sandbox(sandboxes)),
        )
        assert len(first) == len(second) == 5
        assert not set(first) & set(second)


async def test_what_depends_on_the_environment_is_found_anew() -> None:
    """Directories that modules remember from the zygote's environment are the program's own."""
    code = "import tempfile, site; print(tempfile.gettempdir(), site.getusersitepackages())"
    env = {**ENV, "TMPDIR": "/var/tmp", "HOME": "/home/somebody"}

    async with open_sandbox(["tempfile"]) as sandbox:
        _, out, _ = await run_to_end(sandbox, forked_program(code, env=env))
        temporary, packages = out.split()
        assert temporary == "/var/tmp"
        assert packages.startswith("/home/somebody/")
