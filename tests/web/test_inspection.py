"""Stacks and variables as JSON."""

from __future__ import annotations

import pytest

from era_kernels.errors import EraError, KernelSilent, NotRunning, NotSupported
from era_kernels.models import StackFrame, Variable, Variables
from tests.web.fakes import LANGUAGE
from tests.web.serving import ServerUnderTest


def test_stack(server: ServerUnderTest, session: str) -> None:
    """Frames in their order, and the language."""
    server.inspection.frames = [
        StackFrame("<cell 1>", 2, "<module>", "f()"),
        StackFrame("f.py", 1, "f"),
    ]
    answer = server.http.get(f"{session}/executions/exec-1/stack")
    assert answer.json() == {
        "frames": [
            {"file": "<cell 1>", "line": 2, "function": "<module>", "source": "f()"},
            {"file": "f.py", "line": 1, "function": "f", "source": ""},
        ],
        "language": LANGUAGE,
    }


def test_variables(server: ServerUnderTest, session: str) -> None:
    """A field that is not known of a variable is left out; null is a value."""
    server.inspection.visible = Variables(
        (
            Variable("a", "NoneType", value=None),
            Variable("b", "ndarray", shape=()),
            Variable("c", "list", size=0, value=[]),
            Variable("d", "D"),
        ),
        truncated=True,
    )
    answer = server.http.get(f"{session}/variables")
    assert answer.json() == {
        "variables": [
            {"name": "a", "type": "NoneType", "value": None},
            {"name": "b", "type": "ndarray", "shape": []},
            {"name": "c", "type": "list", "size": 0, "value": []},
            {"name": "d", "type": "D"},
        ],
        "truncated": True,
    }


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (KernelSilent("It is.", retry_after=2), 503),
        (NotRunning("No."), 409),
        (NotSupported("No."), 409),
    ],
)
def test_refusals(server: ServerUnderTest, session: str, problem: EraError, status: int) -> None:
    """Variables that cannot be read are an error that says when to try again."""
    server.inspection.error = problem
    try:
        for path in ("executions/exec-1/stack", "variables"):
            answer = server.http.get(f"{session}/{path}")
            assert (answer.status_code, answer.json()["code"]) == (status, problem.code)
            assert answer.headers.get("Retry-After") == ("2" if status == 503 else None)
    finally:
        server.inspection.error = None
