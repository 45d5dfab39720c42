"""Says in words how the server ended a run, and why variables were lost; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from signal import SIGINT

from era_kernels.models import MIB, EndReason, ExecutionEnd, ExitInfo, Limits, format_size
from era_kernels.services.executions.shortage_in_output import MEMORY, Shortage, find_shortage

# Why variables are lost.
SERVER_RESTARTED = "the server was restarted"
RESTARTED = "restarted by request"
# What an end costs.
LOSES_NOTHING = ""
LOSES_VARIABLES = "; variables are lost, files are kept"
LOSES_FILES_TOO = "; variables and files are lost"

# The names by which callers may lower a limit for one session, in a session's `limits`.
_OWN_NAMES = {"memory": "memory_mb", "processes": "processes", "workspace": "workspace_mb"}
_NOUNS = {"memory": "of memory", "processes": "processes and threads", "open_files": "open files"}

# How the sandbox names a limit that its processes together have exceeded → the same as a shortage.
_EXCEEDED = (
    (re.compile(r"out of memory at "), MEMORY),
    (re.compile(r"workspace larger than "), Shortage("workspace too large", ("workspace",))),
    (re.compile(r"more than \d+ processes$"), Shortage("too many processes", ("processes",))),
)
_ENDS = {
    EndReason.DELETED: "session deleted before the run ended",
    EndReason.RESTARTED: "session restarted before the run ended",
    EndReason.STOPPED: "server stopped before the run ended",
    EndReason.INTERRUPTED: "interrupted, and the kernel ended with the run",
}
_LOSSES = {
    EndReason.STOPPED: SERVER_RESTARTED,
    EndReason.RESTARTED: RESTARTED,
    EndReason.TIMEOUT: "timeout, and the run did not stop when it was interrupted",
    EndReason.INTERRUPTED: "interrupted, and the run did not stop",
}


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The limits that are enforced in a session; `own` are those that it asked for itself."""

    enforced: Limits
    own: Limits | None = None

    def describe(self, shortage: Shortage) -> str | None:
        """Returns a shortage, and the limits that may be its reason with the settings' names.

        None when none of these limits is enforced.
        """
        fields = [self._origin(one) for one in shortage.limits if getattr(self.enforced, one)]
        if not fields:
            return None
        if len(shortage.limits) == 1:
            value = self._value(fields[0])
            return f"{shortage.what}: the session's limit is {value} ({self._setting(fields[0])})"
        values = [f"{self._value(one)} {_NOUNS[one]} ({self._setting(one)})" for one in fields]
        return f"{shortage.what}: the session has at most {' and '.join(values)}"

    def _origin(self, field: str) -> str:
        """Returns the limit that a limit was taken from: that of a file may be the workspace's."""
        enforced = self.enforced
        is_workspace = field == "file_size" and enforced.file_size == enforced.workspace
        return "workspace" if is_workspace else field

    def _value(self, field: str) -> str:
        value: int = getattr(self.enforced, field)
        return str(value) if field in ("processes", "open_files") else format_size(value)

    def _setting(self, field: str) -> str:
        setting = f"session_{field}"
        if self.own is None or field not in _OWN_NAMES or getattr(self.own, field) is None:
            return setting
        return f"limits.{_OWN_NAMES[field]}, at most {setting}"


def explain_end(end: ExecutionEnd, last_stderr: str, limits: SessionLimits) -> ExecutionEnd:
    """Returns the end with what it ran out of, if its exception or last words tell that.

    The cause of a process that ended by itself for want of memory names the limit.
    """
    if end.timed_out or end.interrupted or end.cancelled:
        return end
    shortage = find_shortage(end, last_stderr)
    if shortage is None or limits.describe(shortage) is None:
        return end
    exit_info = end.exit_info
    if exit_info is not None and exit_info.reason is None and shortage is MEMORY:
        assert limits.enforced.memory is not None
        explanation = f"out of memory at {limits.enforced.memory // MIB} MB"
        exit_info = replace(exit_info, explanation=explanation)
    return replace(end, exit_info=exit_info, shortage=limits.describe(shortage))


def describe_end(
    end: ExecutionEnd, limits: SessionLimits, timeout: float, losses: str
) -> str | None:
    """Returns the line that tells a person on stderr what the server knows of the end of a run.

    None for an end that the program's own output and exit code tell. `losses` is what the end of
    the machine costs.
    """
    if end.state != "lost":
        return end.shortage or _command_line(end, limits)
    losses = LOSES_NOTHING if _is_deletion(end.exit_info) else losses
    if end.timed_out:
        return f"timeout: the run did not end within {timeout:g} s{losses}"
    words = end.shortage or (end.exit_info and _describe_exit(end, end.exit_info, limits))
    return f"{words}{losses}" if words else None


def _command_line(end: ExecutionEnd, limits: SessionLimits) -> str | None:
    """Returns the line of a program beside the kernel that the server ended for its output."""
    reason = None if end.exit_info is None else end.exit_info.reason
    if reason is None or end.timed_out or reason in set(EndReason) or end.cancelled:
        return None
    return _describe_reason(reason, limits)


def _is_deletion(exit_info: ExitInfo | None) -> bool:
    return exit_info is not None and exit_info.reason == EndReason.DELETED


def _describe_exit(end: ExecutionEnd, exit_info: ExitInfo, limits: SessionLimits) -> str | None:
    if exit_info.reason is not None:
        return _describe_reason(exit_info.reason, limits)
    if exit_info.signal is None:  # the program ended itself, which is no news
        return None
    if end.interrupted and exit_info.signal == SIGINT:
        return _ENDS[EndReason.INTERRUPTED]
    return f"the process was killed by {exit_info.description}"


def _describe_reason(reason: str, limits: SessionLimits) -> str | None:
    if reason in (EndReason.CLIENT_DISCONNECTED, EndReason.CANCELLED):
        return None
    if reason in _ENDS:
        return _ENDS[EndReason(reason)]
    if reason.startswith(EndReason.OUTPUT_LIMIT):
        size = reason.removeprefix(EndReason.OUTPUT_LIMIT).strip()
        return f"output limit: the run printed more than {size} (max_execution_output)"
    for pattern, shortage in _EXCEEDED:
        if pattern.match(reason):
            return limits.describe(shortage) or reason
    return reason


def describe_loss(exit_info: ExitInfo, *, between_runs: bool) -> str:
    """Returns why the variables of a kernel that ended so are lost.

    `between_runs`: it ended when no run was on it, so that no answer has told that.
    """
    reason = exit_info.reason
    if reason in _LOSSES:
        return _LOSSES[EndReason(reason)]
    words = exit_info.description
    if reason is None and exit_info.explanation is None:
        words = f"the kernel ended: {words}" if exit_info.signal is None else f"killed by {words}"
    return f"{words}, between two runs" if between_runs else words


def loss_notice(why: str) -> str:
    """Returns the notice for the first run that does not find the variables of earlier ones."""
    return f"variables were lost: {why}"
