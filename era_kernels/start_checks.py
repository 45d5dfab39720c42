"""Prepares a start: finds languages that cannot run with the settings, and makes directories."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, suppress
from pathlib import Path

from era_kernels.errors import StartError
from era_kernels.kernels.languages import Languages
from era_kernels.setting_types import format_size_setting
from era_kernels.settings import Settings

log = logging.getLogger(__name__)


def load_languages(settings: Settings) -> Languages:
    """Reads the kernelspecs (blocking), and logs which language has not enough memory.

    Raises StartError, also where no language that is installed has enough.
    """
    languages = Languages.load(settings.kernelspec_dirs, toolchain_dir=settings.toolchain_dir)
    for problem in languages.problems:
        log.warning("a kernelspec is left out", extra={"why": problem})
    needs = sorted(
        (one.default.minimums.memory or 0, one.name, str(one.default.directory))
        for one in languages
        if one.default.is_available
    )
    too_much = [need for need in needs if need[0] > settings.session_memory]
    for need, name, directory in too_much:
        text = (
            f"session_memory is {format_size_setting(settings.session_memory)}, and {name} "
            f"({directory}) needs at least {format_size_setting(need)} to start: raise it with "
            "--session-memory"
        )
        if too_much == needs:  # no language can start, and this one needs the least
            raise StartError(f"{text}.")
        log.warning("a language has not enough memory", extra={"why": text})
    return languages


def make_toolchain_dir(undo: ExitStack, path: Path) -> None:
    """Makes the directory of toolchains (blocking), so that sessions see what is installed later.

    `undo` removes it where nothing has come into it.
    """
    made = [one for one in (path, *path.parents) if not os.path.lexists(one)]
    with suppress(OSError):  # where this user may not, nothing can be installed either
        path.mkdir(parents=True, exist_ok=True)
        for one in reversed(made):
            undo.callback(_remove_empty, one)


def _remove_empty(path: Path) -> None:
    with suppress(OSError):
        path.rmdir()
