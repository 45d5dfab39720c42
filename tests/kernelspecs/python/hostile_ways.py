"""What the methods of hostile objects do in place of their work."""

from __future__ import annotations

RAISING = {
    "raises": "raise RuntimeError('no')",
    "exits": "raise SystemExit(7)",
    "interrupts": "raise KeyboardInterrupt",
    "misses a key": "raise KeyError('no')",
    "recurses": "return recurse()",
    "raises a base": "raise BaseException('no')",
    "ends a generator": "raise StopIteration",
    "is an int": "return 5",
    "is None": "return None",
    "prints": "honest_print('from a hook'); return 'text'",
    "is an object": "return object()",
}
RECURSE = "def recurse():\n    return recurse()\n"
