"""Keeps the last inputs and values of a session for `_`, `__`, `Out`, `In` and their relatives.

The names are builtins, as the `_` of an interactive interpreter: a program's own `_` hides it, and
the program's namespace holds what the program defined and nothing else.
"""

from __future__ import annotations

import builtins
from collections import deque
from typing import Any

from era_kernel.value_size import estimate_size

MAX_ENTRIES = 20  # values, and inputs, that are kept
MAX_VALUE_BYTES = 64 * 1024 * 1024  # a value beyond it is kept in `_` alone

_names: dict[str, Any] = builtins.__dict__


class OutputHistory:
    """Knows what IPython's users find under `_`, `_3`, `Out[3]`, `_i`, `_i3` and `In[3]`."""

    def __init__(self) -> None:
        self.values: dict[int, Any] = {}  # by the number of the run; also `Out` and `_oh`
        self.inputs: list[str] = [""]  # by the number of the run, empty when forgotten; also `In`
        self._recent: deque[Any] = deque(maxlen=3)  # values, the newest first
        self._input_numbers: deque[int] = deque()
        self._underscore: Any = None  # what `_` was given here
        _names.update(Out=self.values, _oh=self.values, In=self.inputs, _ih=self.inputs)

    def remember_input(self, number: int, source: str) -> None:
        """Keeps the source of a run that begins."""
        earlier = [_names.get(f"_i{run}", "") for run in reversed(self._input_numbers)]
        _names.update(zip(("_i", "_ii", "_iii"), earlier, strict=False))
        self.inputs.extend([""] * (number + 1 - len(self.inputs)))
        self.inputs[number] = _names[f"_i{number}"] = source
        self._input_numbers.append(number)
        if len(self._input_numbers) > MAX_ENTRIES:
            oldest = self._input_numbers.popleft()
            _names.pop(f"_i{oldest}", None)
            if oldest < len(self.inputs):  # a program may have emptied it
                self.inputs[oldest] = ""

    def remember_value(self, number: int, value: Any) -> None:
        """Keeps the value of a run's last expression."""
        if value is self.values or value is self.inputs:
            return
        is_small = estimate_size(value) <= MAX_VALUE_BYTES
        if is_small:
            self._recent.appendleft(value)
            self.values[number] = _names[f"_{number}"] = value
        names = ("_", "__", "___") if is_small else ("__", "___")
        recent = dict(zip(names, self._recent, strict=False))
        self._set_underscore(recent.pop("_", value))
        _names.update(recent)
        for oldest in list(self.values)[:-MAX_ENTRIES]:
            self._forget_value(oldest)

    def clear(self) -> None:
        """Forgets all values and inputs."""
        self._set_underscore(None)
        for name in ("__", "___"):
            _names.pop(name, None)
        self._recent.clear()
        for number in list(self.values):
            self._forget_value(number)
        for number in self._input_numbers:
            _names.pop(f"_i{number}", None)
        self._input_numbers.clear()
        self.inputs[:] = [""]

    def _set_underscore(self, value: Any) -> None:
        """Sets `_`, unless it is a program's own, as the translating function of `gettext` is."""
        found = _names.get("_")
        if found is self._underscore or not callable(found):
            _names["_"] = self._underscore = value

    def _forget_value(self, number: int) -> None:
        del self.values[number]
        _names.pop(f"_{number}", None)
