"""Hostile programs, put together of parts: exceptions and their places, modules, hooks, values.

Each part is a name and its source, so that a failing program is told by the names of its parts.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from tests.kernelspecs.python.hostile_exceptions import EXCEPTIONS
from tests.kernelspecs.python.hostile_hooks import HOOKS
from tests.kernelspecs.python.hostile_modules import MODULES
from tests.kernelspecs.python.hostile_places import PLACES
from tests.kernelspecs.python.hostile_values import VALUES

# `honest_print` is still the real one where a program replaces or deletes the names of `builtins`.
PREFIX = "honest_print = print\n"

SETUPS = {"module": MODULES, "hook": HOOKS}
# Parts that are asked to change later runs, too: these need not be whole, but are answered.
LASTING = (
    "hook event",
    "hook transformer",
    "hook shell emptied",
    "hook kernel emptied",
    "hook collection callback exits",
    "hook audit hook exits",  # and no audit hook can be removed
)
# The next run of every program. The name may be gone, and so may be that of `print`.
NEXT_PROGRAM = "try:\n    honest_print('whole')\nexcept:\n    print('whole')"


@dataclass(frozen=True)
class HostileProgram:
    """A program and the names of its parts, which pytest and hypothesis show when it fails."""

    parts: tuple[str, ...]
    source: str

    @property
    def is_lasting(self) -> bool:
        return any(part.startswith(LASTING) for part in self.parts)

    @property
    def acts_later(self) -> bool:
        """True if what it does comes when it is over, where it must not strike the next run."""
        return self.parts[-1].endswith("after the run")

    def __repr__(self) -> str:
        return f"the program of {' + '.join(self.parts)}:\n{self.source}\n"


def of_exception(name: str, place: str = "raised") -> HostileProgram:
    return HostileProgram((name, place), PREFIX + EXCEPTIONS[name] + PLACES[place])


def of_setup(kind: str, name: str) -> HostileProgram:
    """Returns the program that only prepares something, and then fails as programs do."""
    ending = "def f():\n    raise ValueError('boom')\nf()"
    return HostileProgram((f"{kind} {name}",), PREFIX + SETUPS[kind][name] + ending)


def of_parts(setups: list[tuple[str, str]], name: str, place: str) -> HostileProgram:
    """Returns the program of modules and hooks, each its kind and name, and an exception."""
    source = PREFIX + "".join(SETUPS[kind][setup] for kind, setup in setups)
    parts = (*(f"{kind} {setup}" for kind, setup in setups), name, place)
    return HostileProgram(parts, source + EXCEPTIONS[name] + PLACES[place])


def of_value(name: str) -> HostileProgram:
    return HostileProgram((f"value {name}",), PREFIX + VALUES[name])


def found_programs() -> list[HostileProgram]:
    """Returns what was drawn once and was not answered then, as small as it can be."""
    return [
        *(
            of_parts([("hook", hook)], "plain", "in a child")
            for hook in (
                "builtins.isinstance is deleted",
                "builtins.len is None",
                "builtins.list exits",
                "builtins.bytes is deleted",
                "tracing exits",
                "collection callback exits",
            )
        ),
        of_parts([], "notes for ever", "raised"),
        of_parts([], "group in itself", "in a child"),
        of_parts([], "group for ever", "in a thread"),
        of_parts([], "group of groups twice", "raised"),
        of_parts([("hook", "all descriptors closed")], "plain", "raised"),
        of_parts([("hook", "all descriptors closed one by one")], "plain", "in a thread"),
        of_parts([("hook", "a loop without descriptors")], "plain", "awaited"),
        of_parts([], "plain", "in a child of a task after the run"),
        of_parts([], "plain", "in a child of a signal handler after the run"),
    ]


@st.composite
def programs(draw: st.DrawFn) -> HostileProgram:
    """Draws modules, hooks, and an exception in a place or a value."""
    setups = st.one_of(
        *(st.tuples(st.just(kind), st.sampled_from(list(table))) for kind, table in SETUPS.items())
    )
    parts, source = list[str](), PREFIX
    drawn = draw(st.lists(setups, max_size=2))
    if draw(st.integers(0, 3)):
        name, place = draw(st.sampled_from(list(EXCEPTIONS))), draw(st.sampled_from(list(PLACES)))
        return of_parts(drawn, name, place)
    for kind, name in drawn:
        parts.append(f"{kind} {name}")
        source += SETUPS[kind][name]
    name = draw(st.sampled_from(list(VALUES)))
    return HostileProgram((*parts, f"value {name}"), source + VALUES[name])


def all_single_parts() -> list[HostileProgram]:
    """Returns each part alone, in the plainest of programs."""
    return [
        *(of_exception(name) for name in EXCEPTIONS),
        *(of_exception("plain", place) for place in PLACES),
        *(of_setup(kind, name) for kind, table in SETUPS.items() for name in table),
        *(of_value(name) for name in VALUES),
    ]
