"""Makes languages ready: installs what their kernels need, and loads it once."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from era_kernels.errors import StartError
from era_kernels.install.installer import Installer
from era_kernels.install.progress import Progress
from era_kernels.kernels.kernelspecs import Kernelspec, with_availability
from era_kernels.kernels.languages import Language, Languages

IMPORT_TIMEOUT = 120.0  # seconds; the first import of a large package on a cold disk is slow

# Its argv holds a folder and the names of modules.
_IMPORT_SCRIPT = (
    "import importlib, sys; sys.path[0] = sys.argv[1]; "
    "[importlib.import_module(name) for name in sys.argv[2:]]"
)


@dataclass(frozen=True, slots=True)
class Readiness:
    """The result of preparing a kernel; `missing` says what it lacks on this host, else None.

    `language` names another kernel of the language than the default as well.
    """

    language: str
    version: str | None
    missing: str | None


def select_languages(
    kernelspec_dirs: Sequence[Path], names: Sequence[str], toolchain_dir: Path | None = None
) -> list[Language]:
    """Returns the languages of these names or aliases, each once; all when no name is given.

    Raises UnsupportedLanguage listing the known ones, or StartError for a broken kernelspec.
    """
    languages = Languages.load(kernelspec_dirs, toolchain_dir=toolchain_dir)
    if not names:
        return list(languages) or _raise_no_kernelspec()
    found = [languages.resolve(name) for name in names]
    return list({language.name: language for language in found}.values())


def _raise_no_kernelspec() -> NoReturn:
    raise StartError("There is no kernelspec: this installation is not whole. Install it again.")


def make_ready(
    languages: Sequence[Language], progress: Progress, *, prefers_system: bool = False
) -> list[Readiness]:
    """Installs what the kernels of languages need, and loads it once (blocking)."""
    kernels = [(language, kernelspec) for language in languages for kernelspec in language.kernels]
    toolchains = [one.toolchain for _, one in kernels if one.toolchain is not None]
    installer = Installer(progress, prefers_system=prefers_system)
    failures = installer.install(toolchains)
    results = []
    for language, kernelspec in kernels:
        is_default = kernelspec is language.default
        name = language.name if is_default else f"{language.name} ({kernelspec.name})"
        toolchain = kernelspec.toolchain
        failure = None if toolchain is None else failures.get(toolchain.directory)
        if failure is not None:
            results.append(Readiness(name, None, failure))
        else:
            results.append(replace(prepare(with_availability(kernelspec)), language=name))
    return results


def prepare(kernelspec: Kernelspec) -> Readiness:
    """Loads once what a kernel loads (blocking).

    The compiled bytecode stays on disk, so that the first start of the server is a quick one.
    """
    missing = kernelspec.unavailable_reason
    if missing is None and kernelspec.entry is not None:
        missing = _import_failure(kernelspec, kernelspec.entry.partition(":")[0])
    return Readiness(kernelspec.language, kernelspec.version, missing)


def _import_failure(kernelspec: Kernelspec, module: str) -> str | None:
    """Imports the modules in a fresh interpreter; returns its error, None when all is well."""
    modules = [*kernelspec.preload, module]
    command = [sys.executable, "-c", _IMPORT_SCRIPT, str(kernelspec.directory), *modules]
    try:
        result = _run_in_empty_environment(command)
    except subprocess.TimeoutExpired:
        return f"importing {', '.join(modules)} took more than {IMPORT_TIMEOUT:g} seconds"
    if result.returncode == 0:
        return None
    lines = result.stderr.strip().splitlines()
    return lines[-1] if lines else f"importing {', '.join(modules)} ended with {result.returncode}"


def _run_in_empty_environment(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command as the zygote runs: with an environment made from empty and an empty home."""
    with tempfile.TemporaryDirectory(prefix="era-") as home:
        return subprocess.run(
            command,
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": home},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=IMPORT_TIMEOUT,
            check=False,
        )
