"""The plan of one sandbox's walls: made by the server, carried out by the init."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from era_kernels.models import JsonObject


class IsolationKind(StrEnum):
    """What stands around a sandbox."""

    ROOT = "root"  # namespaces made by root, each session under a uid of its own
    USER = "user"  # namespaces inside a user namespace, for ordinary users
    LANDLOCK = "landlock"  # no namespaces: Landlock and the filter of system calls
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """Everything that the init must know; paths are the host's where nothing else is said."""

    kind: IsolationKind = IsolationKind.NONE
    own_proc: bool = True  # else the container's, with Landlock in front of it
    landlock: bool = True
    seccomp_program: str = ""  # of system calls: a BPF program in base64
    uid: int | None = None  # of the session, where it has one of its own
    traverse_gid: int | None = None  # a group that may walk through the server's own directories
    readable: Sequence[str] = ()  # the same path inside
    writable: Sequence[Sequence[str]] = ()  # pairs: the host's path, the path inside
    mounts: Sequence[Sequence[str]] = ()  # pairs, too; read-only
    hidden: Sequence[str] = ()  # nothing of these is seen, even where they lie in what is readable
    home: str = "/home/user"  # inside
    tmp: int = 0  # bytes
    shm: int = 0  # bytes
    rlimits: Mapping[str, int] = field(default_factory=dict)  # names of `resource` → value
    cgroup_procs: Sequence[str] = ()  # files by which a process joins the sandbox's control groups

    @property
    def has_namespaces(self) -> bool:
        """Does the sandbox have mounts, processes and a network of its own?"""
        return self.kind in (IsolationKind.ROOT, IsolationKind.USER)

    def to_json(self) -> JsonObject:
        """The plan as it travels."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, spec: JsonObject) -> Self:
        return cls(**{**spec, "kind": IsolationKind(spec["kind"])})
