"""Programs about the text of a program and what knows of it: lines, tracebacks, `inspect`.

Like those of `programs.py`; a program may hold any character here.
"""

from __future__ import annotations

_FAILS = "\ndef f():\n    return 1 / 0\nf()  # here\n"

SOURCE_PROGRAMS: dict[str, str] = {
    # ------------------------------------------------------------ lines
    "form feed before a line": "x = 1\n\f\ny = 2" + _FAILS,
    "form feed in a line": "x = 1\fif True else 2\nprint(x)" + _FAILS,
    "form feed at the start": "\fx = 1" + _FAILS,
    "form feed in an indentation": "if True:\n    x = 1\n\f    y = 2\nprint(x, y)" + _FAILS,
    "line separator in a string": "x = 'a\u2028b'\nprint(len(x))" + _FAILS,
    "paragraph separator in a comment": "# a\u2029b\nx = 1" + _FAILS,
    "next line in a string": "x = 'a\x85b'\nprint(len(x))" + _FAILS,
    "vertical tab in a string": "x = 'a\x0bb'\nprint(len(x))" + _FAILS,
    "vertical tab in a comment": "# a\x0bb" + _FAILS,
    "vertical tab in code": "x = 1\x0b\n",
    "separators in a string": "x = 'a\x1cb\x1dc\x1ed'\nprint(len(x))" + _FAILS,
    "separators in a docstring": 'def g():\n    """a\x0cb\u2028c"""\n    return 1 / 0\ng()',
    "carriage returns": "x = '''a\rb'''\rprint(repr(x))\r" + _FAILS.replace("\n", "\r"),
    "windows lines": "x = '''a\r\nb'''\r\nprint(repr(x))\r\n" + _FAILS.replace("\n", "\r\n"),
    "mixed lines": "x = 1\r\ny = 2\rz = 3\n" + _FAILS,
    "continued windows lines": "x = 1 + \\\r\n    2\r\nprint(x)" + _FAILS,
    "tabs": "if True:\n\tx = 1\n\tprint(x)" + _FAILS,
    "tabs and spaces": "if True:\n\tx = 1\n        y = 1\n",
    "no final newline": "1 / 0",
    "spaces at the end": "1 / 0\n   \n\t",
    "ends in a comment": "1 / 0\n# the end",
    "comments only": "# one\n\n# two",
    "nothing": "",
    "spaces only": "  \n\t\n",
    "byte order mark": "\ufeffx = 1" + _FAILS,
    "byte order mark in the middle": "x = 1\n\ufeffy = 2\n",
    "no-break space": "x\xa0= 1\n",
    "cookie": "# -*- coding: utf-8 -*-\nprint('é')" + _FAILS,
    "cookie in the second line": "#!/usr/bin/python\n# vim: set fileencoding=utf-8 :\nprint('é')",
    "cookie in the third line": "\n\n# coding: nonsense\nprint('é')",
    "null byte": "x = 1\nprint('a')\0\ny = 2\n",
    "null byte in a string": "x = 'a\0b'\n",
    "null byte in the first line": "\0",
    "wide characters before an error": "x = '☃☃é'; 1 / 0",
    "wide characters in an expression": "'☃☃é' + 1",
    "line of many characters": "x = [" + "1, " * 5000 + "1 / 0]",
    "string of many lines": "x = '''" + "line\n" * 3000 + "'''" + _FAILS,
    # ------------------------------------------------------------ deep and long
    "sum of 1 500 terms": "x = " + " + ".join(["1"] * 1500) + "\nprint(x)",
    "expression of 1 500 terms": "x = 1\n" + " + ".join(["x"] * 1500) + "\nprint('on')",
    "last expression of 1 500 terms": "x = 1\nx == " + " + ".join(["x"] * 1500) + " == print('a')",
    "1 200 elifs": "x = 7\nif x == -1:\n    pass\n"
    + "".join(f"elif x == {n}:\n    print({n})\n" for n in range(1200)),
    "2 500 calls": "def f():\n    return f\nprint(f" + "()" * 2500 + " is f)",
    "chain of comparisons": "print(" + " < ".join(map(str, range(2000))) + ")",
    "too deep": "x = " + " + ".join(["1"] * 30000),
    "too many brackets": "(" * 300 + ")" * 300,
    "too many elifs": "if 0:\n    pass\n" + "elif 0:\n    pass\n" * 20000,
    "too many indentations": "".join(" " * n + "if 1:\n" for n in range(101)),
    "many statements": "x = 0\n" + "x += 1\n" * 5000 + "print(x)",
    # ------------------------------------------------------------ where a last expression fails
    "last expression fails": "x = 1\nprint('a')\nx + (2 *\n   (x / 0))",
    "last expression after a semicolon": "x = 1; y = 0; x / y",
    "last expression in brackets": "x = 1\n(\n  x\n  / 0\n)",
    "last expression is continued": "x = 0\n1 + \\\n  1 / \\\n  x",
    "last expression with a comment": "x = 0\n1 / x  # a comment; or two",
    "last expression with a semicolon": "x = 0\n1 / x ;",
    "only expression fails": "1 / (2 -\n     2)",
    "last expression is a tuple": "x = ()\n*x, 1 / 0",
    "only expression is a tuple": "*(), 1 / 0",
    "last expression yields": "x = 1\nyield x",
    "only expression yields": "yield",
    "last expression is a lambda": "x = 1\n(lambda:\n    x / 0)()",
    "last expression in a string": "x = 1\nf'{x / 0}'",
    "last expression is a string of lines": "x = 1\n'''a\nb''' + 1",
    "last walrus": "x = 1\n(y := x / 0)",
    "last generator": "x = 0\nsum(1 / x for _ in [1])",
    "docstring and more": '"""Doc\n\nmore."""\nprint(repr(__doc__))\n1 / 0',
    # ------------------------------------------------------------ warnings of the compiler
    "is a literal": "x = 1\nx is 1",
    "is a literal, more than once": "x = 1\nprint(x is 1)\nx is 2; x is 3",
    "invalid escape": "x = '\\d'\nprint(x)",
    "invalid escape in the last expression": "x = 1\n'\\d' + str(x) and None",
    "invalid escapes shown": (
        "import warnings\nwarnings.simplefilter('always')\nexec(r'''x = \"\\d\"''')"
    ),
    "assert of a tuple": "assert (1, 'x')",
    "call of a string": "x = 1\nif x == 2:\n    'a'(1)",
    "a function warns twice": (
        "import warnings\ndef f():\n    warnings.warn('careful')\nf()\nf()\n"
        "for _ in range(3):\n    warnings.warn('again')"
    ),
    "warnings are errors": (
        "import warnings\nwarnings.simplefilter('error')\n"
        "try:\n    compile('1 is 1', 'x', 'exec')\nexcept SyntaxError as e:\n    print(e)\n"
        "warnings.warn('fatal')"
    ),
    # ------------------------------------------------------------ __future__
    "annotations": "from __future__ import annotations\ndef f(x: N): ...\nprint(f.__annotations__)",
    "barry": "from __future__ import barry_as_FLUFL\nprint(1 <> 2)",
    "future after a docstring": '"""Doc."""\nfrom __future__ import annotations\nprint(__doc__)',
    "no such future": "from __future__ import nothing_of_the_kind",
    # ------------------------------------------------------------ errors of syntax, by stages
    "await outside": "def f():\n    await x\n",
    "return in a class": "class A:\n    return 1\n",
    "global after use": "def f():\n    x = 1\n    global x\n",
    "double argument": "def f(a, a): pass\n",
    "assignment to a literal": "x = 1\n1 = x\n",
    "unterminated string": "print('a)\n",
    "unterminated triple": "x = 1\ny = '''a\nb\n",
    "bad indentation": "def f():\n        x = 1\n    y = 2\n",
    "break outside": "x = 1\nbreak\n",
    "star outside": "x = [1]\n*x\n",
    "f-string": "x = 1\nprint(f'{x!z}')\n",
    "bad character": "x = 1 $ 2\n",
    "print statement": "print 'a'\n",
    "shell line with an operator": "x = 3\nx !ls\n",
}

_PDB = "import io, pdb\ndebugger = pdb.Pdb(stdin=io.StringIO({commands!r}), nosigint=True)\n"

SOURCE_PROGRAMS |= {
    # ------------------------------------------------------------ what knows of source
    "source of a function": (
        "import inspect\ndef f(x):\n    # it adds\n    return x + 1  # one\n\n"
        "print(inspect.getsource(f), inspect.getsourcelines(f)[1])"
    ),
    "source of a class": (
        "import inspect\nclass A:\n    x = 1\n\n    def f(self):\n        return self.x\n\n"
        "class B(A): pass\n"
        "print(inspect.getsource(A), inspect.getsource(B), inspect.getsourcelines(A)[1])"
    ),
    "source of a class without functions": (
        "import inspect\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 1\n"
        "class E(Exception):\n    'A problem.'\n"
        "print(inspect.getsource(A), inspect.getsource(E))"
    ),
    "source of a method and an inner class": (
        "import inspect\nclass A:\n    class B:\n        def f(self):\n            return 1\n"
        "print(inspect.getsource(A.B), inspect.getsource(A.B.f))"
    ),
    "source of a lambda": (
        "import inspect\nf = lambda x: x + 1  # add\nprint(inspect.getsource(f))"
    ),
    "source after a form feed": (
        "import inspect\nx = 'a\u2028b'\n\f\ndef f():\n    return '\x85'\n"
        "print(inspect.getsource(f))"
    ),
    "source of a coroutine and a generator": (
        "import inspect\nasync def f():\n    pass\ndef g():\n    yield 1\n"
        "print(inspect.getsource(f), inspect.getsource(g))"
    ),
    "comments": "import inspect\n# about f\ndef f(): pass\nprint(inspect.getcomments(f))",
    "files": (
        "import inspect\nclass A:\n    def f(self): pass\ndef f(): pass\n"
        "print(inspect.getfile(f) == inspect.getfile(A) == inspect.getsourcefile(A.f))\n"
        "print(inspect.getfile(f) == f.__code__.co_filename)"
    ),
    "module": (
        "import inspect, sys\nclass A: pass\ndef f(): pass\n"
        "print(inspect.getmodule(A) is inspect.getmodule(f) is sys.modules['__main__'])"
    ),
    "source of the module": (
        "import inspect, sys\nprint(inspect.getsource(sys.modules['__main__']))"
    ),
    "source of builtins": (
        "import inspect\nfor x in (int, print, 5):\n"
        "    try:\n        inspect.getsource(x)\n    except (OSError, TypeError) as e:\n"
        "        print(type(e), e)"
    ),
    "class made without source": (
        "import inspect\nA = type('A', (), {})\n"
        "try:\n    inspect.getsource(A)\nexcept OSError as e:\n    print('none')"
    ),
    "linecache": (
        "import linecache\ndef f(): pass\n"
        "print(repr(linecache.getline(f.__code__.co_filename, 2)))\nlinecache.checkcache()\n"
        "print(repr(linecache.getline(f.__code__.co_filename, 1)))"
    ),
    "current frame": (
        "import inspect\ndef f():\n    return inspect.stack()[1].code_context\nprint(f())  # here"
    ),
    "dis": "import dis\ndef f(x):\n    return x + 1\ndis.dis(f)",
    "ast of itself": (
        "import ast, inspect\ndef f(): return 1\nprint(ast.dump(ast.parse(inspect.getsource(f))))"
    ),
    "type hints": (
        "import typing\nclass Node:\n    next: 'Node | None'\n    def f(self) -> 'Node': ...\n"
        "print(typing.get_type_hints(Node), typing.get_type_hints(Node.f))"
    ),
    "dataclass with a forward reference": (
        "from __future__ import annotations\nfrom dataclasses import dataclass, fields\n"
        "from typing import ClassVar\n@dataclass\nclass A:\n    b: B\n    c: ClassVar[int] = 1\n"
        "@dataclass\nclass B:\n    x: int\nprint(A(B(1)), [f.name for f in fields(A)])"
    ),
    "warning in a function": (
        "import warnings\ndef f():\n    warnings.warn('careful', stacklevel=2)\n\nf()  # line\n"
    ),
    "warning with a form feed before": "import warnings\n\f\nx = '\u2028'\nwarnings.warn('w')",
    # ------------------------------------------------------------ pickle
    "pickles": (
        "import copyreg, enum, pickle\nfrom collections import namedtuple\n"
        "from dataclasses import dataclass\nfrom typing import NamedTuple\n"
        "@dataclass\nclass D:\n    x: int\nclass E(enum.Enum):\n    A = 1\n"
        "class N(NamedTuple):\n    x: int\nP = namedtuple('P', 'x y')\nclass C:\n"
        "    def __init__(self, x): self.x = x\n    class Inner:\n        y = 2\n"
        "copyreg.pickle(C, lambda c: (C, (c.x,)))\ndef f(): return 7\n"
        "values = [D(1), E.A, N(2), P(3, 4), C(5).x, C.Inner().y, f, ValueError('v')]\n"
        "for protocol in range(pickle.HIGHEST_PROTOCOL + 1):\n"
        "    copies = pickle.loads(pickle.dumps(values, protocol))\n"
        "    print(copies[:6], copies[6] is f, copies[7])\n"
        "print(pickle.loads(pickle.dumps(C(6))).x)"
    ),
    "pickle of a lambda": "import pickle\npickle.dumps(lambda: 1)",
    "pickle of a local class": (
        "import pickle\ndef f():\n    class A: pass\n    return A()\npickle.dumps(f())"
    ),
    # ------------------------------------------------------------ debuggers
    "pdb at its end of input": "x = 1\nimport pdb\npdb.set_trace()\nprint('no')",
    "breakpoint": "def f(x):\n    breakpoint()\n    return x\nf(1)\n",
    "pdb where": _PDB.format(commands="where\nup\nup\ndown\np x\nc\n")
    + "def f(x):\n    debugger.set_trace()\n    return x\n\nprint(f(5))",
    "pdb steps off the end": _PDB.format(commands="n\nn\nn\nn\nn\n")
    + "debugger.set_trace()\nx = 1\nprint(x)",
    "pdb steps": _PDB.format(commands="s\ns\ns\nwhere\nr\nn\nc\n")
    + "def f(x):\n    return x + 1\ndebugger.set_trace()\ny = f(1)\nprint(y)",
    "pdb until a breakpoint": _PDB.format(commands="b f\nc\nwhere\nargs\ncl 1\nc\n")
    + "def f(x):\n    return x + 1\ndebugger.set_trace()\ny = f(1)\nprint(y)",
    "pdb lists": _PDB.format(commands="l\nll\nsource f\nc\n")
    + "def f(x):\n    return x + 1\ndebugger.set_trace()\nx = 1",
    "pdb quits": _PDB.format(commands="q\n") + "debugger.set_trace()\nx = 1",
    "pdb post mortem": _PDB.format(commands="where\nup\np y\nq\n")
    + "def f(x):\n    return x / 0\ntry:\n    y = 1\n    f(1)\nexcept ZeroDivisionError as e:\n"
    "    debugger.reset()\n    debugger.interaction(None, e.__traceback__)\nprint('on')",
    "pdb in a thread": _PDB.format(commands="where\nc\n")
    + "import threading\ndef f():\n    debugger.set_trace()\n    x = 1\n"
    "t = threading.Thread(target=f)\nt.start()\nt.join()",
    "pdb in asyncio": _PDB.format(commands="p x\nup\nc\n")
    + "import asyncio\nasync def f(x):\n    debugger.set_trace()\n    return x\n"
    "print(asyncio.run(f(3)))",
    "a tracer": (
        "import sys\nlines = []\ndef tracer(frame, event, arg):\n"
        "    lines.append((frame.f_code.co_name, event))\n    return tracer\n"
        "def f():\n    return 1\nsys.settrace(tracer)\nf()\nsys.settrace(None)\nprint(lines)"
    ),
}

_SPAWN = "import multiprocessing as mp\n"
_RUN = "if __name__ == '__main__':\n    p = mp.get_context({0!r}).Process(target={1}, args={2})\n"
_RUN += "    p.start()\n    p.join()\n    print(p.exitcode)\n"

SOURCE_PROGRAMS |= {
    # ------------------------------------------------------------ children that are spawned
    "spawn": _SPAWN
    + "print(__name__, flush=True)\ndef f(x):\n    print('child', x, __name__)\n"
    + _RUN.format("spawn", "f", "(1,)"),
    "forkserver": _SPAWN
    + "print(__name__, flush=True)\ndef f(x):\n    print('child', x, __name__)\n"
    + _RUN.format("forkserver", "f", "(1,)"),
    "spawned pool": _SPAWN
    + "class A:\n    def __init__(self, x): self.x = x\ndef f(a): return A(a.x * FACTOR)\n"
    "FACTOR = int('3')\nif __name__ == '__main__':\n"
    "    with mp.get_context('spawn').Pool(2) as pool:\n"
    "        print([a.x for a in pool.map(f, [A(1), A(2)])])",
    "executor with spawn": _SPAWN
    + "from concurrent.futures import ProcessPoolExecutor\ndef f(x): return x * x\n"
    "if __name__ == '__main__':\n"
    "    with ProcessPoolExecutor(2, mp_context=mp.get_context('spawn')) as pool:\n"
    "        print(list(pool.map(f, range(4))))",
    "executor with forkserver": _SPAWN
    + "from concurrent.futures import ProcessPoolExecutor\ndef f(x): return x * x\n"
    "if __name__ == '__main__':\n"
    "    with ProcessPoolExecutor(2, mp_context=mp.get_context('forkserver')) as pool:\n"
    "        print(list(pool.map(f, range(4))))",
    "error in a spawned child": _SPAWN
    + "\ndef f(x):\n    return 1 / x  # no\n"
    + _RUN.format("spawn", "f", "(0,)"),
    "exit of a spawned child": _SPAWN
    + "import sys\ndef f(x):\n    sys.exit(x)\n"
    + _RUN.format("spawn", "f", "(3,)"),
    "error of the main module in a child": _SPAWN
    + "def f():\n    pass\nif __name__ != '__main__':\n    1 / 0\n"
    + _RUN.format("spawn", "f", "()").replace("/usr", ""),
    "class in a queue": _SPAWN
    + "from dataclasses import dataclass\n@dataclass\nclass D:\n    x: int\n"
    "def f(queue):\n    queue.put(D(5))\n"
    "if __name__ == '__main__':\n    context = mp.get_context('spawn')\n    q = context.Queue()\n"
    "    p = context.Process(target=f, args=(q,))\n    p.start()\n    print(q.get())\n    p.join()",
    "spawned by a spawned child": _SPAWN + "def g():\n    print('inner', flush=True)\ndef f():\n"
    "    p = mp.get_context('spawn').Process(target=g)\n    p.start()\n    p.join()\n"
    "    print(p.exitcode)\n" + _RUN.format("spawn", "f", "()"),
    "spawn with annotations": "from __future__ import annotations\n"
    + _SPAWN
    + "def f(x: Nothing):\n    print(f.__annotations__)\n"
    + _RUN.format("spawn", "f", "(1,)"),
    "spawn as default": _SPAWN + "def f(x):\n    return x + 1\nif __name__ == '__main__':\n"
    "    mp.set_start_method('spawn', force=True)\n    with mp.Pool(1) as pool:\n"
    "        print(pool.map(f, [1, 2]))",
    "manager with spawn": _SPAWN + "def f(d):\n    d['x'] = 1\nif __name__ == '__main__':\n"
    "    context = mp.get_context('spawn')\n    with context.Manager() as manager:\n"
    "        d = manager.dict()\n        p = context.Process(target=f, args=(d,))\n"
    "        p.start()\n        p.join()\n        print(dict(d))",
}

SOURCE_PROGRAMS |= {
    "a failing doctest": (
        "'''Doc.\n\n>>> 1 + 1\n3\n'''\nimport doctest\n"
        "def f():\n    '''\n    >>> f()\n    2\n    '''\n"
        "    return 1\nclass A:\n    '''\n    >>> 1 / 0\n    1\n    '''\n    def g(self):\n"
        "        '''\n        >>> A().g()\n        '''\n        raise ValueError('v')\n"
        "print(doctest.testmod())"
    ),
    "a verbose doctest": (
        "import doctest\ndef f():\n    '''\n    >>> f()\n    1\n    '''\n    return 1\n"
        "doctest.testmod(verbose=True)\nprint(doctest.DocTestFinder().find(f)[0].filename)"
    ),
}
