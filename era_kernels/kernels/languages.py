"""Finds languages by name and alias, and the kernels of each."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from era_kernels.errors import InvalidRequest, LanguageUnavailable, StartError, UnsupportedLanguage
from era_kernels.kernels.kernelspecs import (
    Kernelspec,
    builtin_dir,
    find_kernelspecs,
    with_availability,
)
from era_kernels.models import JsonObject, Network
from era_kernels.toolchains.layout import Toolchain


@dataclass(frozen=True, slots=True)
class Language:
    """A language and its kernels, of which the first is the default."""

    name: str
    kernels: tuple[Kernelspec, ...]

    @property
    def default(self) -> Kernelspec:
        """The kernel that a session gets which asks for none."""
        return self.kernels[0]

    @property
    def aliases(self) -> tuple[str, ...]:
        """The other names of the language, each once."""
        return tuple(dict.fromkeys(alias for one in self.kernels for alias in one.aliases))

    def kernel(self, name: str | None) -> Kernelspec:
        """Returns the kernel of that name, None is the default. Raises InvalidRequest."""
        if name is None:
            return self.default
        for kernelspec in self.kernels:
            if kernelspec.name == name:
                return kernelspec
        known = [kernelspec.name for kernelspec in self.kernels]
        rule = f"must be one of {', '.join(known)}"
        raise InvalidRequest(
            f"`kernel` {rule} for {self.name}.", details=[{"field": "kernel", "problem": rule}]
        )

    def available_kernel(self, name: str | None) -> Kernelspec:
        """Works like `kernel`; raises LanguageUnavailable when this host lacks something."""
        kernelspec = self.kernel(name)
        if kernelspec.unavailable_reason is not None:
            raise LanguageUnavailable(
                f"{self.name} cannot run on this server: {kernelspec.unavailable_reason}."
            )
        return kernelspec

    def describe(self) -> JsonObject:
        """Returns the language as the API lists it."""
        kernelspec = self.default
        description: JsonObject = {
            "name": self.name,
            "aliases": list(self.aliases),
            "available": kernelspec.is_available,
            "version": kernelspec.version,
            "kernels": [one.name for one in self.kernels],
            "capabilities": list(kernelspec.capabilities),
        }
        if kernelspec.unavailable_reason is not None:
            description["reason"] = kernelspec.unavailable_reason
        return description


class Languages:
    """Finds languages by name and alias in any case."""

    def __init__(self, kernelspecs: Iterable[Kernelspec], problems: Sequence[str] = ()) -> None:
        """Takes kernelspecs, of which the first of a name counts.

        `problems` are sentences about others that are left out. Raises StartError when two
        languages claim the same name or alias.
        """
        found_kernelspecs = list(kernelspecs)
        self.problems = tuple(problems)
        known = {
            alias.lower(): one.language
            for one in found_kernelspecs
            if not one.is_stock
            for alias in one.aliases
        }
        by_language: dict[str, dict[str, Kernelspec]] = {}
        for kernelspec in found_kernelspecs:
            # A stock kernel may call its language by what is an alias here.
            language_name = kernelspec.language
            if kernelspec.is_stock:
                language_name = known.get(language_name, language_name)
            by_language.setdefault(language_name, {}).setdefault(kernelspec.name, kernelspec)
        self._all = [
            Language(name, tuple(sorted(found.values(), key=lambda one: one.name != name)))
            for name, found in sorted(by_language.items())
        ]
        self._by_name: dict[str, Language] = {}
        for language in self._all:
            for name in (language.name, *language.aliases):
                other = self._by_name.setdefault(name.lower(), language)
                if other is not language:
                    raise StartError(
                        f'"{name}" is claimed by two kernelspecs: {other.default.directory} and '
                        f"{language.default.directory}. Remove one of them."
                    )

    @classmethod
    def load(
        cls,
        extra: Sequence[Path] = (),
        builtin: Path | None = None,
        toolchain_dir: Path | None = None,
    ) -> Languages:
        """Reads the folders in `extra`, the first wins, then the built-in ones. Blocking.

        What they need installed lies in `toolchain_dir`, by default that of this environment.
        Raises StartError naming the file that is broken, unless it lies in a data directory of
        Jupyter's.
        """
        directories = (*extra, builtin or builtin_dir())
        found = [find_kernelspecs(one, toolchain_dir) for one in directories]
        return cls(
            itertools.chain.from_iterable(one.kernelspecs for one in found),
            [problem for one in found for problem in one.problems],
        )

    def set_network(self, network: Network) -> None:
        """Chooses the transports of all kernels, when the walls are known. Blocking.

        Kernels that speak only tcp are unavailable where no program can.
        """
        self._all = [
            replace(
                language,
                kernels=tuple(
                    with_availability(one.for_network(network)) for one in language.kernels
                ),
            )
            for language in self._all
        ]
        by_name = {language.name: language for language in self._all}
        self._by_name = {name: by_name[one.name] for name, one in self._by_name.items()}

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

    @property
    def preload(self) -> tuple[str, ...]:
        """The modules that are imported before a kernel is forked, each once."""
        names = (name for kernelspec in self._forked_kernels() for name in kernelspec.preload)
        return tuple(dict.fromkeys(names))

    @property
    def entry_paths(self) -> tuple[Path, ...]:
        """The folders that hold the entries of forked kernels."""
        return tuple(kernelspec.directory for kernelspec in self._forked_kernels())

    @property
    def readable_paths(self) -> tuple[Path, ...]:
        """The folders that kernels must be able to read."""
        available = [kernelspec for kernelspec in self._kernels() if kernelspec.is_available]
        return tuple(path for kernelspec in available for path in kernelspec.readable_paths)

    @property
    def toolchains(self) -> tuple[Toolchain, ...]:
        """What must be installed for the kernels, complete or not."""
        return tuple(one.toolchain for one in self._kernels() if one.toolchain is not None)

    def _kernels(self) -> Iterator[Kernelspec]:
        return (kernelspec for language in self._all for kernelspec in language.kernels)

    def _forked_kernels(self) -> list[Kernelspec]:
        return [one for one in self._kernels() if one.entry is not None and one.is_available]
