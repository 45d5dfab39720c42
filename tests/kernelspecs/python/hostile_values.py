"""Values of last expressions that hostile programs end in."""

from __future__ import annotations

from tests.kernelspecs.python.hostile_ways import RAISING, RECURSE

VALUES: dict[str, str] = {
    **{
        f"{name} {way}": (
            f"{RECURSE}class V:\n"
            f"    def {name}(self, *args, **kwargs):\n        {RAISING[way]}\nV()"
        )
        for name in (
            "__repr__",
            "_repr_html_",
            "_repr_mimebundle_",
            "_ipython_display_",
            "_repr_png_",
            "_repr_json_",
            "_repr_pretty_",
            "__getattr__",
            "__getattribute__",
            "_ipython_canary_method_should_not_exist_",
        )
        for way in RAISING
    },
    "bundle of junk": (
        "class V:\n    def _repr_mimebundle_(self, **_):\n"
        "        return {5: object(), 'text/plain': b'\\xff', 'a/b': float('nan')}\nV()"
    ),
    "bundle in a circle": (
        "class V:\n    def _repr_mimebundle_(self, **_):\n        d = {}; d['text/plain'] = d\n"
        "        return d\nV()"
    ),
    "bundle of deep data": (
        "class V:\n    def _repr_json_(self):\n        d = []\n"
        "        for _ in range(100_000): d = [d]\n        return d\nV()"
    ),
    "bundle of subclasses": (
        "class S(str):\n    def __getattribute__(self, name): raise SystemExit(3)\n"
        "class V:\n    def _repr_html_(self): return S('x')\nV()"
    ),
    "huge repr": "class V:\n    def __repr__(self): return 'x' * 150_000_000\nV()",
    "surrogate": "class V:\n    def __repr__(self): return '\\ud800'\nV()",
    "display of junk": "display(5, metadata=5, include=5, transient=5)",
    "raw display of junk": "display({5: object()}, raw=True)",
    "deep list": "d = []\nfor _ in range(100_000): d = [d]\nd",
    "own circle": "d = []; d.append(d)\nd",
    "class with a hostile metaclass": (
        "class T(type):\n    def __getattribute__(self, name): raise SystemExit(3)\n"
        "    def __repr__(self): raise KeyboardInterrupt\nclass C(metaclass=T): pass\nC"
    ),
    "destroyed after the run": (
        "class V:\n    def __del__(self): raise SystemExit(3)\nv = V(); v.me = v; del v\nNone"
    ),
}
