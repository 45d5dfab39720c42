"""What a sandbox has on the host while it lives: a uid, a runtime directory, control groups."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from era_kernels.errors import KernelStartFailed
from era_kernels.models import Limits, Place
from era_kernels.sandbox import directories
from era_kernels.sandbox.groups import Group
from era_kernels.sandbox.identities import Identities, hand_over, let_pass
from era_kernels.sandbox.plan import Kind, Plan
from era_kernels.sandbox.tiers import Walls
from era_kernels.sandbox.watch import Watch, out_of_memory

MENDED = 60  # seconds after which a caller may try again what an operator has to mend
log = logging.getLogger(__name__)


class Quarters:
    """Made for one sandbox: `furnish` before it stands, `clear` when nothing of it runs."""

    def __init__(
        self, base: Path, walls: Walls, place: Place, limits: Limits, identities: Identities
    ) -> None:
        self.runtime = directories.fresh(base)
        self.place, self.inside = walls.inside(place, self.runtime)  # as the code sees them
        self._walls = walls
        self._host = place
        self._limits = limits
        self._identities = identities
        self._uid: int | None = None
        self._group: Group | None = None

    @property
    def alarm(self) -> int | None:
        """A descriptor that becomes readable when memory runs out, where there is one."""
        return None if self._group is None else self._group.alarm

    @property
    def overdrawn(self) -> str | None:
        """The cause, when the kernel killed a process for want of memory."""
        if self._group is None or self._limits.memory is None or not self._group.out_of_memory:
            return None
        return out_of_memory(self._limits.memory)

    def furnish(self, group: Group | None) -> Plan:
        """Make everything ready, those groups too (blocking): the plan of the walls.

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
            if self._walls.separate:
                self._let_pass(self._uid)
        if group is not None:
            group.bind(self._limits)
            self._group = group
        plan = self._walls.planned(place, self.runtime, self._limits, self._uid)
        return replace(plan, passage=self._identities.passage) if self._walls.separate else plan

    def _let_pass(self, uid: int) -> None:
        """Without a root of its own the code walks through the directories of the server."""
        os.chown(self.place.temporary, uid, uid)
        ours = (self.runtime.parent, *map(Path, self._walls.plan.hidden))
        for directory in (self.runtime, self._host.workspace, self._host.packages):
            let_pass(directory, self._identities.passage, ours)

    def watch(self, pid: int) -> Watch:
        """A look at the limits that no group enforces; `pid` is the init's on the host."""
        beside = (self._host.packages, self._host.cache, self.runtime)
        return Watch(pid, self._host.workspace, self._limits, self._walls.grouped, beside)

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
