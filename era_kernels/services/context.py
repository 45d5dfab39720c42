"""Holds the collaborators of the services: stores, kernels and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from era_kernels.kernels.machine import Machine
from era_kernels.kernels.machines import Machines
from era_kernels.models import (
    ALL_STORAGE,
    MIB,
    HostPatterns,
    InternetAccess,
    Isolation,
    Limits,
    Session,
    SessionPaths,
    StorageScope,
)
from era_kernels.models.internet import PROXY_ONLY
from era_kernels.services.executions.notices import SessionLimits
from era_kernels.services.executions.service import ExecutionService
from era_kernels.services.kernel_limiter import KernelLimiter
from era_kernels.services.metrics import Metrics
from era_kernels.services.mounts import Mounts
from era_kernels.services.public_cutoff import PublicCutoff
from era_kernels.services.session_logs import SessionLogs
from era_kernels.services.submission_memory import SubmissionMemory
from era_kernels.services.validation import ServiceLimits
from era_kernels.storage.files import FileStore
from era_kernels.storage.sessions import SessionStore
from era_kernels.storage.stored_code import CodeStore
from era_kernels.storage.workspaces import Workspaces

_LIMITS = tuple(one.name for one in fields(Limits))


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """Holds the collaborators that all live sessions share."""

    host: Machines
    store: SessionStore
    codes: CodeStore
    workspaces: Workspaces
    files: FileStore
    executions: ExecutionService
    logs: SessionLogs
    kernel_limiter: KernelLimiter
    service_limits: ServiceLimits
    limits: Limits
    mounts: Mounts
    metrics: Metrics
    public_cutoff: PublicCutoff
    submission_memory: SubmissionMemory = field(default_factory=SubmissionMemory)
    default_storage: StorageScope = ALL_STORAGE
    allow_hosts: HostPatterns | None = None  # that sessions may reach; None: all
    machines: dict[str, Machine] = field(default_factory=dict)  # that are open, by session

    def storage_scope_of(self, session: Session) -> StorageScope:
        """Returns the namespaces that a session's code may use."""
        return self.default_storage if session.storage is None else session.storage

    def internet_access_of(self, session: Session) -> InternetAccess:
        """Returns what a session's code may reach of the internet.

        The operator may have taken away what the session was given.
        """
        bounds = (self.allow_hosts, session.allow_hosts)
        hosts = tuple(patterns for patterns in bounds if patterns is not None)
        is_on = session.allow_internet and self.service_limits.allow_internet
        return InternetAccess(is_on, hosts)

    def isolation_of(self, session: Session) -> Isolation:
        """Returns the isolation of a session, with what is missing of it at this moment."""
        isolation, machine = self.host.isolation, self.machines.get(session.id)
        problem = None if machine is None else machine.services.internet_problem
        if problem is None:
            return isolation
        missing = (*isolation.missing, f"{PROXY_ONLY} at this moment: {problem}")
        return replace(isolation, missing=missing)

    def limits_for(self, session: Session) -> Limits:
        """Returns the limits of a session's processes: the server's, capped by the session's."""
        return self.limits.capped_by(session.limits)

    def kernel_env(self, session: Session, base_url: str) -> Mapping[str, str]:
        """Returns the environment variables of a session's code that callers cannot override."""
        env = {
            "ERA_SESSION": "true",
            "ERA_SESSION_ID": session.id,
            "ERA_LANGUAGE": session.language,
            "ERA_BASE_URL": base_url,
            "ERA_PROXY_URL": f"{base_url}/proxy/{session.id}",
        }
        memory = self.limits_for(session).memory
        if memory is not None:  # some programs collect garbage only when they must
            env["ERA_MEMORY_MB"] = str(memory // MIB)
        return env

    def enforced_limits(self, session: Session) -> SessionLimits:
        """Returns the limits that keep a session's processes from something on this host."""
        enforceable = self.host.enforceable
        limits = self.limits_for(session)
        enforced = {name: getattr(limits, name) for name in _LIMITS if name in enforceable}
        return SessionLimits(Limits(**enforced), session.limits)

    def paths_for(self, session: Session) -> SessionPaths:
        """Returns the session's directories and mounts. Raises Unavailable, NotEnforceable."""
        paths = self.workspaces.session_paths(session.directory)
        return replace(paths, mounts=self.mounts.resolve(session.mounts))
