"""Makes and releases a sandbox's resources on the host: uid, runtime directory, cgroups."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from era_kernels.errors import KernelStartFailed
from era_kernels.models import Limits, SessionListener, SessionPaths
from era_kernels.safe_fs.trash import Trash
from era_kernels.sandbox.init.sandbox_spec import IsolationKind, SandboxSpec
from era_kernels.sandbox.server import runtime_dirs
from era_kernels.sandbox.server.all_sessions_memory import HOST_OOM, describe_server_oom
from era_kernels.sandbox.server.cgroup_memory import Shortage
from era_kernels.sandbox.server.cgroups import SandboxCgroup
from era_kernels.sandbox.server.limit_monitor import MonitoredSandbox, describe_oom
from era_kernels.sandbox.server.server_listeners import listen_on_unix_socket
from era_kernels.sandbox.server.stop_all import StopAll
from era_kernels.sandbox.server.tiers import IsolationProfile
from era_kernels.sandbox.server.uids import UidAllocator, allow_traverse, chown_tree

REMOVAL_SECONDS = 0.5  # seconds for which an end waits for a directory of sockets to be removed
RETRY_AFTER_SECONDS = 60  # seconds until a caller may retry what an operator has to repair
log = logging.getLogger(__name__)


class HostResources:
    """The resources of one sandbox: `prepare` makes them, `release` removes them at the end."""

    def __init__(
        self,
        base: Path,
        profile: IsolationProfile,
        paths: SessionPaths,
        limits: Limits,
        uid_allocator: UidAllocator,
        trash: Trash,
        min_reserved: int = 0,
    ) -> None:
        """`min_reserved`: bytes that each process must be able to reserve.

        `trash` removes what the session left in its directory of sockets.
        """
        self.runtime_directory = runtime_dirs.new_path(base)
        # The paths as code in the sandbox sees them.
        self.inner_paths, self.inner_runtime_directory = profile.map_paths(
            paths, self.runtime_directory
        )
        self._listener_path = self.runtime_directory.with_suffix(".s")
        self._profile = profile
        self._host_paths = paths
        self._limits = limits
        self._min_reserved = min_reserved
        self._trash = trash
        self._uid_allocator = uid_allocator
        self._uid: int | None = None
        self._cgroup: SandboxCgroup | None = None

    @property
    def oom_eventfd(self) -> int | None:
        """The descriptor that becomes readable when memory runs out, or None."""
        return None if self._cgroup is None else self._cgroup.oom_eventfd

    def find_oom_cause(self) -> str | None:
        """Returns the cause, when Linux killed a process for lack of memory, else None.

        Empties the descriptor `oom_eventfd`.
        """
        shortage = None if self._cgroup is None else self._cgroup.find_shortage()
        if shortage is None:
            return None
        if shortage is Shortage.SESSION and self._limits.memory is not None:
            return describe_oom(self._limits.memory)
        server_memory = None if self._cgroup is None else self._cgroup.server_memory
        if shortage is Shortage.SERVER and server_memory is not None:
            return describe_server_oom(server_memory)
        return HOST_OOM

    async def prepare_uncancelled(self, cgroup: SandboxCgroup | None) -> SandboxSpec:
        """Prepares in a thread, to the end even when the caller is cancelled; see `prepare`."""
        task = asyncio.create_task(asyncio.to_thread(self.prepare, cgroup))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise

    def prepare(self, cgroup: SandboxCgroup | None) -> SandboxSpec:
        """Makes the resources, limits the groups, and returns the sandbox's spec (blocking).

        Raises OSError, KernelStartFailed.
        """
        paths = replace(self._host_paths, mounts=tuple(self._resolve_mounts()))
        directories = (paths.workspace, paths.packages, paths.cache)
        self._check_own(directories)
        self.runtime_directory.mkdir(0o700)
        if self._profile.spec.kind is IsolationKind.LANDLOCK:
            self.inner_paths.temporary.mkdir(0o700)
        if self._profile.has_session_uids:
            self._uid = self._uid_allocator.allocate(self._host_paths.workspace)
            os.chown(self.runtime_directory, self._uid, self._uid)
            chown_tree(directories, self._uid)
            if self._profile.per_session_uid:
                os.chown(self.inner_paths.temporary, self._uid, self._uid)
                if not self._profile.spec.reads_past_modes:
                    self._allow_traverse()
        if cgroup is not None:
            cgroup.apply_limits(self._limits)
            self._cgroup = cgroup
        spec = self._profile.spec_for(
            paths, self.runtime_directory, self._limits, self._uid, self._min_reserved
        )
        if self._uid is not None:
            init_uid, signaller_uid = (
                self._uid_allocator.init_uid,
                self._uid_allocator.signaller_uid,
            )
            spec = replace(spec, init_uid=init_uid, signaller_uid=signaller_uid)
        if self._profile.per_session_uid and not self._profile.spec.reads_past_modes:
            spec = replace(spec, traverse_gid=self._uid_allocator.traverse_gid)
        return spec

    def _check_own(self, directories: Iterable[Path]) -> None:
        """Raises PermissionError for a directory that holds what is the server's own.

        A session may write to its directories, and with a uid of its own it owns all in them.
        """
        own = [_resolve(self.runtime_directory), *map(_resolve, self._profile.spec.hidden)]
        for directory in directories:
            real = _resolve(directory)
            if any(path.is_relative_to(real) for path in own):
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(directory))

    def _allow_traverse(self) -> None:
        """Lets sessions traverse the server's directories, for code without its own root."""
        own_directories = (self.runtime_directory.parent, *map(Path, self._profile.spec.hidden))
        for directory in (
            self.runtime_directory,
            self._host_paths.workspace,
            self._host_paths.packages,
        ):
            allow_traverse(directory, self._uid_allocator.traverse_gid, own_directories)

    def make_monitored_sandbox(self, pid: int, stop_all: StopAll) -> MonitoredSandbox:
        """Returns the monitor's entry for limits that no group enforces; `pid`: the init's."""
        other_writable = (self._host_paths.packages, self._host_paths.cache, self.runtime_directory)
        return MonitoredSandbox(
            pid,
            self._host_paths.workspace,
            self._limits,
            self._profile.cgroup_limits,
            other_writable,
            None if self._cgroup is None else self._cgroup.memory_group,
            groups=() if self._cgroup is None else self._cgroup.directories,
            has_network=self._profile.spec.has_namespaces,
            stop_all=stop_all,
        )

    def listen_on_unix_socket(self, init_pid: int) -> SessionListener:
        """Returns the socket of a sandbox without a network of its own. Raises KernelStartFailed.

        It lies in a directory of the server: code must not replace it.
        """
        self._listener_path.unlink(missing_ok=True)
        return listen_on_unix_socket(self._listener_path, self._uid, init_pid)

    def _resolve_mounts(self) -> Iterator[tuple[str, Path]]:
        """Yields each mount's name and real directory: links to it may have changed.

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
        """Removes the runtime directory and frees the uid (blocking, briefly).

        A second call is fine. What takes longer to remove goes on in a thread of its own.
        """
        self._trash.remove(self.runtime_directory, REMOVAL_SECONDS)
        self._listener_path.unlink(missing_ok=True)
        self._uid_allocator.release(self._uid)
        self._uid = None


def _resolve(path: str | Path) -> Path:
    return Path(os.path.realpath(path))


def _mount_error(message: str) -> KernelStartFailed:
    hint = "Ask who runs the server: its setting `mounts` names the directory."
    return KernelStartFailed(message, hint=hint, retry_after=RETRY_AFTER_SECONDS)
