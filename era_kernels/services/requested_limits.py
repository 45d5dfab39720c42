"""Checks the limits that a caller asks for one session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from era_kernels.errors import InvalidRequest, NotEnforceable
from era_kernels.kernels.kernelspecs import Kernelspec
from era_kernels.kernels.machines import Machines
from era_kernels.models import MIB, UNSANDBOXED_TIER, Limits


@dataclass(frozen=True, slots=True)
class LimitField:
    """A limit that a session may have of its own: its field, and how callers write it."""

    field: str  # of Limits
    name: str
    unit: int
    setting: str

    @property
    def field_path(self) -> str:
        return f"limits.{self.name}"

    def value_in(self, limits: Limits) -> float | None:
        """Returns the value of this limit, in the unit of `Limits`."""
        value: float | None = getattr(limits, self.field)
        return value

    def format(self, value: float) -> str:
        """Formats a value in the callers' unit, rounded down."""
        return f"{value:g}" if isinstance(value, float) else str(value // self.unit)


LIMIT_FIELDS = (
    LimitField("memory", "memory_mb", MIB, "session_memory"),
    LimitField("processes", "processes", 1, "session_processes"),
    LimitField("workspace", "workspace_mb", MIB, "session_workspace"),
    LimitField("cpu", "cpu", 1, "session_cpu"),
)


def check_limits(requested: Limits, server: Limits, kernelspec: Kernelspec, host: Machines) -> None:
    """Checks that a session with that kernel may have these limits.

    A limit may only be lower than the server's, and not below the kernel's minimum. Raises
    InvalidRequest, which names the limit, or NotEnforceable. On a server without a sandbox, limits
    that nothing enforces are accepted: the session's `isolation` tells that.
    """
    for limit_field, value in _requested_fields(requested):
        maximum, minimum = (
            limit_field.value_in(server),
            limit_field.value_in(kernelspec.minimums),
        )
        if maximum is not None and value > maximum:
            text = limit_field.format(maximum)
            rule = f"must be at most {text}, {limit_field.setting} of this server"
            raise _limit_error(limit_field, rule)
        if minimum is not None and value < minimum:
            text = limit_field.format(minimum)
            rule = f"must be at least {text}, which {kernelspec.language} needs to start"
            raise _limit_error(limit_field, rule)
    if host.isolation.tier == UNSANDBOXED_TIER:
        return
    for limit_field, _ in _requested_fields(requested):
        if limit_field.field not in host.enforceable:
            raise NotEnforceable(
                f"`{limit_field.field_path}` cannot be enforced by the walls of this server."
            )


def _requested_fields(limits: Limits) -> Iterator[tuple[LimitField, float]]:
    for limit_field in LIMIT_FIELDS:
        value = limit_field.value_in(limits)
        if value is not None:
            yield limit_field, value


def _limit_error(limit_field: LimitField, rule: str) -> InvalidRequest:
    details = [{"field": limit_field.field_path, "problem": rule}]
    return InvalidRequest(f"`{limit_field.field_path}` {rule}.", details=details)
