"""Knows where a toolchain lies, whether it is complete, and who uses it.

`<toolchain_dir>/<folder>/<digest>/` is built in place and holds

- `bin/`: links to all programs of the toolchain and of those that it requires,
- `tools/`: what came in wheels, and beside it what the steps made,
- `.parts/`: a mark for each part that is done,
- `installed.json`: written last. Without it the toolchain is not there.

Beside that directory lie locks, the log of the last failure, and a home that steps share.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import string
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from era_kernels.errors import StartError
from era_kernels.toolchains.manifest import MANIFEST_NAME, Manifest, input_files, load_manifest
from era_kernels.toolchains.small_files import read_small_file

INSTALLED_NAME = "installed.json"
MAX_INPUT_BYTES = 64 * 1024 * 1024  # of one input of a step
DIGEST_LENGTH = 16  # hexadecimal digits; a path in a script's first line has 127 bytes at most


class Installed(BaseModel):
    """Holds an installed.json: the version, and the programs that are the toolchain's tools."""

    version: str | None = None
    tools: dict[str, str] = {}  # program → its path


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Names the places of a toolchain; `directory` is what `{toolchain}` stands for."""

    name: str
    folder: Path  # of the kernelspec
    manifest: Manifest
    directory: Path
    requires: tuple[Toolchain, ...]

    @property
    def home(self) -> Path:
        """The directory beside all versions of the toolchain."""
        return self.directory.parent

    @property
    def bin(self) -> Path:
        """The folder with links to all programs."""
        return self.directory / "bin"

    @property
    def lock_file(self) -> Path:
        """The file that whoever installs holds locked."""
        return self.home / "lock"

    @property
    def log_file(self) -> Path:
        """The file with the last lines of what failed last."""
        return self.home / "install.log"

    def is_being_installed(self) -> bool:
        """Returns whether an installer is at work on it, or on what it requires (blocking).

        Where this user may not look, it is not known: False.
        """
        return any(_is_locked(one.lock_file) for one in with_required([self]))

    def has_failed(self) -> bool:
        """Returns whether it, or what it requires, could not be installed last time (blocking)."""
        return any(one.log_file.exists() for one in with_required([self]))

    def read_installed(self) -> Installed | None:
        """Returns what is installed, None when it is not complete (blocking)."""
        try:
            installed = Installed.model_validate_json(
                (self.directory / INSTALLED_NAME).read_bytes()
            )
        except (OSError, ValidationError):
            return None
        has_tools = all(os.access(path, os.X_OK) for path in installed.tools.values())
        has_required = all(one.read_installed() is not None for one in self.requires)
        return installed if has_tools and has_required else None


def default_toolchain_dir() -> Path:
    """Returns the folder of toolchains in the environment of this interpreter."""
    return Path(sys.prefix) / "share" / "era_kernels"


def is_toolchain_name(name: str) -> bool:
    """Returns whether a directory of that name is one version of a toolchain."""
    return len(name) == DIGEST_LENGTH and not set(name) - set(string.hexdigits)


def find_toolchain(
    folder: Path, toolchain_dir: Path, others: Sequence[Path] = ()
) -> Toolchain | None:
    """Returns the toolchain of a kernelspec's folder, None when it needs none (blocking).

    What it requires is looked for beside the folder, then in the directories `others`. Raises
    StartError naming the file that is wrong.
    """
    return _find(folder.absolute(), toolchain_dir, others, ())


def _find(
    folder: Path, toolchain_dir: Path, others: Sequence[Path], path: tuple[Path, ...]
) -> Toolchain | None:
    manifest = load_manifest(folder)
    if manifest is None:
        return None
    file = folder / MANIFEST_NAME
    if folder in path:
        raise StartError(f"{file} requires itself: {' → '.join(one.name for one in path)}.")
    required = []
    for name in manifest.requires:
        places = [directory / name for directory in (folder.parent, *others)]
        place = next((one for one in places if (one / MANIFEST_NAME).exists()), None)
        found = place and _find(place.absolute(), toolchain_dir, others, (*path, folder))
        if not found:
            raise StartError(f"{file} requires {name}, which has no {MANIFEST_NAME}.")
        required.append(found)
    digest = _digest(folder, manifest, required)
    directory = toolchain_dir / folder.name / digest
    return Toolchain(folder.name, folder, manifest, directory, tuple(required))


def _digest(folder: Path, manifest: Manifest, required: Sequence[Toolchain]) -> str:
    """Returns the name of what these files describe: another when one of them changes."""
    digest = hashlib.sha256()
    try:
        for path in (MANIFEST_NAME, *manifest.inputs()):
            for file in input_files(folder, path):
                content = read_small_file(file, MAX_INPUT_BYTES)
                digest.update(f"{file.relative_to(folder)}\0{len(content)}\0".encode())
                digest.update(content)
    except OSError as error:
        raise StartError(f"An input of {folder / MANIFEST_NAME} cannot be read: {error}.") from None
    for one in required:
        digest.update(f"{one.name}\0{one.directory.name}\0".encode())
    return digest.hexdigest()[:DIGEST_LENGTH]


def with_required(toolchains: Iterable[Toolchain]) -> list[Toolchain]:
    """Returns toolchains, each once and after those that it requires."""
    ordered: dict[Path, Toolchain] = {}
    for toolchain in toolchains:
        for one in (*with_required(toolchain.requires), toolchain):
            ordered.setdefault(one.directory, one)
    return list(ordered.values())


@contextmanager
def hold_in_use(toolchains: Iterable[Toolchain]) -> Iterator[None]:
    """Keeps toolchains, complete or not yet, from being removed by an installer (blocking).

    Those in a directory that this user cannot write to are used without.
    """
    with ExitStack() as stack:
        for toolchain in with_required(toolchains):
            with suppress(OSError):
                toolchain.home.mkdir(parents=True, exist_ok=True)
                lock = _open_use_lock(toolchain.directory)
                stack.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


@contextmanager
def hold_unused(directory: Path) -> Iterator[bool]:
    """Tells whether nobody uses a toolchain's directory, and keeps it so (blocking)."""
    lock = _open_use_lock(directory)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        is_unused = False
    else:
        is_unused = True
    try:
        yield is_unused
        if is_unused:
            _use_lock(directory).unlink(missing_ok=True)
    finally:
        os.close(lock)


def _is_locked(file: Path) -> bool:
    """Returns whether somebody holds a lock, which it takes for a moment to know that."""
    try:
        lock = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(lock)
    return False


def _open_use_lock(directory: Path) -> int:
    # Write-only: code in sessions may read what is here, and whoever can open it can hold it.
    return os.open(_use_lock(directory), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o200)


def _use_lock(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.in-use")
