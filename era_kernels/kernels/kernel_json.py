"""Validates the kernel.json of a kernelspec: Jupyter's keys, and those of this server."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from era_kernels.errors import StartError
from era_kernels.kernels.language_ids import language_id
from era_kernels.kernels.wire_protocol import Transport
from era_kernels.models import MIB, Limits
from era_kernels.toolchains.small_files import read_small_file

Capability = Literal[
    "state", "interrupt", "input", "rich_output", "stack", "variables", "duplicate", "async"
]
# What Jupyter's own protocol promises of every kernel.
STOCK_CAPABILITIES: tuple[Capability, ...] = ("interrupt", "rich_output", "state")

# Of a kernel.json, in words for who wrote it; other mistakes are told by pydantic.
_MISTAKES = {"extra_forbidden": "there is no such key", "missing": "it is missing"}


class Minimums(BaseModel):
    """Holds the least with which a kernel starts and runs a program that does nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    memory_mb: int | None = Field(None, gt=0)
    processes: int | None = Field(None, gt=0)
    cpu: float | None = Field(None, gt=0)
    # Of one process. It raises what a session's memory lets a process reserve, where that is
    # bounded by itself (without control groups); memory that is used counts as before.
    reserved_mb: int = Field(0, ge=0)

    def to_limits(self) -> Limits:
        """Converts these minimums to limits in bytes, processes and cores."""
        memory = None if self.memory_mb is None else self.memory_mb * MIB
        return Limits(memory=memory, processes=self.processes, cpu=self.cpu)


class EraMetadata(BaseModel):
    """Validates `metadata.era_kernels` of a kernel.json. Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    aliases: list[str] = []
    entry: str | None = Field(None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    preload: list[str] = []
    extension: str = ""
    transport: Transport = "ipc"
    # Before the number in the names of its unix sockets; some kernels write it as in a URL.
    ipc_separator: Literal["-", ":"] = "-"
    fence: bool = True
    settle_ms: int = Field(0, ge=0, le=1000)
    capabilities: list[Capability] = []
    # Only signals that do nothing to a process which does not handle them.
    dump_signal: Literal["SIGURG", "SIGWINCH"] | None = None
    minimums: Minimums = Minimums()
    # Runs the program that it reads from its standard input, beside the kernel.
    program: list[str] = []
    # It connects to its sockets instead of binding them where the connection file says `connect`.
    connects: bool = False


# Stands for the metadata of a stock kernel, which has none of ours.
STOCK_METADATA = EraMetadata(fence=False, capabilities=list(STOCK_CAPABILITIES))


class Metadata(BaseModel):
    era_kernels: EraMetadata | None = None


class KernelJson(BaseModel):
    """Validates a kernel.json; keys of Jupyter that this server does not use are ignored."""

    argv: list[str] = Field(min_length=1)
    display_name: str
    language: str
    interrupt_mode: Literal["signal", "message"] = "signal"
    env: dict[str, str] = {}
    metadata: Metadata = Metadata()

    @field_validator("argv")
    @classmethod
    def _check_argv(cls, argv: list[str]) -> list[str]:
        if not argv[0] or any("\0" in part for part in argv):
            raise ValueError("must name a program, and have no NUL")
        return argv

    @field_validator("env")
    @classmethod
    def _check_env(cls, env: dict[str, str]) -> dict[str, str]:
        if any(not name or "=" in name or "\0" in f"{name}{text}" for name, text in env.items()):
            raise ValueError("must have names of variables, and no NUL")
        return env

    @field_validator("language")
    @classmethod
    def _check_language(cls, name: str) -> str:
        if not language_id(name):
            raise ValueError("must have a letter or a digit of ASCII")
        return name


def load_kernel_json(file: Path) -> KernelJson:
    """Reads a kernel.json (blocking). Raises StartError naming the file and what is wrong."""
    try:
        return KernelJson.model_validate_json(read_small_file(file))
    except OSError as error:
        raise StartError(f"{file} cannot be read: {error}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        what = _MISTAKES.get(first["type"], first["msg"])
        raise StartError(f"{file} is no valid kernelspec: {where}: {what}.") from error
