"""What the services work with: the stores, the kernels and the numbers that bound them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from era_kernels.kernels.machine import KernelHost
from era_kernels.models import Limits, Place, Session
from era_kernels.services.executions import Executions
from era_kernels.services.meters import Meters
from era_kernels.services.mounts import Mounts
from era_kernels.services.rules import Rules
from era_kernels.services.seat import Seats
from era_kernels.services.session_logs import SessionLogs
from era_kernels.storage.files import FileStore
from era_kernels.storage.sessions import SessionStore
from era_kernels.storage.stored_code import CodeStore
from era_kernels.storage.workspaces import Workspaces


@dataclass(frozen=True, slots=True)
class Tools:
    """What every live session works with."""

    host: KernelHost
    store: SessionStore
    codes: CodeStore
    workspaces: Workspaces
    files: FileStore
    executions: Executions
    logs: SessionLogs
    seats: Seats
    rules: Rules
    limits: Limits
    mounts: Mounts
    meters: Meters

    def limits_of(self, session: Session) -> Limits:
        """What the session's processes may use: the server's limits, lowered by its own."""
        return self.limits.lowered(session.limits)

    def place_of(self, session: Session) -> Place:
        """Where its processes live, with its mounts. Raises Unavailable, NotEnforceable."""
        place = self.workspaces.session_paths(session.directory)
        return replace(place, mounts=self.mounts.of(session.mounts))
