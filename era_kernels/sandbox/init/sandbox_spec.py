"""Describes one sandbox: the server makes the spec, the init applies it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:  # the zygote imports no more than it uses
    from era_kernels.models import JsonObject


class IsolationKind(StrEnum):
    """The mechanism that isolates a sandbox."""

    ROOT = "root"  # namespaces made by root, each session under a uid of its own
    USER = "user"  # namespaces inside a user namespace, for ordinary users
    LANDLOCK = "landlock"  # no namespaces: Landlock and the filter of system calls
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """Everything that the init must know; paths are the host's unless noted."""

    kind: IsolationKind = IsolationKind.NONE
    own_proc: bool = True  # else the container's /proc, guarded by Landlock
    landlock: bool = True
    seccomp_program: str = ""  # a BPF program that filters system calls, in base64
    uid: int | None = None  # the session's own uid, where it has one
    init_uid: int | None = None  # the init's, which no code has; where `uid` is given
    signaller_uid: int | None = None  # of whoever signals all of the session; where `uid` is given
    traverse_gid: int | None = None  # a group that may traverse the server's own directories
    reads_past_modes: bool = False  # code has CAP_DAC_READ_SEARCH; where `uid` is given
    signals_end_inside: bool = False  # Landlock denies the init, too, to signal anybody else
    readable: Sequence[str] = ()  # at the same path in the sandbox
    writable: Sequence[Sequence[str]] = ()  # pairs: host path, path in the sandbox
    mounts: Sequence[Sequence[str]] = ()  # the same pairs; read-only
    hidden: Sequence[str] = ()  # invisible, also below readable paths
    home: str = "/home/user"  # in the sandbox
    tmp: int = 0  # bytes
    shm: int = 0  # bytes
    rlimits: Mapping[str, int] = field(default_factory=dict)  # names of `resource` → value
    cgroup_procs: Sequence[str] = ()  # `cgroup.procs` files of the sandbox's control groups
    # The uid of whoever may serve the network namespace, which is root's otherwise; no session's.
    network_uid: int | None = None
    resolvers: Sequence[str] = ()  # addresses that programs ask for names

    @property
    def has_namespaces(self) -> bool:
        """True when the sandbox has its own mounts, processes and network."""
        return self.kind in (IsolationKind.ROOT, IsolationKind.USER)

    def to_json(self) -> JsonObject:
        """Returns the spec as JSON for the control socket."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, spec: JsonObject) -> Self:
        """Returns the spec that `to_json` wrote."""
        return cls(**{**spec, "kind": IsolationKind(spec["kind"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundSpec:
    """Describes the way out of one sandbox's network, by pasta."""

    pasta: str  # the path of the program
    uid: int | None  # of root's server: the uid that pasta gets
    cgroup_procs: Sequence[str] = ()  # as those of the sandbox
    rules: Sequence[tuple[str, int, bool]] = ()  # as in `linux/nftables.py`
    families: Sequence[int] = ()  # of addresses that the host reaches others by

    def to_json(self) -> JsonObject:
        """Returns the spec as JSON for the control socket."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, spec: JsonObject) -> Self:
        """Returns the spec that `to_json` wrote."""
        return cls(**spec)
