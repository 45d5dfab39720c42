"""Reads `install.toml`, which says what a kernelspec's folder needs installed."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from era_kernels.errors import StartError
from era_kernels.toolchains.small_files import read_small_file

MANIFEST_NAME = "install.toml"
STEP_TIMEOUT = 600.0  # seconds


def _check_relative(path: str) -> str:
    parts = PurePosixPath(path)
    if not parts.parts or parts.is_absolute() or ".." in parts.parts or "\0" in path:
        raise ValueError("must be a path below the folder, without ..")
    return path


RelativePath = Annotated[str, AfterValidator(_check_relative)]
ProgramName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Hash = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Argv = Annotated[list[str], Field(min_length=1)]


class _Table(BaseModel):
    """A table of the file; an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Tool(_Table):
    """A program that comes in a wheel, or is one of the system's of a sufficient version."""

    program: ProgramName
    wheel: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9._!+]+$")
    hashes: list[Hash] = Field(min_length=1)  # of the wheels of all platforms
    bin: RelativePath = "bin"  # the folder of the programs in the wheel
    # Further programs with the files of the wheel that they are, where these are not in `bin`.
    programs: dict[ProgramName, RelativePath] = {}
    minimum: str | None = Field(None, pattern=r"^\d+(\.\d+)*$")  # of the system's program
    version_argv: Argv = ["{program}", "--version"]

    @property
    def distribution(self) -> str:
        """The name of the wheel's distribution."""
        return self.wheel.partition("==")[0]

    @property
    def pinned_version(self) -> str:
        """The version of the wheel."""
        return self.wheel.partition("==")[2]


class Step(_Table):
    """A command that makes something of the toolchain. It can be run again after it was cut short.

    It runs in the toolchain's directory, where its inputs lie at the paths that they have in the
    kernelspec's folder.
    """

    name: str = Field(min_length=1, max_length=100)
    inputs: list[RelativePath] = []  # files, or folders with all that is in them
    argv: Argv
    env: dict[str, str] = {}
    timeout: float = Field(STEP_TIMEOUT, gt=0, allow_inf_nan=False)  # seconds
    outputs: list[RelativePath] = Field(min_length=1)  # must be there afterwards


class Manifest(_Table):
    """Holds an install.toml: tools come first, then the steps in their order."""

    requires: list[FolderName] = []  # the folders whose toolchains come before
    version_argv: Annotated[list[str], Field(min_length=1)] | None = None
    tool: list[Tool] = []
    step: list[Step] = []

    @model_validator(mode="after")
    def _check_names(self) -> Manifest:
        programs = [name for tool in self.tool for name in (tool.program, *tool.programs)]
        for kind, names in (("program", programs), ("step", [step.name for step in self.step])):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"the {kind} {twice} is there twice")
        return self

    def inputs(self) -> list[str]:
        """Returns the inputs of all steps, each once."""
        return list(dict.fromkeys(path for step in self.step for path in step.inputs))


def load_manifest(folder: Path) -> Manifest | None:
    """Reads the install.toml of a folder, None when it has none (blocking).

    Raises StartError naming the file and the place in it that is wrong.
    """
    file = folder / MANIFEST_NAME
    try:
        manifest = Manifest.model_validate(tomllib.loads(read_small_file(file).decode()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StartError(f"{file} cannot be read: {error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StartError(f"{file} is no valid TOML: {error}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise StartError(f"{file} is wrong at {where}: {first['msg']}.") from error
    for path in manifest.inputs():
        real = os.path.realpath(folder / path)
        if not os.path.exists(real):  # noqa: PTH110
            raise StartError(f"{file} names an input that does not exist: {path}.")
        if not Path(real).is_relative_to(os.path.realpath(folder)):
            raise StartError(f"{file} names an input that is a link out of its folder: {path}.")
    return manifest


def input_files(folder: Path, path: str) -> Iterator[Path]:
    """Yields the files of an input, those of a folder in order of their names (blocking)."""
    root = folder / path
    if root.is_dir():
        yield from (one for one in sorted(root.rglob("*")) if one.is_file())
    else:
        yield root
