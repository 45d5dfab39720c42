"""How strong the walls are: what to try in which order, and what each tier lacks.

| tier | what stands |
|---|---|
| 1 | namespaces: made by root, a uid per session; or in a user namespace, by anybody |
| 2 | the same with the container's /proc, behind Landlock |
| 3 | no namespaces: Landlock and the filter of system calls |
| 4 | nothing |
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from era_kernels.models import WITHOUT_WALLS, Isolation, Limits, Place
from era_kernels.sandbox import landlock, root, seccomp
from era_kernels.sandbox.groups import Groups
from era_kernels.sandbox.identities import is_passable
from era_kernels.sandbox.plan import Kind, Plan

RUNTIME = Path("/run/kernel")  # inside
MOUNTS = "/mnt"  # inside
HOMES = ("/home/user", "/home/session")  # the second where the interpreter lies in the first
TEMPORARY = 256 * 1024 * 1024  # bytes of /tmp and of /dev/shm when nothing else is said

NO_WALLS = Isolation(
    tier=WITHOUT_WALLS,
    missing=(
        "files: code reads and writes what the server may",
        "network: code reaches what the host reaches, and its ports are the host's",
        "processes: code sees and may signal those of the server's user",
        "limits: memory, processes and disk are the host's",
    ),
)
_EVERYWHERE = frozenset({"memory", "processes", "open_files", "file_size", "workspace"})
_OWN_MOUNTS = frozenset({"tmp", "shm"})
_LANDLOCK_ONLY = (
    "processes: the host's are listed, though not to be looked into; so are its connections",
    "network: there is none at all, not even of the session's own",
    "files: /tmp and /dev/shm are closed, TMPDIR is the session's own",
    "files: modes and times of what the server's user owns can be changed, what is in it cannot",
    "sockets: those that the host's services have as files can be reached where modes allow it",
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator wants of walls.

    `strongest` is the tier to begin with, `weakest` the last that will do. `readable` are paths
    that sessions see, read-only and where they are; `hidden` are seen even below those never.
    """

    strongest: int = 1
    weakest: int = 3
    readable: Sequence[Path] = ()
    hidden: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class Walls:
    """One way to build walls: a plan that lacks only what differs from session to session."""

    tier: int
    plan: Plan
    notes: tuple[str, ...] = ()  # what is missing of this tier on this host
    grouped: frozenset[str] = frozenset()  # limits that control groups enforce
    separate: bool = False  # without namespaces: has each session a uid of its own all the same?

    @property
    def isolation(self) -> Isolation:
        """What the outside is told."""
        if self.plan.kind is Kind.NONE:
            return NO_WALLS
        lacks = {2: ("processes: names of the container's are visible",), 3: _LANDLOCK_ONLY}
        if self.plan.kind is Kind.LANDLOCK and not self.separate:
            lacks[3] = (*_LANDLOCK_ONLY, "users: sessions have the server's uid")
        lacks_limits = _limits(self.plan, self.grouped)
        return Isolation(self.tier, (*lacks.get(self.tier, ()), *self.notes, *lacks_limits))

    @property
    def enforced(self) -> frozenset[str]:
        """The limits, by their names in `Limits`, that anything here enforces: kernel or look."""
        if self.plan.kind is Kind.NONE:
            return frozenset()
        return (_EVERYWHERE | _OWN_MOUNTS if self.plan.namespaces else _EVERYWHERE) | self.grouped

    def grouped_by(self, groups: Groups) -> Walls:
        """The same walls with these control groups behind them."""
        if self.plan.kind is Kind.NONE:
            return self
        problems = tuple(f"control groups: {problem}" for problem in groups.problems)
        return replace(self, grouped=groups.enforced, notes=(*self.notes, *problems))

    @property
    def enforceable(self) -> frozenset[str]:
        """What of the wishes for one session is enforced: fields of `Limits`, and `mounts`."""
        return self.enforced | {"mounts"} if self.plan.namespaces else self.enforced

    @property
    def own_uids(self) -> bool:
        """Does each session get a uid of its own?"""
        return self.plan.kind is Kind.ROOT or self.separate

    @property
    def name(self) -> str:
        """What they are called where they could not be raised."""
        return f"tier {self.tier} as {self.plan.kind}{', a uid per session' * self.separate}"

    def inside(self, place: Place, runtime: Path) -> tuple[Place, Path]:
        """A place and a runtime directory as the code sees them."""
        if self.plan.namespaces:
            home = Path(self.plan.home)
            return Place(home, Path("/opt/packages"), Path("/var/cache/user")), RUNTIME
        if self.plan.kind is Kind.LANDLOCK:
            return replace(place, temporary=runtime / "tmp"), runtime
        return place, runtime

    def planned(self, place: Place, runtime: Path, limits: Limits, uid: int | None) -> Plan:
        """The plan of one sandbox."""
        seen, seen_runtime = self.inside(place, runtime)
        pairs = (
            (place.workspace, seen.workspace),
            (place.packages, seen.packages),
            (place.cache, seen.cache),
            (runtime, seen_runtime),
        )
        return replace(
            self.plan,
            uid=uid,
            writable=tuple((str(host), str(inside)) for host, inside in pairs),
            mounts=tuple((str(host), f"{MOUNTS}/{name}") for name, host in place.mounts),
            tmp=limits.tmp or TEMPORARY,
            shm=limits.shm or TEMPORARY,
            limits=dict(_rlimits(limits, self.plan)),
        )


def candidates(wish: Wish) -> Iterator[Walls]:
    """What may be tried, the strongest first; what would be tier 4 never comes."""
    readable = _readable(wish.readable)
    has_landlock = landlock.version() > 0
    common = Plan(
        landlock=has_landlock,
        filter=_filter(internet=True),
        readable=readable,
        hidden=tuple(str(path) for path in wish.hidden),
        home=next((home for home in HOMES if not _holds(home, readable)), HOMES[-1]),
    )
    notes = tuple(_notes(common))
    offered = [
        Walls(1, replace(common, kind=Kind.USER), notes),
        Walls(2, replace(common, kind=Kind.USER, own_proc=False), notes),
        Walls(3, replace(common, kind=Kind.LANDLOCK, filter=_filter(internet=False)), notes),
    ]
    if os.geteuid() == 0:
        offered.insert(0, Walls(1, replace(common, kind=Kind.ROOT), notes))
        if all(is_passable(path) for path in wish.hidden):
            offered.insert(-1, replace(offered[-1], separate=True))
    for walls in offered:
        bare = (walls.tier > 1 and not has_landlock) or (walls.tier == 3 and not common.filter)
        if wish.strongest <= walls.tier <= wish.weakest and not bare:
            yield walls


def _notes(plan: Plan) -> Iterator[str]:
    if not plan.filter:
        yield "system calls: not filtered, libseccomp (libseccomp2) is not installed"
    if not plan.landlock:
        yield "Landlock: this kernel has none, so nothing stands behind the namespaces"


def _filter(*, internet: bool) -> str:
    program = seccomp.exported(internet=internet)
    return "" if program is None else base64.b64encode(program).decode()


def _readable(more: Iterable[Path]) -> tuple[str, ...]:
    """The interpreter, what is installed for it, and what else was named; each once."""
    named = [Path(sys.prefix), Path(sys.base_prefix), *more]
    paths = sorted({str(path.absolute()) for path in named})
    kept = [path for path in paths if path not in root.SYSTEM and path != "/"]
    return tuple(path for path in kept if not root.below(path, (*root.SYSTEM, *kept)))


def _holds(home: str, paths: Iterable[str]) -> bool:
    return any(root.below(path, [home]) or path == home for path in paths)


def _rlimits(limits: Limits, plan: Plan) -> Iterator[tuple[str, int]]:
    yield "RLIMIT_CORE", 0
    if limits.memory is not None:
        yield "RLIMIT_DATA", limits.memory
    if limits.processes is not None and plan.namespaces:  # else it would count the whole user's
        yield "RLIMIT_NPROC", limits.processes
    if limits.open_files is not None:
        yield "RLIMIT_NOFILE", limits.open_files
    if limits.file_size is not None:
        yield "RLIMIT_FSIZE", limits.file_size


def _limits(plan: Plan, grouped: frozenset[str]) -> Iterator[str]:
    """How the bounds of sessions are enforced, where it is not by the kernel for the whole."""
    if "memory" not in grouped:
        yield "limits: memory is polled, and bounded per process beside that"
    if "processes" not in grouped and not plan.namespaces:
        yield "limits: processes are polled"
    yield "limits: workspace is polled"
    if "cpu" not in grouped:
        yield "limits: the share of processors is not enforced"
