"""What a sandbox has on the host while it lives: a uid of its own and a runtime directory."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from era_kernels.errors import KernelStartFailed
from era_kernels.models import Limits, Place
from era_kernels.sandbox import directories
from era_kernels.sandbox.identities import Identities, hand_over
from era_kernels.sandbox.plan import Kind, Plan
from era_kernels.sandbox.tiers import Walls

MENDED = 60  # seconds after which a caller may try again what an operator has to mend
log = logging.getLogger(__name__)


class Quarters:
    """Made for one sandbox: `furnish` before it stands, `clear` when nothing of it runs."""

    def __init__(self, base: Path, walls: Walls, place: Place, identities: Identities) -> None:
        self.runtime = directories.fresh(base)
        self.place, self.inside = walls.inside(place, self.runtime)  # as the code sees them
        self._walls = walls
        self._host = place
        self._identities = identities
        self._uid: int | None = None

    def furnish(self, limits: Limits) -> Plan:
        """Make everything ready (blocking): the plan of the walls.

        Raises OSError, KernelStartFailed.
        """
        place = replace(self._host, mounts=tuple(self._mounts()))
        self.runtime.mkdir(0o700)
        if self._walls.plan.kind is Kind.LANDLOCK:
            self.place.temporary.mkdir(0o700)
        if self._walls.own_uids:
            self._uid = self._identities.take(self._host.workspace)
            os.chown(self.runtime, self._uid, self._uid)
            hand_over((self._host.workspace, self._host.packages, self._host.cache), self._uid)
        return self._walls.planned(place, self.runtime, limits, self._uid)

    def _mounts(self) -> Iterator[tuple[str, Path]]:
        """Where the operator's directories are now: links to them may have changed.

        Raises KernelStartFailed.
        """
        kept = [_real(path) for path in (*self._walls.plan.hidden, str(self.runtime.parent))]
        for name, path in self._host.mounts:
            real = _real(path)
            extra = {"mount": name, "path": str(path)}
            if not (os.access(real, os.R_OK | os.X_OK) and real.is_dir()):
                log.error("the directory of a mount is not there", extra=extra)
                raise _unshown(f"The directory that the mount {name} shows is not there.")
            if any(real.is_relative_to(one) or one.is_relative_to(real) for one in kept):
                log.error("the directory of a mount holds what is the server's", extra=extra)
                raise _unshown(f"The mount {name} would show what is the server's own.")
            yield name, real

    def clear(self) -> None:
        """Remove what only this sandbox had (blocking); a second call is fine."""
        directories.remove(self.runtime)
        self._identities.free(self._uid)
        self._uid = None


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))


def _unshown(message: str) -> KernelStartFailed:
    hint = "Ask who runs the server: its setting `mounts` names the directory."
    return KernelStartFailed(message, hint=hint, retry_after=MENDED)
