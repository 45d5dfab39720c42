"""Finds languages by name and alias, and the kernels of each."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
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
from era_kernels.models import JsonObject, Network, Session
from era_kernels.toolchains.layout import Toolchain

log = logging.getLogger(__name__)

REFRESH_INTERVAL = 0.5  # seconds between two looks at what was missing


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

    def find_kernel(self, name: str | None) -> Kernelspec | None:
        """Returns the kernel of that name in any case, None is the default; None: there is none."""
        if name is None:
            return self.default
        named = (one for one in self.kernels if one.name.lower() == name.lower())
        return next(named, None)

    def kernel(self, name: str | None) -> Kernelspec:
        """Returns the kernel of that name, None is the default. Raises InvalidRequest."""
        kernelspec = self.find_kernel(name)
        if kernelspec is None:
            known = [kernelspec.name for kernelspec in self.kernels]
            rule = f"must be one of {', '.join(known)}"
            raise InvalidRequest(
                f"`kernel` {rule} for {self.name}.", details=[{"field": "kernel", "problem": rule}]
            )
        return kernelspec

    def available_kernel(self, name: str | None) -> Kernelspec:
        """Returns the kernel of that name, None is the default, if it can run on this host.

        Raises LanguageUnavailable when this host lacks something, or has no such kernel any more.
        """
        kernelspec = self.find_kernel(name)
        if kernelspec is None:
            raise LanguageUnavailable(f"{self.name} has no kernel {name} on this server any more.")
        if kernelspec.unavailable_reason is not None:
            what = self.name if name is None else f"{self.name} ({kernelspec.name})"
            raise LanguageUnavailable(
                f"{what} cannot run on this server: {kernelspec.unavailable_reason}."
            )
        return kernelspec

    def describe(self) -> JsonObject:
        """Returns the language as the API lists it: what it can do is what its default can."""
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            **_describe_state(self.default),
            "kernels": [one.name for one in self.kernels],
            "kernel_details": [
                {
                    "name": one.name,
                    "display_name": one.display_name,
                    **_describe_state(one),
                    "fence": one.fence,
                }
                for one in self.kernels
            ],
        }


def _describe_state(kernelspec: Kernelspec) -> JsonObject:
    description: JsonObject = {
        "available": kernelspec.is_available,
        "version": kernelspec.version,
        "capabilities": list(kernelspec.capabilities),
    }
    if kernelspec.unavailable_reason is not None:
        description["reason"] = kernelspec.unavailable_reason
    return description


class Languages:
    """Finds languages by name and alias in any case.

    What this host lacks is looked for again by `refresh`, so that what was installed meanwhile runs
    without a restart, and what was removed is told. Kernels that are forked are not: their modules
    are loaded at the start.
    """

    def __init__(self, kernelspecs: Iterable[Kernelspec], problems: Sequence[str] = ()) -> None:
        """Takes kernelspecs, of which the first of a name counts.

        `problems` are sentences about others that are left out. Raises StartError when two
        languages claim the same name or alias; those that are optional are left out then.
        """
        kept, clashes = _leave_out_clashes(list(_join_stock_kernels(list(kernelspecs))))
        self.problems = (*problems, *clashes)
        self._refreshed_at = -REFRESH_INTERVAL
        by_language: dict[str, dict[str, Kernelspec]] = {}
        for kernelspec in kept:
            by_language.setdefault(kernelspec.language, {}).setdefault(kernelspec.name, kernelspec)
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

    def set_network(self, network: Network, *, shares_uid: bool = False) -> None:
        """Chooses the transports of all kernels, when the walls are known. Blocking.

        Kernels that speak only tcp are unavailable where no program can, and kernels that bind
        their sockets where all sessions share one uid.
        """
        kernels = [one.for_network(network, shares_uid=shares_uid) for one in self._kernels()]
        self._replace([with_availability(one) for one in kernels])

    async def available_kernel(self, language: str, kernel: str | None = None) -> Kernelspec:
        """Returns a kernel that can run on this host; looks again where that may have changed.

        Raises UnsupportedLanguage, LanguageUnavailable.
        """
        kernelspec = self.resolve(language).find_kernel(kernel)
        if kernelspec is not None and _may_change(kernelspec):
            await self.refresh()
        return self.resolve(language).available_kernel(kernel)

    async def refresh(self) -> None:
        """Looks again for what was lacking or may be removed, at most once in REFRESH_INTERVAL."""
        changing = list(filter(_may_change, self._kernels()))
        now = time.monotonic()
        if changing and now - self._refreshed_at >= REFRESH_INTERVAL:
            self._refreshed_at = now
            newest = await asyncio.to_thread(lambda: list(map(with_availability, changing)))
            self._replace(newest)
            for before, after in zip(changing, newest, strict=True):
                _log_change(before, after)

    def _replace(self, kernelspecs: Sequence[Kernelspec]) -> None:
        """Puts these in the places of those that lie in the same folders."""
        newest = {one.directory: one for one in kernelspecs}
        changed = {
            language.name: Language(
                language.name, tuple(newest.get(one.directory, one) for one in language.kernels)
            )
            for language in self._all
        }
        self._all = list(changed.values())
        self._by_name = {name: changed[one.name] for name, one in self._by_name.items()}

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

    def has_capability(self, session: Session, capability: str) -> bool:
        """Returns whether the kernel of a session can do something. Raises UnsupportedLanguage."""
        kernelspec = self.resolve(session.language).find_kernel(session.kernel)
        return kernelspec is not None and capability in kernelspec.capabilities

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
        """What kernels must be able to read, also those that lack something else."""
        paths = (path for kernelspec in self._kernels() for path in kernelspec.readable_paths)
        return tuple(dict.fromkeys(path for path in paths if os.path.exists(path)))  # noqa: PTH110

    @property
    def toolchains(self) -> tuple[Toolchain, ...]:
        """What must be installed for the kernels, complete or not."""
        return tuple(one.toolchain for one in self._kernels() if one.toolchain is not None)

    def _kernels(self) -> Iterator[Kernelspec]:
        return (kernelspec for language in self._all for kernelspec in language.kernels)

    def _forked_kernels(self) -> list[Kernelspec]:
        return [one for one in self._kernels() if one.entry is not None and one.is_available]


def _may_change(kernelspec: Kernelspec) -> bool:
    """Returns whether it may be installed or removed while the server runs."""
    is_removable = kernelspec.toolchain is not None
    return kernelspec.entry is None and (is_removable or not kernelspec.is_available)


def _log_change(before: Kernelspec, after: Kernelspec) -> None:
    extra = {"language": after.language, "kernel": after.name}
    if after.is_available and not before.is_available:
        log.info("a kernel can run now", extra={**extra, "version": after.version})
    elif before.unavailable_reason != after.unavailable_reason:
        log.info("a kernel cannot run", extra={**extra, "why": after.unavailable_reason})


def _join_stock_kernels(kernelspecs: Sequence[Kernelspec]) -> Iterator[Kernelspec]:
    """Yields the kernelspecs; a stock kernel may call its language by what is an alias here."""
    known = {
        alias.lower(): one.language
        for one in kernelspecs
        if not one.is_stock
        for alias in one.aliases
    }
    for kernelspec in kernelspecs:
        names = (kernelspec.language, *(alias.lower() for alias in kernelspec.aliases))
        joined = [known[name] for name in names if name in known] if kernelspec.is_stock else []
        yield replace(kernelspec, language=joined[0]) if joined else kernelspec


def _leave_out_clashes(
    kernelspecs: Sequence[Kernelspec],
) -> tuple[list[Kernelspec], list[str]]:
    """Returns the kernelspecs without the optional ones that claim a name of another language.

    Also returns sentences about these.
    """
    owners: dict[str, Kernelspec] = {}
    clashes: dict[Path, str] = {}
    for kernelspec in sorted(kernelspecs, key=lambda one: one.is_optional):
        names = [name.lower() for name in (kernelspec.language, *kernelspec.aliases)]
        found = [(name, owners[name]) for name in names if name in owners]
        taken = [(name, one) for name, one in found if one.language != kernelspec.language]
        if kernelspec.is_optional and taken:
            name, other = taken[0]
            clashes[kernelspec.directory] = (
                f'{kernelspec.directory} claims the name "{name}" of {other.directory}.'
            )
        else:
            for name in names:
                owners.setdefault(name, kernelspec)
    kept = [one for one in kernelspecs if one.directory not in clashes]
    return kept, list(clashes.values())
