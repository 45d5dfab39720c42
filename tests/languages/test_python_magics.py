"""What IPython adds to Python in a session: magics, shell lines, `_`, `Out` and `In`.

Rows as in `test_python.py`: the last cell's answer is compared.
"""

from __future__ import annotations

import pytest

from tests.client import SessionClient
from tests.languages.test_python import Row, check_row, session

__all__ = ["session"]

ZERO = "ZeroDivisionError: division by zero"
UNKNOWN = "No traceback has been produced, nothing to debug."
MAGIC_ROWS = {
    # ------------------------------------------------------------ values and inputs
    "_": Row(("6 * 7", "_ + 1"), results=("43",)),
    "_ is the last value": Row(("1", "2", "None", "x = 5", "_"), results=("2",)),
    "__ and ___": Row(("1", "2", "3", "print(_, __, ___)"), "3 2 1\n"),
    "_ before any value": Row(("_",), stderr="NameError: name '_' is not defined", exit_code=1),
    "_ of a loop": Row(("6 * 7", "for _ in range(3): pass", "'x'", "print(_)"), "2\n"),
    "_ of gettext": Row(
        ("import gettext\ngettext.install('none')", "6 * 7", "print(_('text'))"), "text\n"
    ),
    "_ of gettext is removed": Row(
        ("import builtins\nbuiltins._ = str.upper", "1", "del builtins._", "2", "_"),
        results=("2",),
    ),
    "_ of a doctest": Row(
        (
            "def f():\n    '''\n    >>> 1 + 1\n    2\n    '''\nimport doctest\ndoctest.testmod();",
            "'mine'",
            "_",
        ),
        results=("'mine'",),
    ),
    "_ in a function": Row(("3", "def f(): return _ * 2", "f()"), results=("6",)),
    "_ after del": Row(("_ = 1", "5", "del _", "_"), results=("5",)),
    "no _ among the names": Row(
        ("6 * 7", "print([name for name in dir() if not name.startswith('__')])"), "[]\n"
    ),
    "a silenced value is not kept": Row(("1", "2;", "_"), results=("1",)),
    "Out": Row(("'a'", "x = 1", "'c'", "print(Out, Out[1])"), "{1: 'a', 3: 'c'} a\n"),
    "Out of itself": Row(("1", "Out", "list(Out)"), results=("[1]",)),
    "_1 and _oh": Row(("'a'", "print(_1, _oh is Out)"), "a True\n"),
    "In": Row(
        ("x = 1", "%pwd", "print(In[1:3], _i1, _i, _ii)"), "['x = 1', '%pwd'] x = 1 %pwd x = 1\n"
    ),
    "20 values": Row(
        (*(str(n) for n in range(30)), "print(len(Out), min(Out), _29, '_9' in dir(__builtins__))"),
        "20 11 28 False\n",
    ),
    "20 inputs": Row(
        (*(f"x{n} = 1" for n in range(30)), "print(len([s for s in In if s]), _i29)"),
        "20 x28 = 1\n",
    ),
    "a large value is kept in _ alone": Row(
        ("'a'", "list(range(2_500_000))", "n = len(_)", "'c'", "print(n, _, __, list(Out))"),
        "2500000 c a [1, 4]\n",
    ),
    "a value whose class is hostile": Row(
        (
            (
                "def fail(*_): raise SystemExit(3)\nclass M(type):\n    __getattribute__ = fail\n"
                "class A(metaclass=M):\n    __sizeof__ = __len__ = __hash__ = __eq__ = fail\n"
                "    def __repr__(self): return 'A!'\n    __class__ = property(fail)\n"
            ),
            "[A()];\nget_ipython().output_history.remember_value(2, [A()])",
            "print(_)",
        ),
        "[A!]\n",
    ),
    # ------------------------------------------------------------ the end of a run
    "exit": Row(("exit",)),
    "quit at the end": Row(("print('a')\nquit",), "a\n"),
    "exit in the middle is a name": Row(("exit\nprint('on')",), "on\n"),
    "after exit": Row(("x = 1", "exit", "x"), results=("1",)),
    # ------------------------------------------------------------ the last error
    "tb": Row(("1 / 0", "%tb"), stderr=ZERO),
    "tb of nothing": Row(("%tb",), stderr="No traceback available to show."),
    "last_value": Row(
        ("1 / 0", "import sys\nsys.last_value"),
        results=(repr(ZeroDivisionError("division by zero")),),
    ),
    "last_value of a magic's": Row(
        ("%time 1 / 0", "import sys\nprint(sys.last_type)"), "<class 'ZeroDivisionError'>\n"
    ),
    "no last_value": Row(
        ("import sys\nsys.exit(1)", "print(hasattr(sys, 'last_value'))"), "False\n"
    ),
    "debug of nothing": Row(("%debug",), stderr=f"UsageError: {UNKNOWN}", exit_code=1),
    # ------------------------------------------------------------ directories
    "cd": Row(("import os\nos.mkdir('d')", "%cd d", "print(os.path.basename(os.getcwd()))"), "d\n"),
    "cd back": Row(
        (
            "import os\nos.mkdir('d')\nhere = os.getcwd()",
            "%cd -q d\n%cd -q -\nprint(os.getcwd() == here)",
        ),
        "True\n",
    ),
    "pushd and popd": Row(
        (
            "import os\nos.mkdir('d')\nhere = os.getcwd()",
            "%pushd d\nprint(os.path.basename(os.getcwd()))",
            "%popd\nprint(os.getcwd() == here)",
        ),
        None,
    ),
    "dhist": Row(("%cd -q /", "%dhist"), None),
    "pwd": Row(("%cd -q /", "%pwd"), results=("'/'",)),
    "cd to nothing": Row(("%cd none",), None, exit_code=0),
    # ------------------------------------------------------------ errors in magics
    "time": Row(("%time 1 / 0",), None, ZERO, 1),
    "time of a cell": Row(("%%time\nx = 1\n1 / 0",), None, ZERO, 1),
    "time gives the value": Row(("%time 6 * 7",), None, results=("42",)),
    "timeit": Row(("%timeit -n1 -r1 1 / 0",), None, ZERO, 1),
    "timeit of a cell": Row(("%%timeit\n1 / 0",), None, ZERO, 1),
    "capture": Row(("%%capture\nprint(1)\n1 / 0",), "", ZERO, 1),
    "captured": Row(
        ("%%capture out\nprint(1)\n!echo 2\n3", "print(out.stdout, len(out.outputs))"), "1\n2\n 1\n"
    ),
    "captured before an error": Row(
        ("%%capture out\nprint(1)\n1 / 0", "print(out.stdout)"), "1\n\n"
    ),
    "capture without a display": Row(("%%capture --no-display\n6 * 7",), results=("42",)),
    "capture after timeit": Row(("%timeit -n1 -r1 pass", "%%capture\n1 / 0"), "", ZERO, 1),
    "captured with an await": Row(
        (
            "import asyncio\nasync def f():\n    await asyncio.sleep(0.01)\n    return 7",
            "%%capture out\nprint(await f())\nawait f()",
            "print(out.stdout, len(out.outputs))",
        ),
        "7\n 1\n",
    ),
    "pdb on": Row(
        ("%pdb on", "x = 1\n1 / 0"), "> <cell 2>(2)<module>()\n-> 1 / 0\n(Pdb) \n", ZERO, 1
    ),
    "prun": Row(("%prun 1 / 0",), None, ZERO, 1),
    "run": Row(
        ("open('m.py', 'w').write('x = 1\\n1 / 0');", "%run m.py\nprint('no')"), "", ZERO, 1
    ),
    "run and look": Row(
        ("open('m.py', 'w').write('x = 1\\n1 / 0');", "%run m.py", "print(x)"), "1\n"
    ),
    "run and exit": Row(
        ("open('m.py', 'w').write('import sys\\nsys.exit(3)');", "%run m.py\nprint('no')"),
        exit_code=3,
    ),
    "run and exit well": Row(
        ("open('m.py', 'w').write('import sys\\nsys.exit()');", "%run m.py\nprint('on')"), "on\n"
    ),
    "run takes names": Row(
        ("open('m.py', 'w').write('import sys\\nx = sys.argv[1]');", "%run m.py a", "x"),
        results=("'a'",),
    ),
    "run of no file": Row(
        ("%run none.py",), stderr="Exception: File `'none.py'` not found.", exit_code=1
    ),
    "no such magic": Row(
        ("%nosuch",), stderr="UsageError: Line magic function `%nosuch` not found.", exit_code=1
    ),
    "no such cell magic": Row(
        ("%%nosuch\nx",), stderr="UsageError: Cell magic `%%nosuch` not found.", exit_code=1
    ),
    "no such program": Row(
        ("%%script nosuch\nx",), stderr="UsageError: nosuch: No such file or directory", exit_code=1
    ),
    "edit": Row(
        ("%edit",),
        stderr="UsageError: There is no editor here; %%writefile makes a file.",
        exit_code=1,
    ),
    "a failing script": Row(
        ("%%bash\necho a\nexit 3",), "a\n", "' returned non-zero exit status 3.", 1
    ),
    # ------------------------------------------------------------ shell lines
    "names in a line": Row(("x = 'a b'\n!echo $x {x + 'c'} $$HOME_IS",), "a b a bc\n"),
    "names of a function": Row(("def f(y):\n    !echo {y}\nf(7)",), "7\n"),
    "lines of a command": Row(
        ("!printf 'a\\nb\\n'\nx = !printf 'a\\nb'\nprint(x, x.n)",), "a\nb\n['a', 'b'] a\nb\n"
    ),
    "stderr of a command": Row(("!echo a >&2",), stderr="a"),
    "exit code": Row(("!exit 3\nprint(_exit_code)",), "3\n"),
    "output of a script": Row(
        ("%%bash --out x --err y\necho a; echo b >&2", "print(x, y)"), "a\n b\n\n"
    ),
    "script in the background": Row(
        ("%%bash --bg --proc p\nsleep 0.1", "print(type(p).__name__)"), "_AsyncIOProxy\n"
    ),
    "python script": Row(("%%python3\nimport sys\nprint(sys.argv)",), "['']\n"),
    "sx": Row(("%sx echo a",), results=("['a']",)),
    "two exclamation marks": Row(("!!echo a",), results=("['a']",)),
    "into redirected stdout": Row(
        (
            (
                "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as out:\n"
                "    !echo a\nprint(repr(out.getvalue()))"
            ),
        ),
        "'a\\n'\n",
    ),
    # ------------------------------------------------------------ lines of source
    "after a continued line": Row(("!echo a \\\n  b\n1 / 0",), "a b\n", ZERO, 1),
    "inside a block": Row(("if True:\n    !echo a \\\n      b\n    x = 1\nprint(x)",), "a b\n1\n"),
    "after a continued magic": Row(("x = %sx echo a \\\n  b\nprint(x)",), "['a b']\n"),
    "a bracket in a shell line": Row(("!echo '('\nx = 1\nprint(x)\nx?",), None, exit_code=0),
    "shell lines in a text": Row(
        ("x = '''\n!echo a\n%pwd\n'''\n!echo b\nprint(x.strip())",), "b\n!echo a\n%pwd\n"
    ),
    "shell lines in brackets": Row(
        ("x = [1, '''\n!echo a''',\n  7 \\\n%(4)]\n!echo b\nprint(x)",), "b\n[1, '\\n!echo a', 3]\n"
    ),
    "separators beside a magic": Row(("x = 'a\u2028b\x0cc'\n!echo d\nprint(len(x))",), "d\n5\n"),
    # ------------------------------------------------------------ source of earlier cells
    "source of an earlier function": Row(
        ("def f():\n    return 1", "x = 1", "import inspect\nprint(inspect.getsource(f))"),
        "def f():\n    return 1\n\n",
    ),
    "source after a new definition": Row(
        (
            "class A:\n    x = 1\n    def f(self): return 1\nB = A",
            "class A:\n    def f(self): return 2",
            "import inspect\nprint(inspect.getsource(A) + inspect.getsource(B))",
        ),
        "class A:\n    def f(self): return 2\nclass A:\n    x = 1\n    def f(self): return 1\n\n",
    ),
    "source after a magic": Row(
        ("%pwd\n!echo a \\\n b\ndef f(): return 1", "import inspect\nprint(inspect.getsource(f))"),
        "def f(): return 1\n\n",
    ),
    "source in a magic": Row(
        ("%%time\nx = 1\ndef f(): return 1", "import inspect\nprint(inspect.getsource(f))"),
        "def f(): return 1\n\n",
    ),
    "debugger over cells": Row(
        (
            "import io, pdb\np = pdb.Pdb(stdin=io.StringIO('s\\nn\\nn\\nn\\nn\\n'), nosigint=True)",
            "p.set_trace()\nx = 1",
            "y = 1\nprint(y)",
        ),
        "1\n",
    ),
    "AST transformers": Row(
        (
            (
                "import ast\nclass T(ast.NodeTransformer):\n    def visit_Constant(self, node):\n"
                "        return ast.copy_location(ast.Constant(7), node)\n"
                "get_ipython().ast_transformers.append(T());"
            ),
            "x = 1\nx + 1",
        ),
        results=("14",),
    ),
    # ------------------------------------------------------------ children that are spawned
    "what earlier cells define": Row(
        (
            "import multiprocessing as mp\nfrom dataclasses import dataclass\nprint('once')",
            "@dataclass\nclass D:\n    x: int\nN = 5\nprint('once')\nopen('once', 'x');",
            "def f(d):\n    return D(d.x + N)",
            "with mp.get_context('spawn').Pool(1) as pool:\n    print(pool.map(f, [D(1), D(2)]))",
        ),
        "[D(x=6), D(x=7)]\n",
    ),
    "the newest definition": Row(
        (
            "import multiprocessing as mp\ndef f(): return 1",
            "def f(): return 2",
            "with mp.get_context('forkserver').Pool(1) as pool:\n    print(pool.apply(f))",
            "def f(): return 3",
            "with mp.get_context('forkserver').Pool(1) as pool:\n    print(pool.apply(f))",
        ),
        "3\n",
    ),
    "beside what fails and magics": Row(
        (
            "import multiprocessing as mp\nBase = [object][0]\nsize = 1\n",
            "class A(Missing): pass",
            "x = !echo a\ndef f(): return 7",
            "for n in range(1): await __import__('asyncio').sleep(0)\ndef g(): return f() + 1",
            "%%time\nwith mp.get_context('spawn').Pool(1) as pool:\n    y = pool.apply(g)",
            "y",
        ),
        results=("8",),
    ),
    # ------------------------------------------------------------ others of the first hour
    "who": Row(("x = 1", "%who"), "x\t \n"),
    "env": Row(("%env A=1", "%env A"), results=("'1'",)),
    "precision": Row(("%precision 2", "3.14159"), results=("3.14",)),
    "writefile": Row(("%%writefile m.txt\nhello", "print(open('m.txt').read())"), "hello\n\n"),
    "html": Row(("%%html\n<b>a</b>",), results=("<IPython.core.display.HTML object>",)),
    "autoreload": Row(("%load_ext autoreload\n%autoreload 2\nprint('on')",), "on\n"),
    "reset": Row(("x = 1\n'a'", "%reset -f\nprint('x' in dir(), __name__)"), "False __main__\n"),
    "reset forgets values": Row(("'a'", "%reset -f", "print(Out, '_' in dir(__builtins__))"), None),
    "history": Row(("x = 1", "y = 2", "%history"), "x = 1\ny = 2\n%history\n"),
    "macro": Row(("print('a')", "%macro -q m 1", "m"), "a\n"),
    "store": Row(("x = 5", "%store x", "%reset -f", "%store -r x\nprint(x)"), "5\n"),
    "xdel": Row(("x = 5", "%xdel x\nprint('x' in dir())"), "False\n"),
    "load": Row(("open('m.py', 'w').write('x = 1\\n');", "%load m.py"), "# %load m.py\nx = 1\n\n"),
    "matplotlib": Row(("%matplotlib inline\nprint('on')",), "on\n"),
    "config": Row(("%config InlineBackend.figure_format = 'svg'\nprint('on')",), "on\n"),
    "xmode": Row(("%xmode Plain", "1 / 0"), "", ZERO, 1),
}


def test_many_magics(session: SessionClient) -> None:
    """A cell of thousands of magics takes as long as one of as many lines, whatever is in them."""
    lines = "%pwd\ny = %pwd\nif y is None:\n    !echo it's (\n    z = !echo ''' \\\n        {y}\n"
    answer = session.run("x = 0\n" + lines * 600 + "x += 1\nx", timeout=20)
    assert [one["data"]["text/plain"] for one in answer["results"]] == ["1"], answer


@pytest.mark.parametrize("name", MAGIC_ROWS)
def test_row(session: SessionClient, name: str) -> None:
    """The last of the row's cells answers what the row says."""
    check_row(session, MAGIC_ROWS[name])


@pytest.mark.parametrize(
    ("cells", "excerpt"),
    [
        (("%xmode Context", "n = 0\n1 / n"), f"----> 2 1 / n\n\n{ZERO}\n"),
        (("%xmode Verbose", "def f(x):\n    1 / x\nf(0)"), "in f(x=0)\n"),
        (("%xmode Doctest", "1 / 0"), f"    ...\n{ZERO}\n"),
        (("%xmode Context\n1 / 0",), f"----> 2 1 / 0\n\n{ZERO}\n"),
        (("%xmode Context", "%xmode Plain", "1 / 0"), f"    1 / 0\n    ~~^~~\n{ZERO}\n"),
        (("%xmode Verbose", "class E(Exception):\n    __str__ = None\nraise E"), "E"),
    ],
)
def test_mode_of_tracebacks(session: SessionClient, cells: tuple[str, ...], excerpt: str) -> None:
    """A mode that `%xmode` sets holds for tracebacks; without one they are plain Python's."""
    answers = [session.run(cell) for cell in cells]
    assert excerpt in answers[-1]["stderr"]
    assert "\n".join(answers[-1]["exception"]["traceback"]) in answers[-1]["stderr"]


def test_mode_that_shows_no_frames(session: SessionClient) -> None:
    """The smallest mode is the last line alone."""
    session.run("%xmode Minimal")
    assert session.run("1 / 0")["stderr"] == f"{ZERO}\n"
