"""Commands: what could not be handed to the system is refused when it is made."""

from __future__ import annotations

import json
from typing import Any

import pytest

from era_kernels.sandbox.server.process_spec import ProcessSpec


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "either argv or entry"),
        ({"argv": ("a",), "entry": "a:b"}, "either argv or entry"),
        ({"argv": ()}, "no program"),
        ({"entry": "module"}, "module:function"),
        ({"entry": ":function"}, "module:function"),
        ({"argv": ("a",), "cwd": "relative"}, "absolute"),
        ({"argv": ("a",), "env": {"": "x"}}, "not empty"),
        ({"argv": ("a",), "env": {"A=B": "x"}}, "no ="),
        ({"argv": ("a",), "env": {"A": "x\0y"}}, "NUL"),
        ({"argv": ("a", "b\0")}, "NUL"),
        ({"entry": "a:b", "args": ("\0",)}, "NUL"),
        ({"argv": ("a",), "cwd": "/\0"}, "NUL"),
    ],
)
def test_what_no_process_can_have_is_refused(parts: dict[str, Any], message: str) -> None:
    """Both or no program, relative directories, NUL and bad names raise ValueError."""
    with pytest.raises(ValueError, match=message):
        ProcessSpec(**{"env": {}, "cwd": "/", **parts})


def test_a_command_travels_whole() -> None:
    """Its JSON form holds every part."""
    command = ProcessSpec(entry="a:b", args=("ä", "\ud800"), env={"A": "1"}, cwd="/")
    assert json.loads(json.dumps(command.to_json())) == {
        "argv": None,
        "entry": "a:b",
        "args": ["ä", "\ud800"],
        "env": {"A": "1"},
        "cwd": "/",
        "subdirectory": ".",
    }


def test_a_command_is_named_by_what_it_starts() -> None:
    """Messages name the program or the entry, never arguments or variables."""
    assert ProcessSpec(argv=("/bin/x", "secret"), env={}, cwd="/").name == "/bin/x"
    assert ProcessSpec(entry="a:b", args=("secret",), env={}, cwd="/").name == "a:b"
