"""Where hostile programs raise what `make()` returns."""

from __future__ import annotations

PLACES: dict[str, str] = {
    "raised": "raise make()",
    "raised in a function": "def f(n):\n    if n: f(n - 1)\n    raise make()\nf(5)",
    "as a cause": "raise ValueError('outer') from make()",
    "while handling": "try:\n    raise make()\nexcept BaseException:\n    {}['missing']",
    "in finally": "try:\n    raise make()\nfinally:\n    1 / 0",
    "in a group": (
        "e = make()\nraise BaseExceptionGroup('g', [e if isinstance(e, BaseException) else e()])"
    ),
    "in a thread": (
        "import threading\ndef f(): raise make()\nt = threading.Thread(target=f)\n"
        "t.start(); t.join()"
    ),
    "in a bare thread": (
        "import _thread, time\ndef f(): raise make()\n_thread.start_new_thread(f, ())\n"
        "time.sleep(0.1)"
    ),
    "in a pool": (
        "from concurrent.futures import ThreadPoolExecutor\ndef f(): raise make()\n"
        "with ThreadPoolExecutor(1) as pool:\n    pool.submit(f).result()"
    ),
    "awaited": "import asyncio\nawait asyncio.sleep(0)\nraise make()",
    "in a task": (
        "import asyncio\nasync def f(): raise make()\ntask = asyncio.create_task(f())\nawait task"
    ),
    "in a task that nobody awaits": (
        "import asyncio\nasync def f(): raise make()\ntask = asyncio.create_task(f())\n"
        "await asyncio.sleep(0.05)\ndel task"
    ),
    "in a callback": (
        "import asyncio\ndef f(): raise make()\nasyncio.get_running_loop().call_soon(f)\n"
        "await asyncio.sleep(0.05)"
    ),
    "in asyncio.run": "import asyncio\nasync def f(): raise make()\nasyncio.run(f())",
    "in a task group": (
        "import asyncio\nasync def f(): raise make()\nasync def g():\n"
        "    async with asyncio.TaskGroup() as group:\n        group.create_task(f())\n"
        "asyncio.run(g())"
    ),
    "in a destructor": "class D:\n    def __del__(self): raise make()\nD()\nNone",
    "in a generator": "def g():\n    yield 1\n    raise make()\nlist(g())",
    "in a displayhook": "import sys\ndef hook(value): raise make()\nsys.displayhook = hook\n1",
    "in an excepthook": "import sys\ndef hook(*args): raise make()\nsys.excepthook = hook\n1 / 0",
    "in a repr": "class R:\n    def __repr__(self): raise make()\nR()",
    "in a html repr": "class R:\n    def _repr_html_(self): raise make()\nR()",
    "in a bundle": "class R:\n    def _repr_mimebundle_(self, **_): raise make()\ndisplay(R())",
    "in its own display": "class R:\n    def _ipython_display_(self): raise make()\nR()",
    "in a child": (
        "import os\nif os.fork() == 0:\n    raise make()\n_ = os.wait()"
    ),
    "in a child of a thread": (
        "import os, threading\ndef f():\n    if os.fork() == 0: raise make()\n    os.wait()\n"
        "t = threading.Thread(target=f)\nt.start(); t.join()"
    ),
    "in a child of a task": (
        "import asyncio, os\nasync def f():\n    if os.fork() == 0: raise make()\n    os.wait()\n"
        "await asyncio.create_task(f())"
    ),
    "in a child of a task after the run": (
        "import asyncio, os\nasync def f():\n    await asyncio.sleep(0)\n"
        "    if os.fork() == 0: raise make()\n    os.wait()\ntask = asyncio.create_task(f())"
    ),
    "in a child of a signal handler after the run": (
        "import os, signal\ndef handler(*args):\n    if os.fork() == 0: raise make()\n"
        "    os.wait()\nsignal.signal(signal.SIGALRM, handler)\n"
        "_ = signal.setitimer(signal.ITIMER_REAL, 0.02)"
    ),
    "at a fork": (
        "import os\ndef f(): raise make()\n"
        "os.register_at_fork(before=f, after_in_child=f, after_in_parent=f)\n"
        "if os.fork(): os.wait()"
    ),
    "at exit": "import atexit\ndef f(): raise make()\n_ = atexit.register(f)",
    "as the last value": "make()",
    "shown": "get_ipython().showtraceback((Exception, make(), None))",
    "as an unraisable": (
        "import sys, types\nsys.unraisablehook(types.SimpleNamespace(exc_type=Exception, "
        "exc_value=make(), exc_traceback=None, err_msg=None, object=make()))"
    ),
    "as an argument": "import sys\nsys.exit(make())",
    "printed": "import traceback\ntry:\n    raise make()\nexcept BaseException as e:\n"
    "    traceback.print_exception(e)",
    "in a context manager": (
        "class C:\n    def __enter__(self): return self\n    def __exit__(self, *a): raise make()\n"
        "with C(): raise make()"
    ),
    "in a signal handler": (
        "import signal, time\ndef handler(*args): raise make()\n"
        "signal.signal(signal.SIGALRM, handler)\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\n"
        "time.sleep(0.5)"
    ),
    "in a signal handler after the run": (
        "import signal, time\ndef handler(*args): raise make()\n"
        "signal.signal(signal.SIGALRM, handler)\nsignal.setitimer(signal.ITIMER_REAL, 0.02)"
    ),
}  # fmt: skip
