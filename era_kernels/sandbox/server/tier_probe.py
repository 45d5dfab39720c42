"""Probes at the start which isolation works, by applying it instead of reading settings."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from era_kernels.errors import EraError, StartError, WeakTier3Refused
from era_kernels.models import UNSANDBOXED_TIER, Limits, SessionPaths
from era_kernels.safe_fs.trash import remove_directory
from era_kernels.sandbox.server import runtime_dirs
from era_kernels.sandbox.server.pasta import Outbound
from era_kernels.sandbox.server.process import Process
from era_kernels.sandbox.server.process_spec import ProcessSpec
from era_kernels.sandbox.server.tiers import IsolationPolicy, IsolationProfile, candidate_profiles

PROBE_TIMEOUT = 20.0  # seconds for one attempt on a busy machine


class ProbeSandbox(Protocol):
    """The part of a sandbox that the probe uses."""

    isolation_error: str | None

    @property
    def outbound(self) -> Outbound: ...

    @property
    def inner_paths(self) -> SessionPaths: ...

    async def wait_ready(self) -> bool: ...

    async def spawn(self, spec: ProcessSpec) -> Process: ...

    async def aclose(self) -> None: ...


class TierProbe:
    """Tries each isolation once, in its own directory; `open_sandbox` opens a sandbox with it."""

    def __init__(
        self,
        directory: Path,
        open_sandbox: Callable[[IsolationProfile, SessionPaths, Limits], Awaitable[ProbeSandbox]],
    ) -> None:
        self._directory = directory
        self._open_sandbox = open_sandbox

    async def find_strongest(self, policy: IsolationPolicy) -> IsolationProfile | None:
        """Returns the first isolation that works; None when none does and the policy allows that.

        Raises StartError; WeakTier3Refused when only one was found that must be asked for.
        """
        failures: list[str] = []
        for profile in await asyncio.to_thread(lambda: list(candidate_profiles(policy))):
            failure = await self.find_failure(profile, _find_failure)
            if failure is None:
                weakness = _find_weakness(profile)
                if weakness is not None and not _accepts_weak_tier3(policy):
                    raise _weak_tier3_error(weakness, failures)
                return replace(profile, notes=(*profile.notes, *failures))
            failures.append(f"{profile.name}: {failure}")
        if policy.weakest_tier >= UNSANDBOXED_TIER:
            return None
        raise _no_tier_error(policy, failures)

    async def find_failure(
        self, profile: IsolationProfile, find: Callable[[ProbeSandbox], Awaitable[str | None]]
    ) -> str | None:
        """Opens such a sandbox; returns the failure that `find` finds in it, or None."""
        directory = self._directory
        paths = SessionPaths(directory / "workspace", directory / "packages", directory / "cache")
        try:
            await asyncio.to_thread(runtime_dirs.create_session_dirs, paths)
            sandbox = await self._open_sandbox(profile, paths, Limits())
            try:
                async with asyncio.timeout(PROBE_TIMEOUT):
                    return await find(sandbox)
            finally:
                await sandbox.aclose()
        except TimeoutError:
            return "it took too long"
        except (EraError, OSError) as error:
            return str(error)
        finally:
            with suppress(OSError):  # no descriptor is left; the directory's own goes at the end
                await asyncio.to_thread(remove_directory, self._directory)


def _find_weakness(profile: IsolationProfile) -> str | None:
    """Returns, after "tier 3 with", what somebody must have said that it will do; else None."""
    if profile.shares_uid:
        return (
            "one uid for all sessions: code cannot read what is another session's, but can disturb "
            "it"
        )
    if profile.spec.reads_past_modes:
        return (
            "CAP_DAC_READ_SEARCH for all code, since only root reaches the interpreter or the data "
            "directory: code sees the sizes and times of all files, and reaches sockets that only "
            "their directory protects"
        )
    return None


def _accepts_weak_tier3(policy: IsolationPolicy) -> bool:
    return policy.allow_weak_tier3 or policy.weakest_tier >= UNSANDBOXED_TIER


def _weak_tier3_error(weakness: str, failures: list[str]) -> WeakTier3Refused:
    why = f" Stronger ones cannot be had: {'; '.join(failures)}." if failures else ""
    return WeakTier3Refused(
        f"The walls that can be had here are of tier 3 with {weakness}. Start with --min-tier 3 to "
        f"accept that (or set ERA_MIN_TIER, or min_tier in the file).{why}"
    )


def _no_tier_error(policy: IsolationPolicy, failures: list[str]) -> StartError:
    if policy.strongest_tier > policy.weakest_tier:
        return StartError(
            f"strongest_tier ({policy.strongest_tier}) leaves no walls to try: they must be of "
            f"tier {policy.weakest_tier} or stronger. Change it or min_tier, or let code run with "
            "all rights of this user by --allow-unsandboxed."
        )
    why = "; ".join(failures) or "this host offers nothing that they could be made of"
    cure = ""
    if os.geteuid() == 0:
        cure = (
            " Root needs CAP_SYS_ADMIN for the stronger ones; for tier 3 an interpreter and a data "
            "directory that every user may reach, or CAP_DAC_READ_SEARCH."
        )
    return StartError(
        f"No walls of tier {policy.weakest_tier} or stronger can be had: {why}.{cure} Run "
        "`era-kernels doctor`, or let code run with all rights of this user by --allow-unsandboxed."
    )


async def find_outbound_failure(sandbox: ProbeSandbox) -> str | None:
    """Opens the way out by pasta, and closes it again."""
    if not await sandbox.wait_ready():
        return sandbox.isolation_error or "its init died"
    await sandbox.outbound.switch(True)
    return sandbox.outbound.problem


async def _find_failure(sandbox: ProbeSandbox) -> str | None:
    """Tests what every kernel needs: the interpreter, its packages, a writable directory."""
    if not await sandbox.wait_ready():
        return sandbox.isolation_error or "its init died"
    code = "import ctypes, socket, tempfile; open('x', 'w').close(); tempfile.TemporaryFile()"
    spec = ProcessSpec(
        argv=(sys.executable, "-c", code),
        env={"PATH": os.defpath, "LANG": "C.UTF-8", "TMPDIR": str(sandbox.inner_paths.temporary)},
        cwd=str(sandbox.inner_paths.workspace),
    )
    process = await sandbox.spawn(spec)
    ending = await process.ended
    if ending.code == 0:
        return None
    return process.stderr.tail().decode(errors="replace").strip() or ending.description
