"""Defines the tiers of isolation: which to try in which order, and what each tier lacks.

| tier | isolation |
|---|---|
| 1 | namespaces: made by root, a uid per session; or in a user namespace, by any user |
| 2 | the same with the container's /proc, behind Landlock |
| 3 | no namespaces: Landlock and the filter of system calls |
| 4 | none |
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from era_kernels.models import UNSANDBOXED_TIER, Isolation, Limits, Network, SessionPaths
from era_kernels.models.internet import PROXY_ONLY
from era_kernels.sandbox.init import rootfs
from era_kernels.sandbox.init.sandbox_spec import IsolationKind, SandboxSpec
from era_kernels.sandbox.linux import landlock, seccomp
from era_kernels.sandbox.server.cgroups import CgroupTree
from era_kernels.sandbox.server.uids import is_traversable
from era_kernels.sandbox.server.unix_sockets import can_refuse_descriptors

INNER_RUNTIME = Path("/run/kernel")  # in the sandbox
INNER_MOUNTS = "/mnt"  # in the sandbox
# The second is used where the interpreter lies in the first.
HOME_CANDIDATES = ("/home/user", "/home/session")
DEFAULT_TMP_BYTES = 256 * 1024 * 1024  # bytes of /tmp and of /dev/shm without a limit
# What a process may reserve beyond what its session may use, where control groups count that.
RESERVE_FACTOR, MIN_RESERVE = 4, 8 * 1024**3

UNSANDBOXED = Isolation(
    tier=UNSANDBOXED_TIER,
    missing=(
        "files: code reads and writes what the server may",
        "network: code reaches what the host reaches, and its ports are the host's",
        "processes: code sees and may signal those of the server's user",
        "limits: memory, processes and disk are the host's",
    ),
)
_ALWAYS_ENFORCED = frozenset({"memory", "processes", "open_files", "file_size", "workspace"})
_NAMESPACE_LIMITS = frozenset({"tmp", "shm"})
_LANDLOCK_SHORTCOMINGS = (
    "processes: the host's are listed, though not to be looked into; so are its connections",
    "network: there is none at all, not even of the session's own",
    "files: /tmp and /dev/shm are closed, TMPDIR is the session's own",
    "sockets: those that the host's services have as files can be reached where modes allow it",
)
_SHARED_UID_SHORTCOMINGS = (
    "users: all sessions have the server's uid, and share what Linux counts or limits by user",
    "files: modes and times of what the server's user owns can be changed, what is in it cannot",
    "users: a session can disturb others by the modes of their files, and keep them from starting",
    "files: names, sizes and times of other sessions' files can be seen, what is in them cannot",
    "sockets: those of other sessions' programs can be reached, not their kernels' and storage's",
    "kernels: those that bind their sockets themselves, as stock kernels do, are refused",
)
_READING_SHORTCOMINGS = (
    "users: code has CAP_DAC_READ_SEARCH: only root reaches the interpreter or the data directory",
    "files: modes hide no sizes and times, nor what is in /proc and the system's directories",
    "sockets: those that only their directory's mode protects can be reached",
)
# unix(7), ETOOMANYREFS: Linux counts them by the host's uid.
_SHARED_COUNT = "limits: descriptors in flight are counted for the server and all sessions together"


@dataclass(frozen=True, slots=True)
class IsolationPolicy:
    """The operator's requirements for isolation.

    `strongest_tier` is tried first, `weakest_tier` is the last that is accepted. Tier 3 with
    one uid for all sessions, or with CAP_DAC_READ_SEARCH, is accepted only with `allow_weak_tier3`,
    or where tier 4 is. Sessions see `readable_paths` read-only at the same paths, and
    `hidden_paths` never, not even below those.
    """

    strongest_tier: int = 1
    weakest_tier: int = 3
    allow_weak_tier3: bool = False
    readable_paths: Sequence[Path] = ()
    hidden_paths: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class IsolationProfile:
    """One kind of isolation: a spec without the parts that differ by session."""

    tier: int
    spec: SandboxSpec
    notes: tuple[str, ...] = ()  # what is missing of this tier on this host
    cgroup_limits: frozenset[str] = frozenset()  # limits that control groups enforce
    per_session_uid: bool = False  # without namespaces: each session has its own uid all the same
    outbound_problem: str | None = None  # why packets have no way out by pasta

    @property
    def isolation(self) -> Isolation:
        """The tier and its gaps, as the API reports them."""
        if self.spec.kind is IsolationKind.NONE:
            return UNSANDBOXED
        why = self.outbound_problem
        proxy_only = () if why is None else (f"{PROXY_ONLY}: {why}",)
        gaps: dict[int, tuple[str, ...]] = {
            1: proxy_only,
            2: (
                *proxy_only,
                "processes: the container's are visible, with its mounts and connections",
            ),
            3: _LANDLOCK_SHORTCOMINGS,
        }
        if self.shares_uid:
            gaps[3] = (*_LANDLOCK_SHORTCOMINGS, *_SHARED_UID_SHORTCOMINGS)
        elif self.spec.reads_past_modes:
            gaps[3] = (*_LANDLOCK_SHORTCOMINGS, *_READING_SHORTCOMINGS)
        limit_notes = _limit_notes(self)
        shared = () if self.has_session_uids else (_SHARED_COUNT,)
        return Isolation(self.tier, (*gaps.get(self.tier, ()), *self.notes, *limit_notes, *shared))

    @property
    def enforced_limits(self) -> frozenset[str]:
        """The names in `Limits` of limits that are enforced, by Linux or by the server's checks."""
        if self.spec.kind is IsolationKind.NONE:
            return frozenset()
        return (
            _ALWAYS_ENFORCED | _NAMESPACE_LIMITS if self.spec.has_namespaces else _ALWAYS_ENFORCED
        ) | self.cgroup_limits

    def with_cgroups(self, cgroups: CgroupTree) -> IsolationProfile:
        """Returns the same isolation with these control groups."""
        if self.spec.kind is IsolationKind.NONE:
            return self
        problems = tuple(f"control groups: {problem}" for problem in cgroups.problems)
        limits, spec = cgroups.enforced_limits, self.spec
        if "memory" not in limits:
            program = _seccomp_program(
                has_namespaces=spec.has_namespaces,
                counts_memory=False,
                reads_past_modes=spec.reads_past_modes,
            )
            spec = replace(spec, seccomp_program=program)
        return replace(self, spec=spec, cgroup_limits=limits, notes=(*self.notes, *problems))

    @property
    def enforceable(self) -> frozenset[str]:
        """The settings of one session that are enforced: names in `Limits`, and two more.

        `mounts` need a mount namespace, `internet` needs a network namespace.
        """
        if self.spec.has_namespaces:
            return self.enforced_limits | {"mounts", "internet"}
        return self.enforced_limits

    @property
    def network(self) -> Network:
        """The network that the programs of a sandbox have."""
        if self.spec.has_namespaces:
            return Network.OWN
        return Network.NONE if self.spec.kind is IsolationKind.LANDLOCK else Network.HOST

    @property
    def shares_uid(self) -> bool:
        """True when all sessions have one uid, and no namespaces keep them apart."""
        return self.spec.kind is IsolationKind.LANDLOCK and not self.per_session_uid

    @property
    def has_session_uids(self) -> bool:
        """True when each session gets its own uid."""
        return self.spec.kind is IsolationKind.ROOT or self.per_session_uid

    @property
    def name(self) -> str:
        """The name for messages about a failed probe."""
        own_uid = ", a uid per session" if self.per_session_uid else ""
        reading = ", with CAP_DAC_READ_SEARCH" if self.spec.reads_past_modes else ""
        return f"tier {self.tier} as {self.spec.kind}{own_uid}{reading}"

    def map_paths(self, paths: SessionPaths, runtime: Path) -> tuple[SessionPaths, Path]:
        """Returns a session's paths and runtime directory as the code sees them."""
        if self.spec.has_namespaces:
            home = Path(self.spec.home)
            return SessionPaths(home, Path("/opt/packages"), Path("/var/cache/user")), INNER_RUNTIME
        if self.spec.kind is IsolationKind.LANDLOCK:
            return replace(paths, temporary=runtime / "tmp"), runtime
        return paths, runtime

    def spec_for(
        self,
        paths: SessionPaths,
        runtime: Path,
        limits: Limits,
        uid: int | None,
        min_reserved: int = 0,
    ) -> SandboxSpec:
        """Returns the spec of one sandbox.

        `min_reserved`: bytes that each process must be able to reserve, whatever `limits` say.
        """
        inner_paths, inner_runtime = self.map_paths(paths, runtime)
        pairs = (
            (paths.workspace, inner_paths.workspace),
            (paths.packages, inner_paths.packages),
            (paths.cache, inner_paths.cache),
            (runtime, inner_runtime),
        )
        return replace(
            self.spec,
            uid=uid,
            writable=tuple((str(host), str(inside)) for host, inside in pairs),
            mounts=tuple((str(host), f"{INNER_MOUNTS}/{name}") for name, host in paths.mounts),
            tmp=limits.tmp or DEFAULT_TMP_BYTES,
            shm=limits.shm or DEFAULT_TMP_BYTES,
            rlimits=dict(_rlimits(limits, self, min_reserved)),
        )


def with_outbound(
    profile: IsolationProfile, uid: int, resolvers: Sequence[str]
) -> IsolationProfile:
    """Returns the same isolation, with networks that pasta can serve.

    Root's server gives pasta `uid`; `resolvers` are what programs ask for names.
    """
    network_uid = uid if profile.spec.kind is IsolationKind.ROOT else None
    spec = replace(profile.spec, network_uid=network_uid, resolvers=tuple(resolvers))
    return replace(profile, spec=spec, outbound_problem=None)


def candidate_profiles(policy: IsolationPolicy) -> Iterator[IsolationProfile]:
    """Yields the profiles to try, the strongest first; tier 4 is never among them."""
    readable = _readable_paths(policy.readable_paths)
    has_landlock = landlock.version() > 0
    common = SandboxSpec(
        landlock=has_landlock,
        seccomp_program=_seccomp_program(has_namespaces=True),
        readable=readable,
        hidden=tuple(str(path) for path in policy.hidden_paths),
        home=next(
            (home for home in HOME_CANDIDATES if not _contains(home, readable)), HOME_CANDIDATES[-1]
        ),
    )
    notes = tuple(_notes(common))
    offered = [
        IsolationProfile(1, replace(common, kind=IsolationKind.USER), notes),
        IsolationProfile(2, replace(common, kind=IsolationKind.USER, own_proc=False), notes),
        *_landlock_profiles(common, notes, policy),
    ]
    if os.geteuid() == 0:
        offered.insert(0, IsolationProfile(1, replace(common, kind=IsolationKind.ROOT), notes))
    for profile in offered:
        is_incomplete = (profile.tier > 1 and not has_landlock) or (
            profile.tier == 3 and not common.seccomp_program
        )
        if policy.strongest_tier <= profile.tier <= policy.weakest_tier and not is_incomplete:
            yield profile


def _landlock_profiles(
    common: SandboxSpec, notes: Sequence[str], policy: IsolationPolicy
) -> Iterator[IsolationProfile]:
    """Yields what can be had without namespaces.

    Code with root's uid may change the modes of all that root owns, and use sockets that are only
    root's: it is offered only where no isolation at all is accepted, too.
    """
    version = landlock.version()
    spec = replace(
        common,
        kind=IsolationKind.LANDLOCK,
        seccomp_program=_seccomp_program(has_namespaces=False),
        signals_end_inside=version >= landlock.SCOPES_SINCE,
    )
    shared = IsolationProfile(3, spec, (*notes, *_landlock_notes(version)))
    if os.geteuid() == 0:
        own_uid = replace(shared, per_session_uid=True)
        if all(is_traversable(path) for path in policy.hidden_paths):
            yield own_uid
        program = _seccomp_program(has_namespaces=False, reads_past_modes=True)
        reading = replace(spec, seccomp_program=program, reads_past_modes=True)
        yield replace(own_uid, spec=reading)
    if os.geteuid() != 0 or policy.weakest_tier >= UNSANDBOXED_TIER:
        yield shared


def _notes(spec: SandboxSpec) -> Iterator[str]:
    if not spec.seccomp_program:
        yield "system calls: not filtered, libseccomp (libseccomp2) is not installed"
    if not spec.landlock:
        yield "Landlock: this kernel has none, so nothing stands behind the namespaces"


def _landlock_notes(version: int) -> Iterator[str]:
    """Yields what this Linux, by its version of Landlock, cannot deny without namespaces."""
    if version < landlock.TRUNCATE_SINCE:
        yield "files: what the server's user owns can be cut short (Linux 6.2 denies it)"
    if version < landlock.SCOPES_SINCE:
        yield "sockets: abstract ones of the host can be reached (Linux 6.12 denies it)"
        yield "processes: those of the session's user can be signalled (Linux 6.12 denies it)"
    if not can_refuse_descriptors():
        yield "limits: files that code leaves in the server's sockets are not counted (before 6.16)"


def _seccomp_program(
    *, has_namespaces: bool, counts_memory: bool = True, reads_past_modes: bool = False
) -> str:
    program = seccomp.export_filter(
        has_namespaces=has_namespaces,
        counts_memory=counts_memory,
        reads_past_modes=reads_past_modes,
        may_hide_processes=os.geteuid() == 0,
    )
    return "" if program is None else base64.b64encode(program).decode()


def _readable_paths(more: Iterable[Path]) -> tuple[str, ...]:
    """Returns the paths of the interpreter and its packages, and those named; each once."""
    named = [Path(sys.prefix), Path(sys.base_prefix), *more]
    paths = sorted({str(path.absolute()) for path in named})
    kept = [path for path in paths if path not in rootfs.SYSTEM and path != "/"]
    return tuple(path for path in kept if not rootfs.is_below(path, (*rootfs.SYSTEM, *kept)))


def _contains(home: str, paths: Iterable[str]) -> bool:
    return any(rootfs.is_below(path, [home]) or path == home for path in paths)


def _rlimits(
    limits: Limits, profile: IsolationProfile, min_reserved: int
) -> Iterator[tuple[str, int]]:
    yield "RLIMIT_CORE", 0
    if limits.memory is not None:
        is_bounded = "memory" in profile.cgroup_limits
        reserved = max_reserved(limits.memory) if is_bounded else limits.memory
        yield "RLIMIT_DATA", max(reserved, min_reserved)
    # Elsewhere the limit would count all processes of the server's user.
    if limits.processes is not None and _counts_processes(profile):
        yield "RLIMIT_NPROC", limits.processes
    if limits.open_files is not None:
        yield "RLIMIT_NOFILE", limits.open_files
    if limits.file_size is not None:
        yield "RLIMIT_FSIZE", limits.file_size


def _counts_processes(profile: IsolationProfile) -> bool:
    """Returns whether Linux counts the processes of each session by itself, for RLIMIT_NPROC."""
    return profile.spec.has_namespaces or profile.per_session_uid


def max_reserved(memory: int) -> int:
    """Returns how many bytes one process may reserve where a control group bounds what it uses.

    RLIMIT_DATA counts what is reserved: thread stacks, arenas and pools of memory that nobody has
    touched, of which libraries take many times what they use. It stays a bound on page tables.
    """
    return max(RESERVE_FACTOR * memory, memory + MIN_RESERVE)


def _limit_notes(profile: IsolationProfile) -> Iterator[str]:
    """Yields how the server checks each limit that no control group enforces, if it can."""
    if "memory" not in profile.cgroup_limits:
        yield "limits: memory is polled, and bounded per process beside that"
        yield "limits: what the kernel keeps for sockets, pipes, locks and mappings is not counted"
        yield "limits: nor is what it keeps for watches (epoll, inotify)"
        yield "files: attributes cannot be set, which nobody would count"
        if profile.spec.has_namespaces:
            yield "memory: there are no System V objects and POSIX queues, which nobody would count"
    if "processes" not in profile.cgroup_limits and not _counts_processes(profile):
        yield "limits: processes are polled"
    yield "limits: workspace is polled, a burst may pass it by what the disk takes in 50 ms"
    if "cpu" not in profile.cgroup_limits:
        yield "limits: the share of processors is not enforced"
