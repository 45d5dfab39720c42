"""Reads types and attributes of objects without running code of the program.

No `__class__`, `__getattr__` or property of a class or metaclass is called: types are read by the
descriptors of `type` itself, and other objects only by descriptors that are written in C.
"""

from __future__ import annotations

from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

_type_getters = {
    name: type.__dict__[name].__get__ for name in ("__name__", "__module__", "__flags__")
}
get_mro, get_namespace = type.__dict__["__mro__"].__get__, type.__dict__["__dict__"].__get__
_HEAP_TYPE_FLAG = 1 << 9  # flag of a type that was not compiled in


def get_name(kind: type) -> Any:
    """Returns the name of a type, whatever a metaclass says: a string, of a subclass perhaps."""
    return _type_getters["__name__"](kind)


def get_module(kind: type) -> Any:
    """Returns the name of the module of a type; a program can set it to anything."""
    return _type_getters["__module__"](kind)


def is_array(kind: type) -> bool:
    """Returns whether this is numpy's own type; a program cannot make one that is compiled in."""
    return _is_compiled(kind, "numpy", "ndarray")


def is_arrow_column(kind: type) -> bool:
    """Returns whether this is pyarrow's own type, in which pandas keeps text where it can."""
    return _is_compiled(kind, "pyarrow.lib", "ChunkedArray")


def _is_compiled(kind: type, module: str, name: str) -> bool:
    if _type_getters["__flags__"](kind) & _HEAP_TYPE_FLAG or get_name(kind) != name:
        return False
    return bool(get_module(kind) == module)


def find_attribute(value: object, name: str) -> Any:
    """Returns an attribute from the object's dictionary, a slot or a C descriptor; else None."""
    kind = type(value)
    for base in get_mro(kind):
        for key, found in list(get_namespace(base).items()):
            if type(key) is not str:
                continue
            if key == "__dict__" and type(found) is GetSetDescriptorType:
                for own, attribute in list(found.__get__(value).items()):
                    if type(own) is str and own == name:
                        return attribute
            elif key == name and type(found) in (GetSetDescriptorType, MemberDescriptorType):
                return found.__get__(value)
    return None
