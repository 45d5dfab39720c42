"""Programs that must do in a session what they do as `python main.py`: same output, same end.

A program is a name and its source. None of them needs a file, a network or more than the standard
library; what they print must be the same every time.
"""

from __future__ import annotations

from pathlib import Path


def read_programs(file: Path) -> dict[str, str]:
    """Returns the programs of a file, in which each follows a line `### name`."""
    programs = {}
    for part in ("\n" + file.read_text(encoding="utf-8")).split("\n### ")[1:]:
        name, _, program = part.partition("\n")
        programs[name] = program.rstrip("\n")
    return programs


# Programs that fail or end in unusual ways: exceptions, exits, hooks, the end of the interpreter,
# signals, event loops, mocks, descriptors.
ENDINGS = read_programs(Path(__file__).with_name("endings.py.txt"))
PROGRAMS: dict[str, str] = {
    # ------------------------------------------------------------ exits
    "ends": "print('hello')",
    "exit": "print('a')\nexit()\nprint('b')",
    "quit": "print('a')\nquit(4)\nprint('b')",
    "sys.exit None": "import sys\nsys.exit(None)",
    "sys.exit 0": "import sys\nsys.exit(0)",
    "sys.exit 3": "import sys\nsys.exit(3)",
    "sys.exit 300": "import sys\nsys.exit(300)",
    "sys.exit -1": "import sys\nsys.exit(-1)",
    "sys.exit True": "import sys\nsys.exit(True)",
    "sys.exit text": "import sys\nsys.exit('all is lost')",
    "sys.exit tuple": "import sys\nsys.exit((1, 'a'))",
    "raise SystemExit": "def f():\n    def g():\n        raise SystemExit(3)\n    g()\nf()",
    "sys.exit caught": (
        "import sys\ntry:\n    sys.exit(3)\nexcept SystemExit as e:\n    print(e.code)"
    ),
    "sys.exit finally": "import sys\ntry:\n    sys.exit(3)\nfinally:\n    print('last')",
    "sys.exit in a thread": (
        "import sys, threading\n"
        "t = threading.Thread(target=sys.exit, args=(5,))\nt.start()\nt.join()\nprint('on')"
    ),
    # ------------------------------------------------------------ errors
    "uncaught": "x = 1\n\nraise ValueError('boom')",
    "uncaught in a function": "def f(n):\n    return 1 / n\n\nprint('a')\nf(0)",
    "chained": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e",
    "in handling": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    {}['k']",
    "suppressed": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise KeyError('k') from None",
    "note": "e = ValueError('x')\ne.add_note('a note')\nraise e",
    "group": (
        "def f():\n    raise TypeError('inner')\n"
        "errors = []\nfor g in (f, lambda: 1 / 0):\n"
        "    try:\n        g()\n    except Exception as e:\n        errors.append(e)\n"
        "raise ExceptionGroup('several', errors)"
    ),
    "str raises": (
        "class Bad(Exception):\n    def __str__(self):\n        raise RuntimeError('no')\nraise Bad"
    ),
    "repr raises": (
        "class Bad:\n    def __repr__(self):\n        raise RuntimeError('no')\n"
        "raise KeyError(Bad())"
    ),
    "unicode": "raise ValueError('naïve ☃ \\ud800 😀')",
    "assert": "assert 1 == 2, 'unequal'",
    "multi-line": "x = {\n    'a': 1,\n    'b': int('z'),\n}",
    "import error": "import no_such_module",
    "del": "class A:\n    def __del__(self):\n        raise ValueError('x')\nA()\nprint('on')",
    "excepthook": (
        "import sys\nsys.excepthook = lambda t, v, tb: print('hook', t.__name__, v)\n1 / 0"
    ),
    "thread error": (
        "import threading\ndef f():\n    1 / 0\n"
        "t = threading.Thread(target=f, name='T')\nt.start()\nt.join()\nprint('on')"
    ),
    "print_exc": (
        "import traceback\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    traceback.print_exc()"
    ),
    "leading blank lines": "\n\n\n1 / 0",
    # ------------------------------------------------------------ errors of syntax
    "never closed": "print('no')\nb = (",
    "invalid": "print('no')\nfor",
    "indented": "  x = 1",
    "unindented": "if True:\nx = 1",
    "return outside": "print('no')\nreturn 1",
    "nonlocal": "print('no')\ndef f():\n    nonlocal q",
    "late future": "x = 1\nfrom __future__ import annotations",
    "ls": "ls",
    "cd": "cd /",
    # ------------------------------------------------------------ warnings and logging
    "warn": "import warnings\nwarnings.warn('careful')",
    "deprecated": "import warnings\nwarnings.warn('old', DeprecationWarning)",
    "syntax warning": "x = 1\nprint(x is 1)",
    "logging": "import logging\nlogging.warning('w')\nlogging.info('i')",
    "logging everything": (
        "import logging\nlogging.basicConfig(level=logging.DEBUG)\nlogging.debug('mine')"
    ),
    # ------------------------------------------------------------ asyncio
    "asyncio.run": (
        "import asyncio\nasync def f(x):\n    await asyncio.sleep(0.01)\n    return x\n"
        "print(asyncio.run(f(1)))\nprint(asyncio.run(f(2)))"
    ),
    "Runner": (
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 7\n"
        "with asyncio.Runner() as runner:\n    print(runner.run(f()), runner.run(f()))"
    ),
    "run_until_complete": (
        "import asyncio\nasync def f():\n    await asyncio.sleep(0.01)\n    return 7\n"
        "loop = asyncio.new_event_loop()\nprint(loop.run_until_complete(f()))\nloop.close()"
    ),
    "run_forever": (
        "import asyncio\nloop = asyncio.new_event_loop()\nloop.call_later(0.01, loop.stop)\n"
        "loop.run_forever()\nloop.close()\nprint('stopped')"
    ),
    "run in run": (
        "import asyncio\nasync def g():\n    pass\nasync def f():\n    c = g()\n    try:\n"
        "        asyncio.run(c)\n    except RuntimeError as e:\n        print(e)\n    c.close()\n"
        "asyncio.run(f())"
    ),
    "error in asyncio.run": (
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    1 / 0\nasyncio.run(f())"
    ),
    "exit in asyncio.run": (
        "import asyncio, sys\nasync def f():\n    await asyncio.sleep(0)\n    sys.exit(3)\n"
        "asyncio.run(f())"
    ),
    "task group": (
        "import asyncio\nasync def bad():\n    raise ValueError('x')\nasync def f():\n"
        "    async with asyncio.TaskGroup() as g:\n        g.create_task(bad())\n"
        "try:\n    asyncio.run(f())\nexcept* ValueError as e:\n    print(e.exceptions)"
    ),
    "to_thread": (
        "import asyncio\nasync def f():\n    await asyncio.to_thread(print, 'in a thread')\n"
        "asyncio.run(f())"
    ),
    "async subprocess": (
        "import asyncio\nasync def f():\n"
        "    p = await asyncio.create_subprocess_exec('echo', 'child')\n    print(await p.wait())\n"
        "asyncio.run(f())"
    ),
    "asyncio timeout": (
        "import asyncio\nasync def f():\n    try:\n        async with asyncio.timeout(0.01):\n"
        "            await asyncio.sleep(9)\n    except TimeoutError:\n        print('late')\n"
        "asyncio.run(f())"
    ),
    # ------------------------------------------------------------ threads and processes
    "thread": (
        "import threading, time\ndef f():\n    time.sleep(0.1)\n    print('thread')\n"
        "threading.Thread(target=f).start()\nprint('main')"
    ),
    "thread after an error": (
        "import threading, time\ndef f():\n    time.sleep(0.1)\n    print('thread')\n"
        "threading.Thread(target=f).start()\n1 / 0"
    ),
    "timer": "import threading\nthreading.Timer(0.05, print, ['timer']).start()",
    "pool": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(2) as pool:\n    print(list(pool.map(abs, [-1, -2])))"
    ),
    "open pool": (
        "import time\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "pool = ThreadPoolExecutor(1)\npool.submit(time.sleep, 0.1)\n"
        "_ = pool.submit(print, 'in the pool')"
    ),
    "multiprocessing": (
        "import multiprocessing as mp\ndef f(x):\n    print('child', x, flush=True)\n"
        "if __name__ == '__main__':\n    context = mp.get_context('fork')\n"
        "    p = context.Process(target=f, args=(1,))\n    p.start()\n    p.join()\n"
        "    print(p.exitcode)"
    ),
    "multiprocessing, not joined": (
        "import multiprocessing as mp, time\ndef f():\n    time.sleep(0.1)\n    print('child')\n"
        "mp.get_context('fork').Process(target=f).start()"
    ),
    "multiprocessing pool": (
        "import multiprocessing as mp\ndef f(x):\n    return x * x\n"
        "with mp.get_context('fork').Pool(2) as pool:\n    print(pool.map(f, range(5)))"
    ),
    "fork": (
        "import os\npid = os.fork()\nif pid == 0:\n    print('child')\nelse:\n"
        "    os.waitpid(pid, 0)\n    print('parent')"
    ),
    "fork and exit": (
        "import os, sys\npid = os.fork()\nif pid == 0:\n    sys.exit(5)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    ),
    "fork and fail": (
        "import os\npid = os.fork()\nif pid == 0:\n    1 / 0\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    ),
    "fork and _exit": (
        "import os\npid = os.fork()\nif pid == 0:\n    os._exit(6)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    ),
    "threads counted": (
        "import threading\nprint(threading.active_count(), threading.enumerate()[1:])"
    ),
    # ------------------------------------------------------------ streams
    "child in order": (
        "import subprocess\nprint('a', flush=True)\nsubprocess.run(['echo', 'b'])\nprint('c')"
    ),
    "os.write in order": (
        "import os\nfor n in range(50):\n    print(n, flush=True)\n    os.write(1, b'w\\n')"
    ),
    "destructors": (  # wherever they run, also in a thread that is not the program's
        "import gc, sys, time\n"
        "class Loud:\n    def __del__(self): print('gone', file=sys.stderr)\n"
        "gc.disable(); gc.set_threshold(1, 1, 1)\n"
        "for n in range(10):\n"
        "    one = Loud(); one.me = one; del one\n"
        "    print(n)\n"
        "    gc.enable(); time.sleep(0.03); gc.disable()\n"
        "gc.set_threshold(700, 10, 10); gc.enable(); _ = gc.collect()"
    ),
    "os.system": "import os\nprint('a', flush=True)\nos.system('echo b')\nprint('c')",
    "buffer": "import sys\n_ = sys.stdout.buffer.write('é☃'.encode())\nprint(sys.stdout.fileno())",
    "raw": "import sys\n_ = sys.stdout.buffer.raw.write(b'raw\\n')",
    "half a character": (
        "import os, sys, time\n_ = sys.stdout.buffer.write(b'\\xe2')\nsys.stdout.flush()\n"
        "time.sleep(0.05)\n_ = os.write(1, b'\\x98\\x83\\n')"
    ),
    "stdout for a child": (
        "import subprocess, sys\nprint('a', flush=True)\n"
        "subprocess.run(['echo', 'b'], stdout=sys.stdout)"
    ),
    "stderr for a child": (
        "import subprocess, sys\nsubprocess.run('echo b >&2', shell=True, stderr=sys.stderr)"
    ),
    "what stdout is": (
        "import io, sys\nfor s in (sys.stdout, sys.stderr):\n"
        "    print(s.name, s.encoding, s.errors, s.isatty(), s.fileno(), s.writable(), s.mode,\n"
        "          s.seekable(), s.readable(), isinstance(s, io.TextIOWrapper), s.closed)"
    ),
    "reconfigure": (
        "import sys\nsys.stdout.reconfigure(errors='replace', line_buffering=True)\n"
        "print(sys.stdout.errors)\nprint('\\ud800')"
    ),
    "surrogate": "print('a')\nprint('\\ud800')",
    "surrogate to stderr": "import sys\nprint('\\ud800', file=sys.stderr)",
    "stdout is None": "import sys\nsys.stdout = None\nprint('nowhere')",
    "closed stdout": "import sys\nprint('a', flush=True)\nsys.stdout.close()\nprint('b')",
    "wrapped stdout": (
        "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'utf-8')\nprint('é')"
    ),
    "detached stdout": (
        "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach(), 'utf-8')\nprint('é')"
    ),
    "redirected": (
        "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "    print('x')\nprint(repr(out.getvalue()))"
    ),
    "__stdout__": "import sys\nprint('a')\nprint('b', file=sys.__stdout__)\nprint('c')",
    "wrong type": "import sys\nsys.stdout.write(1)",
    "devices": (
        "print('a', flush=True)\nwith open('/dev/stdout', 'w') as f:\n    _ = f.write('b\\n')"
    ),
    "faulthandler": "import faulthandler\nfaulthandler.enable()\nprint(faulthandler.is_enabled())",
    "libc": "import ctypes\nlibc = ctypes.CDLL(None)\n_ = libc.puts(b'c')\n_ = libc.fflush(None)",
    # ------------------------------------------------------------ input
    "input": "input('name? ')",
    "input caught": "try:\n    input('? ')\nexcept EOFError as e:\n    print('end', e)",
    "stdin": "import sys\nprint(repr(sys.stdin.read()), sys.stdin.isatty(), list(sys.stdin))",
    "getpass": "import getpass\ngetpass.getpass('secret: ')",
    "closed stdin": "import sys\nsys.stdin.close()\nprint(sys.stdin.closed)",
    # ------------------------------------------------------------ the program itself
    "argv": "import sys\nprint(sys.argv[1:], len(sys.argv))",
    "argparse": (
        "import argparse\np = argparse.ArgumentParser(prog='p')\np.add_argument('-n', default=2)\n"
        "print(p.parse_args().n)"
    ),
    "main": (
        "import sys\nif __name__ == '__main__':\n"
        "    print(sys.modules['__main__'].__dict__ is globals())"
    ),
    "names": "print([n for n in dir() if not n.startswith('__')])",
    "ps1": "import sys\nprint(hasattr(sys, 'ps1'), sys.flags.interactive)",
    "pickle": (
        "import pickle\nclass A:\n    x = 3\nprint(pickle.loads(pickle.dumps(A())).x, A.__module__)"
    ),
    "dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
        "print(P(1), P(1) == P(1))"
    ),
    "get_type_hints": (
        "from __future__ import annotations\nimport typing\n"
        "class A:\n    x: B\nclass B:\n    pass\n"
        "print(typing.get_type_hints(A))"
    ),
    "inspect": "import inspect\ndef f():\n    return 1\nprint(inspect.getsource(f))",
    "docstring": '"""What it does."""\nprint(__doc__)',
    "constants": "a = 1000\nb = 1000\nprint(a is b)",
    "atexit of a child": (
        "import atexit, os\npid = os.fork()\nif pid == 0:\n    atexit.register(print, 'bye')\n"
        "else:\n    os.waitpid(pid, 0)"
    ),
    "contextvars": (
        "import contextvars\nv = contextvars.ContextVar('v', default=1)\n"
        "print(len(contextvars.copy_context()) < 5)\nv.set(2)\nprint(v.get())"
    ),
    "signal handler": (
        "import os, signal\nsignal.signal(signal.SIGUSR1, lambda *_: print('got it'))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)"
    ),
    "alarm": (
        "import signal, time\ndef f(*_):\n    raise TimeoutError('late')\n"
        "signal.signal(signal.SIGALRM, f)\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\n"
        "try:\n    time.sleep(9)\nexcept TimeoutError as e:\n    print(e)"
    ),
    "sigint handler": (
        "import signal\nprint(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    ),
    "raised interrupt": (
        "print('a')\ntry:\n    raise KeyboardInterrupt\nexcept KeyboardInterrupt:\n    print('b')"
    ),
    "deep recursion": "def f(n):\n    return n and f(n - 1)\nprint(f(900))",
    "doctest": (
        "import doctest\ndef f():\n    '''\n    >>> f()\n    1\n    '''\n    return 1\n"
        "print(doctest.testmod())"
    ),
}
