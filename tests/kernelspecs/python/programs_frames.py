"""Programs that look at their own stack, whose output is the plain interpreter's."""

from __future__ import annotations

_DEEP = "def f(call, n):\n    return f(call, n - 1) if n else call()\n"

FRAMES = {
    **{
        f"a warning of level {level} in {depth} functions": (
            f"import warnings\n{_DEEP}\nf(lambda: warnings.warn('w', stacklevel={level}), {depth})"
        )
        for level in (-1, 0, 1, 2, 3, 5, 9)
        for depth in (0, 3)
    },
    "a warning of the top": (
        "import warnings\nfor n in (1, 2, 3):\n    warnings.warn('w', stacklevel=n)\n"
    ),
    "a warning by names": (
        "import warnings\nwarnings.warn(message='w', category=DeprecationWarning, stacklevel=1)\n"
        "warnings.warn(FutureWarning('w'), source=5, stacklevel=2)\n"
    ),
    "no warnings": (
        "import warnings\nfor call in (lambda: warnings.warn(), lambda: warnings.warn('w', int),\n"
        "             lambda: warnings.warn('w', None, 'x'), lambda: warnings.warn('w', x=1)):\n"
        "    try:\n        call()\n    except TypeError as error:\n"
        "        print(type(error))\n"
    ),
    "a warning once for each place": (
        "import warnings\nfor n in range(5):\n    warnings.warn('w', stacklevel=2)\n"
        "    warnings.warn('v')\n"
    ),
    "warnings that are recorded": (
        "import warnings\nwith warnings.catch_warnings(record=True) as found:\n"
        "    warnings.simplefilter('always')\n    warnings.warn('w', stacklevel=2)\n"
        "print([(str(w.message), w.filename, w.lineno) for w in found])\n"
    ),
    "inspect.stack": (
        f"import inspect\n{_DEEP}"
        "print([(s.function, s.lineno, s.code_context) for s in f(inspect.stack, 2)])\n"
        "print(len(inspect.stack(0)), inspect.stack()[-1].function)\n"
    ),
    "a stack that is printed": (
        f"import traceback, sys\n{_DEEP}f(traceback.print_stack, 2)\n"
        "print(traceback.format_stack()[0], len(f(traceback.extract_stack, 3)))\n"
        "print(len(list(traceback.walk_stack(sys._getframe()))))\n"
    ),
    "a stack in a class body": (
        "import traceback\nclass C:\n    traceback.print_stack()\n"
        "    [traceback.print_stack() for _ in range(1)]\n"
    ),
    "a stack in a thread": (
        "import inspect, threading\ndef work():\n"
        "    print([s.function for s in inspect.stack(0)])\n"
        "thread = threading.Thread(target=work)\nthread.start(); thread.join()\n"
    ),
    "a stack in asyncio": (
        "import asyncio, inspect\nasync def work():\n"
        "    print([s.function for s in inspect.stack(0)])\nasyncio.run(work())\n"
    ),
    "a stack in a destructor and at exit": (
        "import atexit, inspect\nclass D:\n    def __del__(self):\n"
        "        print([s.function for s in inspect.stack(0)])\nD()\n"
        "atexit.register(lambda: print([s.function for s in inspect.stack(0)]))\n"
    ),
    "a stack in a signal handler": (
        "import inspect, signal\ndef handler(*_):\n"
        "    print([s.function for s in inspect.stack(0)])\n"
        "signal.signal(signal.SIGUSR1, handler)\nsignal.raise_signal(signal.SIGUSR1)\n"
    ),
    "places of log records": (
        "import logging\nlogging.basicConfig(format='%(lineno)d %(funcName)s %(message)s')\n"
        f"{_DEEP}for n in (1, 2, 3, 9):\n"
        "    logging.warning('%d', n, stacklevel=n)\n"
        "    f(lambda: logging.warning('%d', n, stacklevel=n), 2)\n"
    ),
    "a log record with its stack": (
        "import logging\nlogging.getLogger().error('here', stack_info=True)\n"
    ),
}
