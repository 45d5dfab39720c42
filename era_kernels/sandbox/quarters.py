"""What a sandbox has on the host while it lives: a uid of its own and a runtime directory."""

from __future__ import annotations

import os
from pathlib import Path

from era_kernels.models import Limits, Place
from era_kernels.sandbox import directories
from era_kernels.sandbox.identities import Identities, hand_over
from era_kernels.sandbox.plan import Kind, Plan
from era_kernels.sandbox.tiers import Walls


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
        """Make everything ready (blocking): the plan of the walls. Raises OSError."""
        self.runtime.mkdir(0o700)
        if self._walls.plan.kind is Kind.LANDLOCK:
            self.place.temporary.mkdir(0o700)
        if self._walls.own_uids:
            self._uid = self._identities.take(self._host.workspace)
            os.chown(self.runtime, self._uid, self._uid)
            hand_over((self._host.workspace, self._host.packages, self._host.cache), self._uid)
        return self._walls.planned(self._host, self.runtime, limits, self._uid)

    def clear(self) -> None:
        """Remove what only this sandbox had (blocking); a second call is fine."""
        directories.remove(self.runtime)
        self._identities.free(self._uid)
        self._uid = None
