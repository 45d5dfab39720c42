"""How much memory a value takes, as far as that can be told without running its code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import pytest

from era_kernels.kernels.kernelspecs import builtin_dir

MILLION = 1_000_000


@pytest.fixture
def estimate_size(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], int]:
    """The function; the kernel's package is on the path of the kernel only."""
    monkeypatch.syspath_prepend(builtin_dir() / "python")
    function: Callable[[object], int]
    function = importlib.import_module("era_kernel.value_size").estimate_size
    return function


class Hostile:
    """Raises whatever is done to it."""

    def fail(self, *_: object) -> Any:
        raise SystemExit(3)

    __getattribute__ = __sizeof__ = __len__ = __eq__ = __hash__ = __iter__ = fail


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (bytes(MILLION), MILLION),
        ("x" * MILLION, MILLION),
        (list(range(MILLION)), 36 * MILLION),
        ([bytes(MILLION)] * 1000, MILLION),  # the same one
        ([bytes(MILLION) for _ in range(3)], 3 * MILLION),
        ({n: bytes(1000) for n in range(1000)}, MILLION),
        ([[[bytes(MILLION)]]], MILLION),
    ],
)
def test_size(estimate_size: Callable[[object], int], value: object, expected: int) -> None:
    """The estimate is near the truth: items count, but each only once."""
    assert expected * 0.9 <= estimate_size(value) <= expected * 1.5


def test_arrays_and_tables(estimate_size: Callable[[object], int]) -> None:
    """Arrays count what they keep, parts of arrays the whole; tables count their columns."""
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    array = numpy.zeros(MILLION)
    assert estimate_size(array) == estimate_size(array[:1]) == 8 * MILLION
    frame = pandas.DataFrame({"a": array, "b": ["text"] * MILLION})
    assert 16 * MILLION <= estimate_size(frame) < 25 * MILLION
    assert estimate_size(frame["a"]) >= 8 * MILLION
    assert estimate_size(pandas.Index(array)) >= 8 * MILLION


def test_nothing_of_the_value_is_called(estimate_size: Callable[[object], int]) -> None:
    """No code of other types is run; they count nothing."""
    value = Hostile()
    assert estimate_size(value) == 0
    assert estimate_size([value]) == sys.getsizeof([None])


def test_circles(estimate_size: Callable[[object], int]) -> None:
    """A container that holds itself has a size, too."""
    value: list[Any] = []
    value.append(value)
    assert 0 < estimate_size(value) < 10_000
