"""Gets the programs of a toolchain: from the system, from this environment, or from a wheel."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from era_kernels.install.durable_files import remove_tree
from era_kernels.install.environment_variables import SYSTEM_PATH, pip_environment, step_environment
from era_kernels.install.failures import DAMAGED, InstallFailed, find_cause
from era_kernels.install.part_runner import PartRunner
from era_kernels.toolchains.manifest import Tool

PIP_TIMEOUT = 3600.0  # seconds; pip gives up sooner where nothing comes
VERSION_TIMEOUT = 60.0  # seconds; the first start of a large program on a cold disk is slow
_VERSION = re.compile(r"\d+(?:\.\d+)+")


@dataclass(frozen=True, slots=True)
class FoundTool:
    """A tool that works: its version, and the files of its programs by their names."""

    version: str
    programs: dict[str, Path]


def find_system_tool(tool: Tool, runner: PartRunner) -> FoundTool | None:
    """Returns the system's tool when its version is sufficient, else None (blocking)."""
    found = shutil.which(tool.program, path=SYSTEM_PATH)
    if found is None or tool.minimum is None:
        return None
    programs = {name: Path(found).with_name(name) for name in (tool.program, *tool.programs)}
    if not all(path.exists() for path in programs.values()):
        return None
    version = _read_version(tool, programs[tool.program], runner)
    is_sufficient = version is not None and _numbers(version) >= _numbers(tool.minimum)
    return FoundTool(version, programs) if version is not None and is_sufficient else None


def find_own_tool(tool: Tool, runner: PartRunner) -> FoundTool | None:
    """Returns the tool when this interpreter's environment has the same wheel, else None."""
    try:
        distribution = metadata.distribution(tool.distribution)
    except metadata.PackageNotFoundError:
        return None
    if distribution.version != tool.pinned_version:
        return None
    files = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
    files = [file for file in files if file.exists()]
    main = next((one for one in files if one.match(f"{tool.bin}/{tool.program}")), None)
    version = None if main is None else _read_version(tool, main.resolve(), runner)
    if main is None or version is None:
        return None
    programs = {one.name: one.resolve() for one in files if one.parent == main.parent}
    for name, path in tool.programs.items():
        programs.update((name, one.resolve()) for one in files if one.match(path))
    return FoundTool(version, programs)


def install_wheel(tool: Tool, directory: Path, runner: PartRunner) -> FoundTool:
    """Installs the tool's wheel into a directory by pip (blocking); what is there goes before.

    Raises InstallFailed, OSError.
    """
    partial = directory.with_name(f"{directory.name}.partial")
    for old in (partial, directory):
        remove_tree(old)
    partial.mkdir(parents=True)
    requirements = partial.with_suffix(".txt")
    hashes = " ".join(f"--hash={one}" for one in tool.hashes)
    requirements.write_text(f"{tool.wheel} {hashes}\n", "utf-8")
    command = [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"),
        *("install", "--no-deps", "--only-binary=:all:", "--require-hashes", "--no-user"),
        *("--no-compile", "--no-warn-script-location", "--progress-bar=off"),
        *("--target", str(partial), "-r", str(requirements)),
    ]
    env = {**pip_environment(), "TMPDIR": str(runner.temporary)}
    done = runner.try_run(command, env, PIP_TIMEOUT)
    if done.code and find_cause(done.stderr) == DAMAGED:
        # Older pips take the beginning of a file for all of it, and keep it in their cache.
        done = runner.try_run([*command, "--no-cache-dir"], env, PIP_TIMEOUT)
    runner.check(tool.wheel, done, PIP_TIMEOUT)
    requirements.unlink()
    partial.rename(directory)
    programs = dict(_programs_in(tool, directory))
    if tool.program not in programs:
        raise InstallFailed(f"{tool.wheel} has no program {tool.bin}/{tool.program}")
    version = _read_version(tool, programs[tool.program], runner)
    if version is None:
        raise InstallFailed(f"{tool.program} of {tool.wheel} does not run on this host")
    return FoundTool(version, programs)


def _programs_in(tool: Tool, directory: Path) -> Iterator[tuple[str, Path]]:
    files = {file.name: file for file in (directory / tool.bin).glob("*") if file.is_file()}
    files.update({name: directory / path for name, path in tool.programs.items()})
    for name, file in files.items():
        if file.is_file():
            file.chmod(file.stat().st_mode | 0o555)
            yield name, file


def _read_version(tool: Tool, program: Path, runner: PartRunner) -> str | None:
    """Asks a program for its version; None when it does not run."""
    command = [part.replace("{program}", str(program)) for part in tool.version_argv]
    env = step_environment(runner.home, program.parent)
    done = runner.try_run(command, env, VERSION_TIMEOUT)
    found = _VERSION.search("\n".join(done.stdout or done.stderr))
    return found[0] if found and done.code == 0 else None


def _numbers(version: str) -> tuple[int, ...]:
    """Returns the numbers of a version; 20 and 20.0.0 are equal.

    >>> _numbers("20.0") == _numbers("20"), _numbers("3.10") > _numbers("3.9")
    (True, True)
    """
    numbers = [int(part) for part in version.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
