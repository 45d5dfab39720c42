"""Limits of one session: what a caller may wish, and what it may have of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from era_kernels.errors import InvalidRequest, NotEnforceable
from era_kernels.kernels.languages import Language
from era_kernels.kernels.machine import KernelHost
from era_kernels.models import WITHOUT_WALLS, Limits

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Bound:
    """One limit that a session may have of its own: where it stands, and how callers write it."""

    field: str  # of Limits
    name: str
    unit: int
    setting: str

    @property
    def path(self) -> str:
        return f"limits.{self.name}"

    def of(self, limits: Limits) -> float | None:
        """The value as `Limits` holds it."""
        value: float | None = getattr(limits, self.field)
        return value

    def told(self, value: float) -> str:
        """The value in the callers' unit; where it does not divide, what fits."""
        return f"{value:g}" if isinstance(value, float) else str(value // self.unit)


BOUNDS = (
    Bound("memory", "memory_mb", MIB, "session_memory"),
    Bound("processes", "processes", 1, "session_processes"),
    Bound("workspace", "workspace_mb", MIB, "session_workspace"),
    Bound("cpu", "cpu", 1, "session_cpu"),
)


def check_limits(wish: Limits, server: Limits, language: Language, host: KernelHost) -> None:
    """May a session in that language have these? They may be lower than the server's only.

    Raises InvalidRequest naming the bound, NotEnforceable. Where there are no walls at all they
    are taken, as all wishes are: `isolation` tells that nothing enforces them.
    """
    for bound, value in _given(wish):
        most, least = bound.of(server), bound.of(language.minimums)
        if most is not None and value > most:
            end = f"must be at most {bound.told(most)}, {bound.setting} of this server"
            raise _refusal(bound, end)
        if least is not None and value < least:
            end = f"must be at least {bound.told(least)}, which {language.name} needs to start"
            raise _refusal(bound, end)
    if host.isolation.tier == WITHOUT_WALLS:
        return
    for bound, _ in _given(wish):
        if bound.field not in host.enforceable:
            raise NotEnforceable(f"`{bound.path}` cannot be enforced by the walls of this server.")


def _given(limits: Limits) -> Iterator[tuple[Bound, float]]:
    for bound in BOUNDS:
        value = bound.of(limits)
        if value is not None:
            yield bound, value


def _refusal(bound: Bound, end: str) -> InvalidRequest:
    details = [{"field": bound.path, "problem": end}]
    return InvalidRequest(f"`{bound.path}` {end}.", details=details)
