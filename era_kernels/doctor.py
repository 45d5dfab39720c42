"""Checks what this host has and lacks for a server: the command `era-kernels doctor`."""

from __future__ import annotations

import asyncio
import fcntl
import os
import platform
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from era_kernels.egress.host_network import HostNetwork
from era_kernels.errors import StartError, WeakTier3Refused
from era_kernels.kernels.kernelspecs import NO_TCP, OPEN_SOCKETS, Kernelspec
from era_kernels.kernels.languages import Languages
from era_kernels.models import GIB, UNSANDBOXED_TIER, Isolation
from era_kernels.sandbox.server import host_features
from era_kernels.sandbox.server.sandboxes import Sandboxes
from era_kernels.sandbox.server.tiers import IsolationPolicy, IsolationProfile
from era_kernels.setting_types import total_memory
from era_kernels.settings import Settings

MIN_PYTHON = (3, 11)
MIN_FREE_DISK = GIB
MAX_TEMPORARY_PATH = 70  # bytes; a socket's path adds two short names and may have 107
FILES_PER_KERNEL = 12  # descriptors: 8 were measured for an idle kernel, more during a run


class Level(StrEnum):
    """The gravity of a finding: all is well, the server lacks something, the server cannot run."""

    OK = "ok"
    LACKS = "lacks"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; `advice` tells the operator how to mend what is not well."""

    level: Level
    subject: str
    text: str
    advice: str = ""


def run_checks(settings: Settings) -> list[Finding]:
    """Checks everything that a server with these settings needs (blocking, about a second)."""
    # First: this forks, so there must be no threads yet.
    features = host_features.list_host_features()
    try:
        profile = asyncio.run(_probe_isolation(settings))
        isolation_findings = list(_check_isolation(profile.isolation))
    except StartError as error:
        advice = _advise_on_refusal(error)
        profile, isolation_findings = None, [Finding(Level.BROKEN, "isolation", str(error), advice)]
    return [
        _check_interpreter(),
        _check_system(),
        *_check_languages(settings, profile),
        *_check_data_directory(settings),
        _check_temporary_directory(),
        _check_address(settings),
        _check_memory(settings),
        _check_open_files(settings),
        *isolation_findings,
        *(_describe_feature(feature) for feature in features if profile is not None),
    ]


def _advise_on_refusal(error: StartError) -> str:
    if isinstance(error, WeakTier3Refused):
        return "Start with --min-tier 3, or see docs/isolation.md for what stronger walls need."
    return "Start with --allow-unsandboxed only for people who may do all that this user may."


def can_serve(findings: list[Finding]) -> bool:
    return all(finding.level is not Level.BROKEN for finding in findings)


def _check_interpreter() -> Finding:
    text = f"{platform.python_version()} in {sys.prefix}"
    if sys.version_info < MIN_PYTHON:
        return Finding(Level.BROKEN, "interpreter", text, "Install Python 3.11 or newer.")
    return Finding(Level.OK, "interpreter", text)


def _check_system() -> Finding:
    if sys.platform != "linux":
        advice = "Run it on Linux, for example in a container or a virtual machine."
        return Finding(Level.BROKEN, "system", host_features.kernel_release(), advice)
    return Finding(Level.OK, "system", host_features.kernel_release())


def _check_languages(settings: Settings, profile: IsolationProfile | None) -> Iterator[Finding]:
    try:
        languages = Languages.load(settings.kernelspec_dirs, toolchain_dir=settings.toolchain_dir)
    except StartError as error:
        yield Finding(Level.BROKEN, "languages", str(error), "Mend or remove that kernelspec.")
        return
    if profile is not None:
        languages.set_network(profile.network, shares_uid=profile.shares_uid)
    for problem in languages.problems:
        yield Finding(Level.LACKS, "kernelspec", problem, "It is left out. Mend or remove it.")
    for language in languages:
        for kernelspec in language.kernels:
            is_default = kernelspec is language.default
            name = language.name if is_default else f"{language.name}, {kernelspec.name}"
            yield _check_kernel(name, kernelspec)
    if not any(one.default.is_available for one in languages):
        yield Finding(Level.BROKEN, "languages", "none can run", "See the lines above.")


def _check_kernel(name: str, kernelspec: Kernelspec) -> Finding:
    if kernelspec.unavailable_reason is not None:
        advice = _advise(kernelspec)
        return Finding(Level.LACKS, name, kernelspec.unavailable_reason, advice)
    words = [kernelspec.version or "available", *kernelspec.capabilities]
    return Finding(Level.OK, name, ", ".join(words))


def _advise(kernelspec: Kernelspec) -> str:
    """Returns what to do about a kernel that cannot run."""
    if kernelspec.unavailable_reason in (NO_TCP, OPEN_SOCKETS):
        return "It needs stronger walls: see the lines about isolation."
    if kernelspec.toolchain is not None:
        return "A running server sees it when it is there."
    if kernelspec.entry is not None:
        return "Install what is missing, then run: era-kernels install"
    return "Install it, or mend `argv` of its kernel.json."


def _check_data_directory(settings: Settings) -> Iterator[Finding]:
    directory = settings.data_dir
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        advice = "Make it writable for this user, or name another with --data-dir."
        yield Finding(Level.BROKEN, "data directory", f"{existing} cannot be written", advice)
        return
    if _is_locked(directory / "lock"):
        advice = "Stop that server first, or name another directory with --data-dir."
        text = f"{directory} is in use by a server that runs"
        yield Finding(Level.LACKS, "data directory", text, advice)
    else:
        made = "" if existing == directory else " will be made"
        yield Finding(Level.OK, "data directory", f"{directory}{made}")
    free = shutil.disk_usage(existing).free
    advice = "" if free >= MIN_FREE_DISK else "Make room: writes are refused when the disk is full."
    level = Level.LACKS if advice else Level.OK
    yield Finding(level, "disk", f"{free / GIB:.1f} GiB free", advice)


def _is_locked(lock: Path) -> bool:
    """Returns whether a running server holds the lock; takes a shared lock for a moment to see."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # the lock file does not exist yet, or this user may not open it
    return False


def _check_temporary_directory() -> Finding:
    try:
        where = tempfile.gettempdir()
    except FileNotFoundError as error:
        return Finding(Level.BROKEN, "temporary files", str(error), "Set TMPDIR to a directory.")
    if len(os.fsencode(where)) > MAX_TEMPORARY_PATH:
        advice = "Set TMPDIR to a directory with a shorter path, such as /tmp."
        return Finding(Level.BROKEN, "temporary files", f"{where} is too long for sockets", advice)
    return Finding(Level.OK, "temporary files", where)


def _check_address(settings: Settings) -> Finding:
    where = f"{settings.host} port {settings.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        socket.create_server((str(address[0]), settings.port), family=family).close()
    except (OSError, UnicodeError) as error:
        advice = "Choose another with --host and --port, or stop what listens there."
        level = Level.LACKS if _is_locked(settings.data_dir / "lock") else Level.BROKEN
        return Finding(level, "address", f"{where}: {error}", advice)
    return Finding(Level.OK, "address", where)


def _check_memory(settings: Settings) -> Finding:
    text = (
        f"{total_memory() / GIB:.1f} GiB, at most {settings.max_kernels} kernels at once; "
        f"{settings.session_memory / GIB:.1f} GiB for a session (session_memory), "
        f"{settings.server_memory / GIB:.1f} GiB for all together (server_memory)"
    )
    return Finding(Level.OK, "memory", text)


def _check_open_files(settings: Settings) -> Finding:
    _, max_open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.max_kernels * FILES_PER_KERNEL
    text = "no limit" if max_open_files == resource.RLIM_INFINITY else f"at most {max_open_files}"
    if max_open_files != resource.RLIM_INFINITY and max_open_files < needed:
        advice = f"Run `ulimit -Hn {needed}` before the server, or lower --max-kernels."
        return Finding(Level.LACKS, "open files", text, advice)
    return Finding(Level.OK, "open files", text)


def _check_isolation(isolation: Isolation) -> Iterator[Finding]:
    if isolation.tier == UNSANDBOXED_TIER:
        advice = "Let only people use the server who may do all that this user may."
        yield Finding(Level.LACKS, "isolation", "none: code has this server's rights", advice)
    else:
        level = Level.OK if isolation.tier == 1 else Level.LACKS
        advice = "" if isolation.tier == 1 else "docs/isolation.md tells what the next tier needs."
        yield Finding(level, "isolation", f"tier {isolation.tier}", advice)
    for text in isolation.missing:
        yield Finding(Level.OK, "not in force", text)


def _describe_feature(feature: host_features.HostFeature) -> Finding:
    text = feature.detail if feature.is_available else f"not available: {feature.detail}"
    return Finding(Level.OK, f"this host: {feature.name}", text)


async def _probe_isolation(settings: Settings) -> IsolationProfile:
    """Sets up the isolation once, as the server does at its start. Raises StartError."""
    with tempfile.TemporaryDirectory(prefix="era-") as directory:
        policy = IsolationPolicy(
            strongest_tier=settings.strongest_tier,
            weakest_tier=UNSANDBOXED_TIER if settings.allow_unsandboxed else settings.min_tier,
            allow_weak_tier3=settings.allow_weak_tier3,
        )
        sandboxes = await Sandboxes.open(
            Path(directory),
            (),
            (),
            policy,
            server_memory=settings.server_memory,
            find_rules=HostNetwork(settings.egress_allow_cidrs).find_rules,
        )
        await sandboxes.aclose()
        return sandboxes.profile
