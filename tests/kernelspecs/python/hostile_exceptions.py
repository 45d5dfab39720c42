"""Exceptions that hostile programs raise: each part defines `make()`, which returns one."""

from __future__ import annotations

from tests.kernelspecs.python.hostile_ways import RAISING, RECURSE


def _methods(names: list[str], ways: list[str] | None = None) -> dict[str, str]:
    """Returns exceptions of which one method does what it must not."""
    return {
        f"{name} {way}": (
            f"{RECURSE}class Hostile(Exception):\n"
            f"    def {name}(self, *args):\n        {RAISING[way]}\n"
            "def make():\n    return Hostile('boom')\n"
        )
        for name in names
        for way in ways or RAISING
    }


def _properties(names: list[str], ways: list[str]) -> dict[str, str]:
    """Returns exceptions of which one attribute is a property that does what it must not."""
    return {
        f"property {name} {way}": (
            f"{RECURSE}class Hostile(Exception):\n"
            f"    @property\n    def {name}(self):\n        {RAISING[way]}\n"
            f"    @{name}.setter\n    def {name}(self, value):\n        {RAISING[way]}\n"
            "def make():\n    return Hostile('boom')\n"
        )
        for name in names
        for way in ways
    }


def _metaclasses(names: list[str], ways: list[str]) -> dict[str, str]:
    """Returns exceptions whose class has a metaclass that does what it must not."""
    return {
        f"metaclass {name} {way}": (
            f"{RECURSE}class Meta(type):\n{decorator}"
            f"    def {name}(self, *args):\n        {RAISING[way]}\n"
            "class Hostile(Exception, metaclass=Meta):\n    pass\n"
            "def make():\n    return Hostile('boom')\n"
        )
        for name, decorator in (
            (name, "" if name in _META_METHODS else "    @property\n") for name in names
        )
        for way in ways
    }


_META_METHODS = ["__instancecheck__", "__subclasscheck__", "__hash__", "__eq__", "__repr__",
                 "__getattribute__", "mro_entries", "__getattr__"]  # fmt: skip
_FEW_WAYS = ["raises", "exits", "interrupts", "recurses", "is an int", "is an object"]


def _made(definition: str, expression: str = "Hostile('boom')") -> str:
    return f"{definition}\ndef make():\n    return {expression}\n"


EXCEPTIONS: dict[str, str] = {
    "plain": _made("", "ValueError('boom')"),
    **_methods(["__str__", "__repr__"]),
    **_methods(
        ["__getattribute__", "__getattr__", "__setattr__", "__delattr__", "with_traceback"],
        ["raises", "exits", "interrupts", "misses a key", "recurses", "is an int", "is None"],
    ),
    **_methods(["__eq__", "__hash__", "__bool__", "__reduce__", "__del__", "__dir__"], _FEW_WAYS),
    **_properties(
        ["args", "__traceback__", "__cause__", "__context__", "__notes__", "__suppress_context__",
         "__class__", "__dict__", "__module__"],
        _FEW_WAYS,
    ),
    **_metaclasses(
        ["__name__", "__qualname__", "__module__", "__mro__", "__bases__", "__dict__",
         *_META_METHODS],
        ["raises", "exits", "recurses", "is an int"],
    ),
    "frozen dataclass": _made(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\n"
        "class Hostile(Exception):\n    text: str"
    ),
    "frozen dataclass with slots": _made(
        "from dataclasses import dataclass\n@dataclass(frozen=True, slots=True)\n"
        "class Hostile(Exception):\n    text: str"
    ),
    "slots": _made("class Hostile(Exception):\n    __slots__ = ()"),
    "huge text": _made(
        "class Hostile(Exception):\n    def __str__(self): return 'x' * 100_000_000"
    ),
    "huge text of lines": _made(
        "class Hostile(Exception):\n    def __str__(self): return 'x\\n' * 10_000_000"
    ),
    "huge name": _made("Hostile = type('H' * 5_000_000, (Exception,), {})"),
    "name with lines": _made("Hostile = type('a\\nb\\x1b[0m', (Exception,), {})"),
    "name with a surrogate": _made(
        "Hostile = type('a', (Exception,), {'__qualname__': '\\ud800'})"
    ),
    "text of a subclass of str": _made(
        "class Text(str):\n    def __getattribute__(self, name): raise SystemExit(3)\n"
        "class Hostile(Exception):\n    def __str__(self): return Text('boom')"
    ),
    "huge integer": _made("", "ValueError(10 ** 5000)"),
    "module is no text": _made("class Hostile(Exception):\n    __module__ = 5"),
    "own cause": _made(
        "", "(lambda e: (setattr(e, '__cause__', e), e)[1])(ValueError('boom'))"
    ),
    "own context by a property": _made(
        "class Hostile(Exception):\n    @property\n    def __context__(self): return self\n"
        "    @__context__.setter\n    def __context__(self, value): pass"
    ),
    "new context each time": _made(
        "class Hostile(Exception):\n    @property\n"
        "    def __context__(self): return Hostile('more')\n"
        "    @__context__.setter\n    def __context__(self, value): pass"
    ),
    "new cause each time": _made(
        "class Hostile(Exception):\n    __suppress_context__ = False\n    @property\n"
        "    def __cause__(self): return Hostile('more')"
    ),
    "circle of causes": (
        "def make():\n    a, b, c = ValueError('a'), KeyError('b'), TypeError('c')\n"
        "    a.__cause__, b.__cause__, c.__context__ = b, c, a\n    return a\n"
    ),
    "long chain of contexts": (
        "def make():\n    last = None\n    for n in range(5000):\n"
        "        error = ValueError(n)\n        error.__context__ = last\n        last = error\n"
        "    return last\n"
    ),
    "long chain of causes": (
        "def make():\n    last = None\n    for n in range(5000):\n"
        "        error = ValueError(n)\n        error.__cause__ = last\n        last = error\n"
        "    return last\n"
    ),
    "notes are no list": _made("class Hostile(Exception):\n    __notes__ = 5"),
    "notes are no texts": _made("class Hostile(Exception):\n    __notes__ = [5, None, object()]"),
    "notes for ever": _made(
        "class Notes(list):\n    def __iter__(self):\n        while True: yield 'more'\n"
        "class Hostile(Exception):\n    __notes__ = Notes([1])"
    ),
    "note that exits": _made(
        "class Note:\n    def __str__(self): raise SystemExit(3)\n"
        "class Hostile(Exception):\n    __notes__ = [Note()]"
    ),
    "traceback is a lie": _made("class Hostile(Exception):\n    __traceback__ = 'none'"),
    "cause is no exception": _made("class Hostile(Exception):\n    __cause__ = 'none'"),
    "cause is hostile": (
        "class Cause(Exception):\n    def __getattribute__(self, name): raise SystemExit(3)\n"
        "def make():\n    error = ValueError('boom')\n    error.__cause__ = Cause()\n"
        "    return error\n"
    ),
    "class is another": _made("class Hostile(Exception):\n    __class__ = KeyboardInterrupt"),
    "new returns another": (
        "class Hostile(Exception):\n    def __new__(cls, *args): return 5\n"
        "def make():\n    return Hostile\n"
    ),
    "init exits": (
        "class Hostile(Exception):\n    def __init__(self, *args): raise SystemExit(3)\n"
        "def make():\n    return Hostile\n"
    ),
    # ------------------------------------------------------------ groups
    "group": _made("", "ExceptionGroup('several', [ValueError('a'), KeyError('b')])"),
    "deep group": (
        "def make():\n    error = ValueError('a')\n    for _ in range(3000):\n"
        "        error = ExceptionGroup('g', [error])\n    return error\n"
    ),
    "wide group": _made("", "ExceptionGroup('g', [ValueError(n) for n in range(100_000)])"),
    "group of one twice": _made("e = ValueError('a')", "ExceptionGroup('g', [e] * 50)"),
    "group of groups twice": (
        "def make():\n    error = ValueError('a')\n    for _ in range(40):\n"
        "        error = ExceptionGroup('g', [error, error])\n    return error\n"
    ),
    **{
        f"group exceptions {way}": _made(
            f"{RECURSE}class Hostile(ExceptionGroup):\n    @property\n"
            f"    def exceptions(self):\n        {RAISING[way]}",
            "Hostile('g', [ValueError('a')])",
        )
        for way in [*_FEW_WAYS, "is None"]
    },
    "group in itself": _made(
        "class Hostile(ExceptionGroup):\n    @property\n    def exceptions(self): return (self,)",
        "Hostile('g', [ValueError('a')])",
    ),
    "group for ever": _made(
        "class Hostile(ExceptionGroup):\n    @property\n"
        "    def exceptions(self): return (Hostile('g', [ValueError('a')]),) * 2",
        "Hostile('g', [ValueError('a')])",
    ),
    "group split": _made(
        "class Hostile(ExceptionGroup):\n    def split(self, *args): raise SystemExit(3)\n"
        "    def derive(self, *args): return 5\n    def subgroup(self, *args): raise KeyError",
        "Hostile('g', [ValueError('a')])",
    ),
    "group message": _made(
        "class Hostile(ExceptionGroup):\n    @property\n    def message(self): raise SystemExit(3)",
        "Hostile('g', [ValueError('a')])",
    ),
    "base group": _made("", "BaseExceptionGroup('g', [SystemExit(3), KeyboardInterrupt()])"),
    # ------------------------------------------------------------ ends
    **{
        f"exit with {name}": f"{RECURSE}{definition}\ndef make():\n    return SystemExit({code})\n"
        for name, definition, code in [
            *(
                (f"text that {way}", f"class C:\n    def __str__(self): {RAISING[way]}", "C()")
                for way in RAISING
            ),
            ("an int that exits",
             "class C(int):\n    def __and__(self, n): raise SystemExit", "C(3)"),
            ("an int that is text", "class C(int):\n    def __and__(self, n): return 'x'", "C(3)"),
            ("a huge int", "", "1 << 5000"),
            ("a negative int", "", "-(1 << 70)"),
            ("a class that lies", "class C:\n    __class__ = int", "C()"),
            ("a class that exits",
             "class C:\n    @property\n    def __class__(self): raise SystemExit", "C()"),
            ("a surrogate", "", "'\\ud800'"),
            ("a huge text", "", "'x' * 100_000_000"),
            ("an exception", "", "ValueError('x')"),
            ("itself", "c = SystemExit(); c.code = c", "c"),
        ]
    },
    **{
        f"exit whose code {way}": _made(
            f"{RECURSE}class Hostile(SystemExit):\n    @property\n"
            f"    def code(self):\n        {RAISING[way]}"
        )
        for way in _FEW_WAYS
    },
    "exit without a code": "def make():\n    e = SystemExit(3)\n    del e.code\n    return e\n",
    "frozen exit": _made(
        "class Hostile(SystemExit):\n    def __setattr__(self, *args): raise TypeError('frozen')"
    ),
    **{
        f"subclass of {base}": _made(f"class Hostile({base}):\n    pass")
        for base in ("KeyboardInterrupt", "GeneratorExit", "StopIteration", "BaseException",
                     "StopAsyncIteration", "MemoryError", "RecursionError", "ImportError")
    },
    "hostile interrupt": _made(
        "class Hostile(KeyboardInterrupt):\n    def __str__(self): raise KeyboardInterrupt"
    ),
    "cancelled": _made("import asyncio", "asyncio.CancelledError('boom')"),
    # ------------------------------------------------------------ errors with fields
    **{
        f"syntax error: {name}": (
            f"def make():\n    e = SyntaxError('boom')\n    {change}\n    return e\n"
        )
        for name, change in [
            ("huge line", "e.lineno = 10 ** 100; e.text = 'x'; e.offset = 10 ** 100"),
            ("negative line", "e.lineno = -5; e.text = 'x'; e.offset = -5"),
            ("line is text", "e.lineno = 'x'; e.offset = 'y'; e.text = 'z'"),
            ("text is no text", "e.lineno = 1; e.text = 5; e.offset = 1"),
            ("file is no text", "e.filename = 5; e.lineno = 1; e.text = 'x'"),
            ("no message", "e.msg = None; e.lineno = 1"),
            ("message is no text", "e.msg = object(); e.lineno = 1; e.text = 'x'"),
            ("ends before it starts",
             "e.lineno = 5; e.end_lineno = 1; e.offset = 9; e.end_offset = 2; e.text = 'abc'"),
            ("print_file_and_line", "e.print_file_and_line = object(); e.lineno = 1"),
            ("huge text", "e.lineno = 1; e.offset = 1; e.text = 'x' * 50_000_000"),
            ("of the cell", "e.filename = '<cell 1>'; e.lineno = 1"),
        ]
    },
    "syntax error whose line exits": _made(
        "class Hostile(SyntaxError):\n    @property\n    def lineno(self): raise SystemExit(3)\n"
        "    @property\n    def text(self): raise KeyboardInterrupt"
    ),
    "syntax error that is frozen": _made(
        "class Hostile(SyntaxError):\n    def __setattr__(self, *args): raise TypeError('frozen')"
    ),
    "unicode error": _made("", "UnicodeDecodeError('utf-8', b'a', 500, -3, 'boom')"),
    "unicode error without fields": _made("", "UnicodeDecodeError.__new__(UnicodeDecodeError)"),
    "unicode error of an odd codec": _made("", "UnicodeEncodeError('\\ud800', 'x', 0, 9, '')"),
    "os error of odd parts": _made("", "OSError(object(), [], {}, None, b'x')"),
    "os error of a hostile part": _made(
        "class C:\n    def __str__(self): raise SystemExit(3)\n    __repr__ = __str__",
        "OSError(C(), C(), C())",
    ),
    "key error of a hostile key": _made(
        "class C:\n    def __repr__(self): raise KeyboardInterrupt", "KeyError(C())"
    ),
    "name error that suggests": _made(
        "class C:\n    def __dir__(self): raise SystemExit(3)",
        "AttributeError('boom', name='x', obj=C())",
    ),
    "name error of no text": _made("", "NameError('boom', name=5)"),
    "import error that suggests": _made("", "ImportError('boom', name=5, name_from=object())"),
}  # fmt: skip
