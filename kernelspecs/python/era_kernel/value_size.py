"""Estimates the memory of values of builtin, numpy and pandas types, without running their code."""

from __future__ import annotations

from itertools import islice
from sys import getsizeof
from typing import Any

from era_kernel.object_layout import find_attribute, get_module, get_namespace, is_array

MAX_DEPTH = 6  # containers in containers that are looked into
SAMPLE = 100  # items of a container that are measured, and stand for the others

_FLAT_TYPES = frozenset(map(id, (str, bytes, bytearray, int, float, complex, range)))
_CONTAINERS = frozenset(map(id, (list, tuple, set, frozenset, dict)))
# From a table or an index to what holds its values; the first one that there is.
_TABLE_ATTRIBUTES = ("_mgr", "blocks", "values", "_ndarray", "_data", "_pa_array")


def estimate_size(value: object, depth: int = MAX_DEPTH) -> int:
    """Returns the estimated bytes of a value with its items; other types count nothing."""
    kind = type(value)
    if id(kind) in _FLAT_TYPES:
        return getsizeof(value)
    if id(kind) in _CONTAINERS:
        return getsizeof(value) + (_items_size(value, depth - 1) if depth else 0)
    if is_array(kind):
        return _array_size(value)
    module = get_module(kind)
    if depth and type(module) is str and module.startswith(("pandas", "pyarrow")):
        return _table_size(value, depth - 1)
    return 0


def _items_size(container: Any, depth: int) -> int:
    """Returns the bytes of a container's items, those of the first standing for all."""
    count = len(container)
    try:
        items = list(islice(container, SAMPLE))
        items += islice(container.values(), SAMPLE) if type(container) is dict else ()
    except RuntimeError:  # a thread changes it
        return 0
    different = {id(item): item for item in items}
    size = sum(estimate_size(item, depth) for item in different.values())
    if 2 * len(different) < len(items):  # the same ones again and again
        return size
    return size * max(count, SAMPLE) // SAMPLE


def _array_size(array: Any) -> int:
    """Returns the bytes that an array keeps, which may be those of another that it is a part of."""
    size = 0
    while is_array(type(array)):
        get = get_namespace(type(array))
        size = max(size, get["nbytes"].__get__(array))
        array = get["base"].__get__(array)
    return size + (getsizeof(array) if id(type(array)) in _FLAT_TYPES else 0)


def _table_size(table: object, depth: int) -> int:
    for name in _TABLE_ATTRIBUTES:
        part = find_attribute(table, name)
        if part is not None:
            return estimate_size(part, depth)
    size = find_attribute(table, "nbytes")
    return size if type(size) is int else 0
