"""What hostile programs put into the places of hooks, streams, names and settings."""

from __future__ import annotations

from tests.kernelspecs.python.hostile_ways import RAISING, RECURSE

_EXITING = "def f(*a, **k): raise SystemExit(3)\n"

_EXITING_FLUSH = (
    "class C:\n    closed = False\n    def write(self, *a): return 1\n"
    "    def flush(self): raise SystemExit(3)"
)

HOOKS: dict[str, str] = {
    **{
        f"{hook} {way}": (
            f"{RECURSE}import sys, threading\ndef hook(*args):\n    {RAISING[way]}\n{hook} = hook\n"
        )
        for hook in ("sys.excepthook", "sys.displayhook", "sys.unraisablehook",
                     "threading.excepthook")
        for way in ("raises", "exits", "interrupts", "recurses", "prints")
    },
    **{f"{hook} {what}": f"import sys, threading\n{change}\n"
       for hook in ("sys.excepthook", "sys.displayhook", "sys.unraisablehook",
                    "threading.excepthook", "sys.__excepthook__", "sys.__displayhook__")
       for what, change in (("is None", f"{hook} = None"), ("is deleted", f"del {hook}"))},
    **{
        f"event {event} {way}": (
            f"{RECURSE}def on_event(*args):\n    {RAISING[way]}\n"
            f"get_ipython().events.register('{event}', on_event)\n"
        )
        for event in ("pre_run_cell", "post_run_cell", "pre_execute", "post_execute")
        for way in ("raises", "exits", "interrupts", "recurses")
    },
    **{
        f"events {what}": f"get_ipython().events{change}\n"
        for what, change in [("are None", " = None"), ("have no callbacks", ".callbacks = None"),
                             ("trigger nothing", ".trigger = None")]
    },
    "formatter exits": (
        "def f(value, *args): raise SystemExit(3)\n"
        "get_ipython().display_formatter.formatters['text/html'].for_type(int, f)\n"
    ),
    "formatter returns junk": (
        "def f(value, *args): return object()\n"
        "get_ipython().display_formatter.formatters['text/html'].for_type(int, f)\n"
    ),
    "formatters gone": "get_ipython().display_formatter.formatters.clear()\n",
    "formatter gone": "get_ipython().display_formatter.format = None\n",
    "transformer exits": (
        "class T:\n    def visit(self, node): raise SystemExit(3)\n"
        "get_ipython().ast_transformers.append(T())\n"
    ),
    "transformer returns junk": (
        "class T:\n    def visit(self, node): return 5\n"
        "get_ipython().ast_transformers.append(T())\n"
    ),
    "transformers are junk": "get_ipython().ast_transformers = [5]\n",
    "input transformer exits": (
        "def t(lines): raise SystemExit(3)\nget_ipython().input_transformers_cleanup.append(t)\n"
    ),
    "no shell": "get_ipython().__class__._instance = None\n",
    "shell emptied": "vars(get_ipython()).clear()\n",
    "kernel emptied": "vars(get_ipython().kernel).clear()\n",
    "namespace cleared": "globals().clear()\n",
    "builtins name replaced": "__builtins__ = {}\n",
    "main's name": "__name__ = 5\n",
    "custom handler": (
        "def handler(*args): raise SystemExit(3)\n"
        "get_ipython().set_custom_exc((Exception,), handler)\n"
    ),
    **{
        f"linecache.{name}": f"import linecache\n{_EXITING}linecache.{name} = f\n"
        for name in ("getline", "getlines", "checkcache", "lazycache", "updatecache")
    },
    "linecache.cache is junk": "import linecache\nlinecache.cache = 5\n",
    "linecache.cache holds junk": (
        "import linecache\nlinecache.cache['<cell 1>'] = 5\nlinecache.cache[5] = object()\n"
    ),
    **{
        f"traceback.{name}": f"import traceback\n{_EXITING}traceback.{name} = f\n"
        for name in ("TracebackException", "format_exc", "StackSummary", "FrameSummary",
                     "walk_tb", "_some_str", "_safe_string", "format_exception", "extract_tb")
    },
    "TracebackException.format": (
        "import traceback\ndef f(*a, **k): raise SystemExit(3)\n"
        "traceback.TracebackException.format = f\n"
    ),
    "TracebackException.__init__": (
        "import traceback\ntraceback.TracebackException.__init__ = lambda *a, **k: None\n"
    ),
    **{
        f"sys.{stream} {name}": f"import sys\n{definition}\nsys.{stream} = {value}\n"
        for stream in ("stdout", "stderr", "stdin")
        for name, definition, value in [
            ("is None", "", "None"), ("is junk", "", "object()"),
            ("raises", "class C:\n    def write(self, *a): 1 / 0\n    flush = write", "C()"),
            ("exits", "class C:\n    def __getattr__(self, name): raise SystemExit(3)", "C()"),
            ("interrupts", "class C:\n    def __getattribute__(self, n): raise KeyboardInterrupt",
             "C()"),
            ("exits in flush", _EXITING_FLUSH, "C()"),
        ]
    },
    "sys.stdout is deleted": "import sys\ndel sys.stdout\n",
    "sys.stderr is deleted": "import sys\ndel sys.stderr\n",
    "sys.stdin is deleted": "import sys\ndel sys.stdin\n",
    "sys.__stdout__ is deleted": "import sys\ndel sys.__stdout__, sys.__stderr__, sys.__stdin__\n",
    "streams closed": "import sys\nsys.stdout.close(); sys.stderr.close(); sys.stdin.close()\n",
    "buffer closed": "import sys\nsys.stdout.buffer.close()\n",
    "descriptors closed": "import os\nos.close(0); os.close(1); os.close(2)\n",
    "all descriptors closed": "import os\nos.closerange(0, 2000)\n",
    "all descriptors closed one by one": (
        "import os\nfor n in range(2000):\n    try: os.close(n)\n    except OSError: pass\n"
    ),
    "a loop without descriptors": (
        "import asyncio, os\nasyncio.get_event_loop().call_later(9, print)\n"
        "os.closerange(3, 2000)\n"
    ),
    "path is junk": "import sys\nsys.path[:] = [5, None, b'x', object(), '\\0']\n",
    "path is None": "import sys\nsys.path = None\n",
    "meta_path is junk": "import sys\nsys.meta_path.insert(0, object())\n",
    "meta_path exits": (
        "import sys\nclass F:\n    def find_spec(self, *a): raise SystemExit(3)\n"
        "sys.meta_path.insert(0, F())\n"
    ),
    "meta_path is empty": "import sys\nsys.meta_path.clear()\n",
    "path hooks exit": (
        "import sys\ndef hook(path): raise SystemExit(3)\nsys.path_hooks.insert(0, hook)\n"
        "sys.path_importer_cache.clear()\n"
    ),
    "importer cache is junk": (
        "import sys, os\nclass F:\n    def __getattr__(self, name): raise SystemExit(3)\n"
        "sys.path_importer_cache[os.getcwd() + '/x'] = F()\n"
        "sys.path_importer_cache[5] = F()\nsys.path_importer_cache[None] = 5\n"
        "sys.path_importer_cache[b'x'] = object()\nsys.path_importer_cache[os.getcwd()] = 5\n"
    ),
    "importer cache is None": "import sys\nsys.path_importer_cache = None\n",
    "argv is deleted": "import sys\ndel sys.argv\n",
    "environ is junk": "import os\nos.environ = {5: None}\n",
    "environ is None": "import os\nos.environ = None\n",
    **{
        f"builtins.{name} {what}": f"import builtins\n{change}\n"
        for name in ("print", "len", "isinstance", "__import__", "open", "getattr", "repr", "str",
                     "type", "dict", "list", "sorted", "hasattr", "super", "Exception",
                     "BaseException", "SystemExit", "KeyboardInterrupt", "__build_class__", "id",
                     "map", "set", "callable", "tuple", "bytes", "int", "compile", "eval")
        for what, change in (
            ("is None", f"builtins.{name} = None"),
            ("is deleted", f"del builtins.{name}"),
            ("exits", f"def f(*a, **k): raise SystemExit(3)\nbuiltins.{name} = f"),
        )
    },
    "builtins cleared": "import builtins\nvars(builtins).clear()\n",
    "tracing exits": (
        "import sys\ndef trace(frame, event, argument):\n"
        "    if 'era_kernel' in frame.f_code.co_filename: raise SystemExit(3)\n"
        "    return trace\nsys.settrace(trace)\n"
    ),
    "profiling exits": (
        "import sys\ndef profile(frame, event, argument):\n"
        "    if 'era_kernel' in frame.f_code.co_filename: raise SystemExit(3)\n"
        "sys.setprofile(profile)\n"
    ),
    "threads traced": (
        "import threading\ndef trace(*a): raise SystemExit(3)\nthreading.settrace(trace)\n"
        "threading.setprofile(trace)\n"
    ),
    "low recursion limit": "import sys\nsys.setrecursionlimit(60)\n",
    "no collection": "import gc\ngc.disable(); gc.set_threshold(1)\n",
    "collection callback exits": (
        "import gc\ndef callback(*a): raise SystemExit(3)\ngc.callbacks.append(callback)\n"
        "gc.set_threshold(1)\n"
    ),
    "long switches": "import sys\nsys.setswitchinterval(100)\n",
    "warnings are errors": "import warnings\nwarnings.simplefilter('error')\n",
    "showwarning exits": (
        "import warnings\ndef f(*a, **k): raise SystemExit(3)\nwarnings.showwarning = f\n"
        "warnings.formatwarning = f\n"
    ),
    "audit hook exits": (
        "import sys\nn = [0]\ndef audit(event, args):\n    n[0] += 1\n"
        "    if event == 'compile' and n[0] % 3 == 0: raise SystemExit(3)\n"
        "sys.addaudithook(audit)\n"
    ),
    "signals blocked": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))\n",
    "atexit exits": "import atexit\ndef f(): raise SystemExit(3)\n_ = atexit.register(f)\n",
    "loop closed": "import asyncio\nasyncio.get_event_loop().close()\n",
    "loop stopped": "import asyncio\nasyncio.get_event_loop().stop()\n",
    "loop is None": "import asyncio\nasyncio.set_event_loop(None)\n",
    "loop policy is junk": (
        "import asyncio\nclass P(asyncio.DefaultEventLoopPolicy):\n"
        "    def get_event_loop(self): raise SystemExit(3)\n    new_event_loop = get_event_loop\n"
        "asyncio.set_event_loop_policy(P())\n"
    ),
    "all tasks cancelled": "import asyncio\n[t.cancel() for t in asyncio.all_tasks()]\n",
    "context variables": (
        "import contextvars\nfor v in list(contextvars.copy_context()):\n    v.set(None)\n"
    ),
}  # fmt: skip
