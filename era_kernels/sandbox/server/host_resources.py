"""What a sandbox has on the host while it lives: a uid, a runtime directory, control groups."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from era_kernels.errors import KernelStartFailed
from era_kernels.models import Limits, SessionPaths
from era_kernels.sandbox.init.spec import IsolationKind, SandboxSpec
from era_kernels.sandbox.server import runtime_dirs
from era_kernels.sandbox.server.cgroups import SandboxCgroup
from era_kernels.sandbox.server.limit_monitor import MonitoredSandbox, describe_oom
from era_kernels.sandbox.server.tiers import IsolationProfile
from era_kernels.sandbox.server.uids import UidAllocator, allow_traverse, chown_tree

RETRY_AFTER_SECONDS = 60  # seconds after which a caller may try again what an operator has to mend
log = logging.getLogger(__name__)


class HostResources:
    """Made for one sandbox: `furnish` before it stands, `clear` when nothing of it runs."""

    def __init__(
        self,
        base: Path,
        profile: IsolationProfile,
        paths: SessionPaths,
        limits: Limits,
        uid_allocator: UidAllocator,
    ) -> None:
        self.runtime_directory = runtime_dirs.new_path(base)
        self.inner_paths, self.inner_runtime_directory = profile.map_paths(
            paths, self.runtime_directory
        )  # as the code sees them
        self._profile = profile
        self._host_paths = paths
        self._limits = limits
        self._uid_allocator = uid_allocator
        self._uid: int | None = None
        self._cgroup: SandboxCgroup | None = None

    @property
    def oom_eventfd(self) -> int | None:
        """A descriptor that becomes readable when memory runs out, where there is one."""
        return None if self._cgroup is None else self._cgroup.oom_eventfd

    @property
    def oom_cause(self) -> str | None:
        """The cause, when the kernel killed a process for want of memory."""
        if self._cgroup is None or self._limits.memory is None or not self._cgroup.has_oom_kill:
            return None
        return describe_oom(self._limits.memory)

    def prepare(self, cgroup: SandboxCgroup | None) -> SandboxSpec:
        """Make everything ready, those groups too (blocking): the plan of the walls.

        Raises OSError, KernelStartFailed.
        """
        paths = replace(self._host_paths, mounts=tuple(self._resolve_mounts()))
        self.runtime_directory.mkdir(0o700)
        if self._profile.spec.kind is IsolationKind.LANDLOCK:
            self.inner_paths.temporary.mkdir(0o700)
        if self._profile.has_session_uids:
            self._uid = self._uid_allocator.allocate(self._host_paths.workspace)
            os.chown(self.runtime_directory, self._uid, self._uid)
            chown_tree(
                (self._host_paths.workspace, self._host_paths.packages, self._host_paths.cache),
                self._uid,
            )
            if self._profile.per_session_uid:
                self._allow_traverse(self._uid)
        if cgroup is not None:
            cgroup.apply_limits(self._limits)
            self._cgroup = cgroup
        spec = self._profile.spec_for(paths, self.runtime_directory, self._limits, self._uid)
        return (
            replace(spec, traverse_gid=self._uid_allocator.traverse_gid)
            if self._profile.per_session_uid
            else spec
        )

    def _allow_traverse(self, uid: int) -> None:
        """Without a root of its own the code walks through the directories of the server."""
        os.chown(self.inner_paths.temporary, uid, uid)
        own_directories = (self.runtime_directory.parent, *map(Path, self._profile.spec.hidden))
        for directory in (
            self.runtime_directory,
            self._host_paths.workspace,
            self._host_paths.packages,
        ):
            allow_traverse(directory, self._uid_allocator.traverse_gid, own_directories)

    def create_monitored(self, pid: int) -> MonitoredSandbox:
        """A look at the limits that no group enforces; `pid` is the init's on the host."""
        other_writable = (self._host_paths.packages, self._host_paths.cache, self.runtime_directory)
        return MonitoredSandbox(
            pid,
            self._host_paths.workspace,
            self._limits,
            self._profile.cgroup_limits,
            other_writable,
        )

    def _resolve_mounts(self) -> Iterator[tuple[str, Path]]:
        """Where the operator's directories are now: links to them may have changed.

        Raises KernelStartFailed.
        """
        server_directories = [
            _resolve(path)
            for path in (*self._profile.spec.hidden, str(self.runtime_directory.parent))
        ]
        for name, path in self._host_paths.mounts:
            real = _resolve(path)
            extra = {"mount": name, "path": str(path)}
            if not (os.access(real, os.R_OK | os.X_OK) and real.is_dir()):
                log.error("the directory of a mount is not there", extra=extra)
                raise _mount_error(f"The directory that the mount {name} shows is not there.")
            if any(
                real.is_relative_to(one) or one.is_relative_to(real) for one in server_directories
            ):
                log.error("the directory of a mount holds what is the server's", extra=extra)
                raise _mount_error(f"The mount {name} would show what is the server's own.")
            yield name, real

    def release(self) -> None:
        """Remove what only this sandbox had (blocking); a second call is fine."""
        runtime_dirs.remove_tree(self.runtime_directory)
        self._uid_allocator.release(self._uid)
        self._uid = None


def _resolve(path: str | Path) -> Path:
    return Path(os.path.realpath(path))


def _mount_error(message: str) -> KernelStartFailed:
    hint = "Ask who runs the server: its setting `mounts` names the directory."
    return KernelStartFailed(message, hint=hint, retry_after=RETRY_AFTER_SECONDS)
