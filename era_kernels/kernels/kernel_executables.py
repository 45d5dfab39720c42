"""Finds the executables that start kernels, and the installations that they belong to."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from era_kernels.kernels.environment import search_path

MAX_LINKS = 40  # links that are followed to a program, as by Linux
HOME_FOLDERS = tuple(map(Path, ("/home", "/var/home", "/export/home")))  # home directories are here


def environment_prefix(folder: Path) -> Path | None:
    """Returns the installation that a folder of a kernelspec belongs to, None when it is in none.

    That is PREFIX where the folder is PREFIX/share/jupyter/kernels/NAME, as installers make it.
    """
    if folder.parent.parts[-3:] != ("share", "jupyter", "kernels"):
        return None
    return folder.parents[3]


def search_path_of(prefix: Path | None) -> str:
    """Returns the PATH on which a kernel's program is looked for: its own installation first."""
    return search_path() if prefix is None else f"{prefix / 'bin'}:{search_path()}"


def find_program(program: str, path: str) -> str | None:
    """Returns the absolute path of a program, None when it is not installed."""
    return shutil.which(program, path=path)


def installation_roots(program: Path) -> Iterator[Path]:
    """Yields the folders that hold a program and its other files.

    They are one for each link that leads to the program: that of an environment of its own leads
    to the interpreter that the environment was made of.
    """
    for _ in range(MAX_LINKS):
        yield _installation_root(program)
        if not os.path.islink(program):  # noqa: PTH114
            break
        program = program.parent / program.readlink()
    yield _installation_root(Path(os.path.realpath(program)))  # unlike `resolve`, circles too


def is_installation(folder: Path) -> bool:
    """Returns whether a folder holds an installation, and not what is somebody's own besides.

    A home directory is none, whosever and by whatever path, neither is `.local` in it, where
    programs keep data of their users.
    """
    real = Path(os.path.realpath(folder))
    homes = {Path(os.path.realpath(home)) for home in _homes(real)}
    is_own = any(real == home or real in home.parents for home in homes)
    return not is_own and ".local" not in (folder.name, real.name) and real not in HOME_FOLDERS


def _homes(folder: Path) -> Iterator[Path]:
    """Yields home directories: of this user, of the folder's owner, and where homes usually are."""
    with suppress(RuntimeError):  # this user has no entry, nor HOME
        yield Path.home()
    if folder.parent in HOME_FOLDERS:
        yield folder
    for uid in (os.geteuid, lambda: folder.stat().st_uid):
        with suppress(OSError, KeyError):  # it is not there, or its owner has no entry
            yield Path(pwd.getpwuid(uid()).pw_dir)


def _installation_root(program: Path) -> Path:
    """Returns the folder above a program's `bin` when that is an installation, else its own.

    A program that lies in somebody's home, beside all else there, stands for itself.
    """
    folder = program.parent
    if folder.name == "bin" and is_installation(folder.parent):
        return folder.parent
    return folder if is_installation(folder) else program
