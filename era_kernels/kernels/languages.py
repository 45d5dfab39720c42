"""Loads the languages that the server can run; the only reader of the kernelspec folders.

A language is a folder with a `kernel.json`, as Jupyter defines it, whose `metadata.era_kernels`
has what this server needs besides. Folders named in the settings win over those of the package.
"""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from era_kernels.errors import LanguageUnavailable, StartError, UnsupportedLanguage
from era_kernels.kernels.environment import fill_placeholders, search_path
from era_kernels.models import JsonObject, Limits

NO_MINIMUMS = Limits()
_MIB = 1024 * 1024
_NAME = r"^[a-z][a-z0-9_+-]*$"


class _Minimums(BaseModel):
    """Holds the least with which a kernel starts and runs a program that does nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    memory_mb: int | None = Field(None, gt=0)
    processes: int | None = Field(None, gt=0)
    cpu: float | None = Field(None, gt=0)

    def to_limits(self) -> Limits:
        """Converts these minimums to limits in bytes, processes and cores."""
        memory = None if self.memory_mb is None else self.memory_mb * _MIB
        return Limits(memory=memory, processes=self.processes, cpu=self.cpu)


class _EraMetadata(BaseModel):
    """Validates `metadata.era_kernels` of a kernel.json. Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    aliases: list[str] = []
    entry: str | None = Field(None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    preload: list[str] = []
    extension: str = ""
    transport: Literal["ipc"] = "ipc"
    capabilities: list[str] = []
    # Only signals that do nothing to a process which does not handle them.
    dump_signal: Literal["SIGURG", "SIGWINCH"] | None = None
    minimums: _Minimums = _Minimums()


class _Metadata(BaseModel):
    era_kernels: _EraMetadata = _EraMetadata()


class _KernelJson(BaseModel):
    """Validates a kernel.json; keys of Jupyter that this server does not use are ignored."""

    argv: list[str] = Field(min_length=1)
    display_name: str
    language: str = Field(pattern=_NAME)
    interrupt_mode: Literal["signal", "message"] = "signal"
    env: dict[str, str] = {}
    metadata: _Metadata = _Metadata()


@dataclass(frozen=True, slots=True)
class Language:
    """Describes a language and the kernel that runs it.

    `argv` starts the kernel by exec, `entry` ("module:function") in a forked process that has
    imported `preload`. `unavailable_reason` says what is missing on this host, if anything is.
    """

    name: str
    aliases: tuple[str, ...]
    directory: Path
    argv: tuple[str, ...]
    entry: str | None
    preload: tuple[str, ...]
    env: Mapping[str, str]
    interrupt_mode: Literal["signal", "message"]
    transport: Literal["ipc"]
    extension: str
    capabilities: tuple[str, ...]
    kernels: tuple[str, ...]
    dump_signal: str | None = None  # makes the kernel write its stack when it can do nothing else
    version: str | None = None
    unavailable_reason: str | None = None
    minimums: Limits = NO_MINIMUMS  # what its kernel needs at least

    @property
    def is_available(self) -> bool:
        """True when nothing is missing on this host."""
        return self.unavailable_reason is None

    def command(self, connection_file: Path) -> tuple[str, ...]:
        """Returns the command that starts the kernel, its program as an absolute path."""
        values = {
            "{python}": sys.executable,
            "{connection_file}": str(connection_file),
            "{resource_dir}": str(self.directory),
        }
        program, *rest = (fill_placeholders(part, values) for part in self.argv)
        return (_find_program(program) or program, *rest)

    def describe(self) -> JsonObject:
        """Returns the language as the API lists it."""
        description: JsonObject = {
            "name": self.name,
            "aliases": list(self.aliases),
            "available": self.is_available,
            "version": self.version,
            "kernels": list(self.kernels),
            "capabilities": list(self.capabilities),
        }
        return (
            description
            if self.unavailable_reason is None
            else {**description, "reason": self.unavailable_reason}
        )


class Languages:
    """Finds languages by name and alias in any case; each has a folder."""

    def __init__(self, languages: Iterable[Language]) -> None:
        """Raises StartError when two languages claim the same name or alias."""
        self._by_name: dict[str, Language] = {}
        self._all = sorted(languages, key=lambda language: language.name)
        for language in self._all:
            for name in (language.name, *language.aliases):
                other = self._by_name.setdefault(name.lower(), language)
                if other is not language:
                    raise StartError(
                        f'"{name}" is claimed by two kernelspecs: {other.directory} and '
                        f"{language.directory}. Remove one of them."
                    )

    @classmethod
    def load(cls, extra: Sequence[Path] = (), builtin: Path | None = None) -> Languages:
        """Reads the folders in `extra`, the first wins, then the built-in ones. Blocking.

        Raises StartError naming the file that is broken.
        """
        found: dict[str, Language] = {}
        for directory in (*extra, builtin or builtin_dir()):
            for language in _load_languages(directory):
                found.setdefault(language.name, language)
        return cls(found.values())

    def __iter__(self) -> Iterator[Language]:
        return iter(self._all)

    def resolve(self, name: str) -> Language:
        """Returns the language of that name or alias.

        Raises UnsupportedLanguage, which lists the known ones.
        """
        language = self._by_name.get(name.lower())
        if language is None:
            known = [language.name for language in self._all]
            raise UnsupportedLanguage(
                f'The language "{name[:64]}" is not supported. Supported: {", ".join(known)}.',
                details={"supported": known},
            )
        return language

    def resolve_available(self, name: str) -> Language:
        """Works like `resolve`; raises LanguageUnavailable when this host lacks something."""
        language = self.resolve(name)
        if language.unavailable_reason is not None:
            raise LanguageUnavailable(
                f"{language.name} cannot run on this server: {language.unavailable_reason}."
            )
        return language

    @property
    def preload(self) -> tuple[str, ...]:
        """The modules that are imported before a kernel is forked, each once."""
        names = (name for language in self._forked_languages() for name in language.preload)
        return tuple(dict.fromkeys(names))

    @property
    def entry_paths(self) -> tuple[Path, ...]:
        """The folders that hold the entries of forked kernels."""
        return tuple(language.directory for language in self._forked_languages())

    @property
    def readable_paths(self) -> tuple[Path, ...]:
        """The folders that kernels must be able to read: the kernelspecs' and those of programs."""
        available = [one for one in self._all if one.is_available]
        programs = [Path(one.command(Path())[0]) for one in available if one.entry is None]
        installations = [_installation_root(path) for path in programs]
        return (*(one.directory for one in available), *installations)

    def _forked_languages(self) -> list[Language]:
        return [one for one in self._all if one.entry is not None and one.is_available]


def builtin_dir() -> Path:
    """Returns the folder of kernelspecs that come with the package, or of the source tree."""
    package = Path(__file__).resolve().parent.parent
    shipped = package / "kernelspecs"
    return shipped if shipped.is_dir() else package.parent / "kernelspecs"


def _load_languages(directory: Path) -> list[Language]:
    try:
        folders = sorted(directory.iterdir())
    except OSError as error:
        raise StartError(f"The kernelspec folder {directory} cannot be read: {error}.") from error
    return [_load_language(folder) for folder in folders if (folder / "kernel.json").exists()]


def _load_language(folder: Path) -> Language:
    file = folder / "kernel.json"
    try:
        spec = _KernelJson.model_validate_json(file.read_bytes())
    except OSError as error:
        raise StartError(f"{file} cannot be read: {error}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise StartError(f"{file} is no valid kernelspec: {where}: {first['msg']}.") from error
    return _with_availability(_to_language(spec, folder.absolute()))


def _to_language(spec: _KernelJson, folder: Path) -> Language:
    metadata = spec.metadata.era_kernels
    return Language(
        name=spec.language,
        aliases=tuple(metadata.aliases),
        directory=folder,
        argv=tuple(spec.argv),
        entry=metadata.entry,
        preload=tuple(metadata.preload),
        env={
            name: fill_placeholders(template, {"{resource_dir}": str(folder)})
            for name, template in spec.env.items()
        },
        interrupt_mode=spec.interrupt_mode,
        transport=metadata.transport,
        extension=metadata.extension,
        capabilities=tuple(metadata.capabilities),
        dump_signal=metadata.dump_signal,
        kernels=(folder.name,),
        minimums=metadata.minimums.to_limits(),
    )


def _with_availability(language: Language) -> Language:
    """Returns the language with what is missing on this host, and its version when known."""
    if language.entry is None:
        program = language.command(Path())[0]
        if _find_program(program) is None:
            return replace(language, unavailable_reason=f"the program {program} is not installed")
        return language
    module = language.entry.partition(":")[0]
    find = partial(_is_importable, paths=[str(language.directory), *sys.path])
    missing = [name for name in (module, *language.preload) if not find(name)]
    if missing:
        return replace(
            language, unavailable_reason=f"modules are not installed: {', '.join(missing)}"
        )
    return replace(language, version=platform.python_version())


def _find_program(program: str) -> str | None:
    return shutil.which(program, path=search_path())


def _installation_root(program: Path) -> Path:
    """Returns the folder that holds a program and its other files."""
    folder = program.resolve().parent
    return folder.parent if folder.name == "bin" else folder


def _is_importable(name: str, paths: Sequence[str]) -> bool:
    """Returns whether there is such a module.

    Nothing is imported, unlike by `importlib.util.find_spec`.
    """
    full = ""
    for part in name.split("."):
        full = f"{full}.{part}" if full else part
        if full in sys.builtin_module_names:
            paths = []
            continue
        spec = PathFinder.find_spec(full, list(paths))
        if spec is None:
            return False
        paths = spec.submodule_search_locations or []
    return True
