"""What hostile programs put into `sys.modules`, or do to it."""

from __future__ import annotations

from tests.kernelspecs.python.hostile_ways import RAISING, RECURSE


def _module(body: str, key: str = "'hostile'") -> str:
    """Returns a program that puts an object in `sys.modules`."""
    return f"import sys, types\n{body}\nsys.modules[{key}] = M('hostile')\n"


_EXITING_TYPE = (
    "class T(type):\n    def __getattribute__(self, name): raise SystemExit(3)\n"
    "class C(metaclass=T): pass"
)
_EXITING_FILE = (
    "import os\nclass S(str):\n    def __getattribute__(self, name): raise SystemExit(3)\n"
    "    def __format__(self, spec): raise SystemExit(3)\n"
    "class C: __file__ = S(os.path.abspath('x.py'))"
)

MODULES: dict[str, str] = {
    **{
        f"{name} {way}": _module(
            f"{RECURSE}class M(types.ModuleType):\n"
            f"    def {name}(self, *args):\n        {RAISING[way]}"
        )
        for name in ("__getattr__", "__getattribute__", "__setattr__", "__eq__", "__hash__",
                     "__repr__", "__dir__", "__bool__")
        for way in ("raises", "exits", "interrupts", "misses a key", "recurses", "is an int")
    },
    **{
        f"property {name} {way}": _module(
            f"{RECURSE}class M(types.ModuleType):\n    @property\n"
            f"    def {name}(self):\n        {RAISING[way]}"
        )
        for name in ("__file__", "__dict__", "__name__", "__spec__", "__class__", "__path__",
                     "__loader__")
        for way in ("raises", "exits", "interrupts", "is an int", "is an object")
    },
    **{
        f"no module: {name}": f"import sys\n{definition}\nsys.modules['hostile'] = {value}\n"
        for name, definition, value in [
            ("None", "", "None"), ("an int", "", "5"), ("a text", "", "'text'"),
            ("a class", "class C:\n    __file__ = 5\n    __dict__ = 3", "C"),
            ("an object without a dict", "", "object()"),
            ("an object that exits",
             "class C:\n    def __getattribute__(self, name): raise SystemExit(3)", "C()"),
            ("a metaclass that exits", _EXITING_TYPE, "C"),
            ("a mock", "from unittest.mock import MagicMock", "MagicMock()"),
            ("a file that is bytes", "class C: __file__ = b'x'", "C()"),
            ("a file that is a str subclass", _EXITING_FILE, "C()"),
            ("a file with NUL", "class C: __file__ = 'a\\0b.py'", "C()"),
            ("a file with a surrogate", "class C: __file__ = '\\ud800.py'", "C()"),
            ("a huge file name", "class C: __file__ = 'x' * 10_000_000", "C()"),
            ("a file that is a folder", "class C: __file__ = '.'", "C()"),
            ("a file that is a device", "class C: __file__ = '/dev/zero'", "C()"),
        ]
    },
    "lazy and broken": (
        "import importlib.util, sys, pathlib\npathlib.Path('lazy_broken.py').write_text('1 / 0')\n"
        "spec = importlib.util.find_spec('lazy_broken')\n"
        "spec.loader = importlib.util.LazyLoader(spec.loader)\n"
        "module = importlib.util.module_from_spec(spec)\nsys.modules['lazy_broken'] = module\n"
        "spec.loader.exec_module(module)\n"
    ),
    "lazy and exiting": (
        "import importlib.util, sys, pathlib\n"
        "pathlib.Path('lazy_exit.py').write_text('raise SystemExit(3)')\n"
        "spec = importlib.util.find_spec('lazy_exit')\n"
        "spec.loader = importlib.util.LazyLoader(spec.loader)\n"
        "module = importlib.util.module_from_spec(spec)\nsys.modules['lazy_exit'] = module\n"
        "spec.loader.exec_module(module)\n"
    ),
    "a module of the workspace with hostile values": (
        "import sys, pathlib\npathlib.Path('values.py').write_text('''\n"
        "class T(type):\n    def __getattribute__(self, name): raise SystemExit(3)\n"
        "    def __call__(self): pass\n    def __hash__(self): raise KeyboardInterrupt\n"
        "class C(metaclass=T): pass\n"
        "class V:\n    def __getattribute__(self, name): raise SystemExit(3)\n"
        "    def __call__(self): pass\n"
        "value = V()\n''')\npathlib.Path('other.py').write_text('x = 1')\n"
        "import values, other\npathlib.Path('other.py').write_text('x = 22')\n"
    ),
    "a module that replaces itself": (
        "import pathlib\npathlib.Path('replaced.py').write_text('import sys\\nclass C:\\n"
        "    def __getattr__(self, name): raise SystemExit(3)\\n"
        "sys.modules[__name__] = C()')\nimport replaced\n"
    ),
    "integer key": "import sys\nsys.modules[5] = sys\n",
    "None key": "import sys\nsys.modules[None] = None\n",
    "tuple key": "import sys\nsys.modules[(1, 2)] = sys\n",
    "key of a str subclass": (
        "import sys\nclass S(str):\n    def __getattribute__(self, name): raise SystemExit(3)\n"
        "    __hash__ = str.__hash__\n    def __eq__(self, other): raise SystemExit(3)\n"
        "sys.modules[S('odd')] = sys\n"
    ),
    "key that raises later": (
        "import sys\nclass S(str):\n    armed = False\n    def __hash__(self):\n"
        "        if S.armed: raise SystemExit(3)\n        return str.__hash__(self)\n"
        "sys.modules[S('odd')] = sys\nS.armed = True\n"
    ),
    "modules cleared": "import sys\nsys.modules.clear()\n",
    "modules replaced": "import sys\nsys.modules = {}\n",
    "modules is None": "import sys\nsys.modules = None\n",
    "modules deleted": "import sys\ndel sys.modules\n",
    "modules grow": (
        "import sys\nclass M(type(sys)):\n    def __getattribute__(self, name):\n"
        "        sys.modules[f'more{len(sys.modules)}'] = sys\n        raise AttributeError\n"
        "sys.modules['growing'] = M('growing')\n"
    ),
    "main replaced": "import sys\nsys.modules['__main__'] = 5\n",
    "modules of the kernel gone": (
        "import sys\nfor name in list(sys.modules):\n"
        "    if name.startswith(('era_kernel', 'IPython', 'zmq', 'jupyter', 'ipykernel')):\n"
        "        del sys.modules[name]\n"
    ),
    "modules of the library gone": (
        "import sys\nfor name in ('traceback', 'linecache', 'json', 'os', 'asyncio', 'threading',\n"
        "             'multiprocessing', 'concurrent.futures', 'pathlib', 're'):\n"
        "    sys.modules[name] = None\n"
    ),
    "multiprocessing is another": (
        "import sys\nclass C:\n    def __getattr__(self, name): raise SystemExit(3)\n"
        "sys.modules['multiprocessing.process'] = C()\n"
    ),
    "multiprocessing children": (
        "import multiprocessing.process\nclass C:\n"
        "    def __getattr__(self, name): raise SystemExit(3)\n"
        "multiprocessing.process._children = {C()}\n"
    ),
    "workspace removed": (
        "import os, tempfile\nd = tempfile.mkdtemp()\nos.chdir(d)\nos.rmdir(d)\n"
    ),
}  # fmt: skip
