"""Keeps what the database does not know: it is moved aside, and never removed by the server."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from era_kernels.models import now

log = logging.getLogger(__name__)

DIRECTORY = "lost+found"


class LostAndFound:
    """Moves files and directories into a directory beside them, and back; every method blocks.

    The new name is the old one and the time (UTC): `0123456789abcdef.20260131T120000Z`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def take(self, source: Path) -> bool:
        """Moves a file or directory here; returns False, and logs why, where it must stay.

        Nothing is overwritten, and nothing is copied: it stays on its file system.
        """
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
            source.rename(self._free_path(source.name))
        except OSError as error:
            extra = {"path": str(source), "why": error.strerror}
            log.warning(
                "what the database does not know could not be moved, and stays", extra=extra
            )
            return False
        return True

    def bring_back(self, targets: Iterable[Path]) -> set[Path]:
        """Moves what was moved here from these paths, which are free, back; returns the paths.

        Of several with one name it is the last that came.
        """
        newest = {path.name.partition(".")[0]: path for path in self._list()}
        found = {target: newest[target.name] for target in targets if target.name in newest}
        done = set()
        for target, path in found.items():
            try:
                target.parent.mkdir(mode=0o700, exist_ok=True)
                path.rename(target)
            except OSError as error:
                extra = {"path": str(path), "why": error.strerror}
                log.warning("what was set aside could not be brought back", extra=extra)
            else:
                done.add(target)
        if done:
            log.warning("what was set aside is known again", extra={"count": len(done)})
        return done

    def _list(self) -> list[Path]:
        with suppress(OSError):
            return sorted(self.path.iterdir())
        return []

    def _free_path(self, name: str) -> Path:
        path = first = self.path / f"{name}.{now():%Y%m%dT%H%M%SZ}"
        number = 1
        while os.path.lexists(path):
            number += 1
            path = first.with_name(f"{first.name}-{number}")
        return path
