"""Checks and resolves mounts: directories of the operator that sessions may ask to read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from era_kernels.errors import InvalidRequest, NotEnforceable, Unavailable
from era_kernels.kernels.machines import Machines

RETRY_AFTER_SECONDS = 60  # an operator must do something


class Mounts:
    """Holds the mounts on offer: name → directory of the host."""

    def __init__(self, offered: Mapping[str, Path], host: Machines) -> None:
        self._offered = dict(offered)
        self._host = host

    def check(self, names: Iterable[str]) -> None:
        """Checks the mounts that a caller asks for.

        Raises InvalidRequest, which lists the mounts on offer, and NotEnforceable.
        """
        requested = tuple(names)
        unknown = [name for name in requested if name not in self._offered]
        if unknown:
            known = sorted(self._offered)
            raise InvalidRequest(
                f"`mounts` names {unknown[0][:64]!r}, and this server offers "
                f"{', '.join(known) or 'none'}.",
                details={"known": known},
            )
        if requested:
            self._check_enforceable()

    def resolve(self, names: Iterable[str]) -> tuple[tuple[str, Path], ...]:
        """Returns the directories of a session's mounts. Raises Unavailable, NotEnforceable."""
        found = []
        for name in names:
            self._check_enforceable()
            if name not in self._offered:
                raise Unavailable(
                    f"The mount {name} of this session is not offered by the server any more.",
                    hint="Ask who runs the server, or create a session without it.",
                    retry_after=RETRY_AFTER_SECONDS,
                )
            found.append((name, self._offered[name]))
        return tuple(found)

    def _check_enforceable(self) -> None:
        if "mounts" not in self._host.enforceable:
            raise NotEnforceable(
                "Mounts need mount namespaces, which the isolation of this server does without.",
                hint="Create the session without mounts.",
            )
