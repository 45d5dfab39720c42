"""Describes a process to start: a program, or a function in a fork of a warm interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from era_kernels.errors import KernelStartFailed
from era_kernels.models import JsonObject


class ProcessNotStarted(KernelStartFailed):
    """The system refused to start a process, with `reason` (its message) and `errno`."""

    def __init__(self, name: str, reason: str, errno: int) -> None:
        super().__init__(f"{name} could not be started: {reason}.")
        self.reason = reason
        self.errno = errno


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process to start: exactly one of `argv` and `entry`.

    `argv` is executed; a program without a slash is looked up in the PATH of `env`.
    `entry` is "module:function": the forked process goes on as a plain interpreter, imports the
    module, and calls the function with `args`. Its return value is ignored; an uncaught error
    gives a traceback on descriptor 2 and exit code 1; SystemExit works as in any program.
    `env` is the whole environment, `cwd` an absolute directory. The process begins in
    `subdirectory` of it, from which no link may lead out of `cwd`.

    Raises ValueError when a part cannot be passed to execve(2), as with NUL.
    """

    env: Mapping[str, str]
    cwd: str
    argv: tuple[str, ...] | None = None
    entry: str | None = None
    args: tuple[str, ...] = field(default=())
    subdirectory: str = "."

    def __post_init__(self) -> None:
        if (self.argv is None) == (self.entry is None):
            raise ValueError("a process has either argv or entry")
        if self.argv is not None and not self.argv:
            raise ValueError("argv names no program")
        if self.entry is not None and not all(self.entry.partition(":")):
            raise ValueError("an entry is written module:function")
        if not self.cwd.startswith("/"):
            raise ValueError("the working directory must be absolute")
        if any(not name or "=" in name for name in self.env):
            raise ValueError("a variable's name is not empty and has no =")
        if any("\0" in text for text in self._strings()):
            raise ValueError("no part of a process spec holds NUL")

    @property
    def name(self) -> str:
        """The program or the entry, for messages."""
        return self.argv[0] if self.argv is not None else str(self.entry)

    def to_json(self) -> JsonObject:
        """Returns the spec as JSON for the init."""
        return {
            "env": dict(self.env),
            "cwd": self.cwd,
            "subdirectory": self.subdirectory,
            "argv": self.argv,
            "entry": self.entry,
            "args": self.args,
        }

    def _strings(self) -> list[str]:
        env = [text for item in self.env.items() for text in item]
        return [self.cwd, self.subdirectory, *(self.argv or ()), *self.args, *env]


def start_error(spec: ProcessSpec, why: str) -> KernelStartFailed:
    """Returns the error for a process that its sandbox cannot start."""
    return KernelStartFailed(f"{spec.name} could not be started: {why}.")
