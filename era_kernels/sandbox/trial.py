"""The trial at the start: walls are not concluded from switches of the system but raised once."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from era_kernels.errors import EraError, StartError
from era_kernels.models import WITHOUT_WALLS, Limits, Place
from era_kernels.sandbox import directories
from era_kernels.sandbox.command import Command
from era_kernels.sandbox.process import Process
from era_kernels.sandbox.tiers import Walls, Wish, candidates

PATIENCE = 20.0  # seconds for one trial on a busy machine


class Tried(Protocol):
    """What of a sandbox is used here."""

    failure: str | None

    @property
    def place(self) -> Place: ...

    async def opened(self) -> bool: ...

    async def spawn(self, command: Command) -> Process: ...

    async def aclose(self) -> None: ...


class Trial:
    """Raises walls once, in a place of its own; `order` makes a sandbox behind such walls."""

    def __init__(
        self, directory: Path, order: Callable[[Walls, Place, Limits], Awaitable[Tried]]
    ) -> None:
        self._directory = directory
        self._order = order

    async def strongest(self, wish: Wish) -> Walls | None:
        """The first walls that stand; None where there are none and that is wished, too.

        Raises StartError.
        """
        failures: list[str] = []
        for walls in await asyncio.to_thread(lambda: list(candidates(wish))):
            failure = await self._tried(walls)
            if failure is None:
                return replace(walls, notes=(*walls.notes, *failures))
            failures.append(f"{walls.name}: {failure}")
        if wish.weakest >= WITHOUT_WALLS:
            return None
        raise _nothing(wish, failures)

    async def _tried(self, walls: Walls) -> str | None:
        """Raise such walls once and run the interpreter behind them; what went wrong."""
        home = self._directory
        place = Place(home / "workspace", home / "packages", home / "cache")
        try:
            await asyncio.to_thread(directories.make, place)
            sandbox = await self._order(walls, place, Limits())
            try:
                async with asyncio.timeout(PATIENCE):
                    return await _failure(sandbox)
            finally:
                await sandbox.aclose()
        except TimeoutError:
            return "it took too long"
        except (EraError, OSError) as error:
            return str(error)
        finally:
            await asyncio.to_thread(directories.remove, self._directory)


def _nothing(wish: Wish, failures: list[str]) -> StartError:
    if wish.strongest > wish.weakest:
        return StartError(
            f"strongest_tier ({wish.strongest}) leaves no walls to try: they must be of tier "
            f"{wish.weakest} or stronger. Change it or min_tier, or let code run with all rights "
            "of this user by --allow-unsandboxed."
        )
    why = "; ".join(failures) or "this host offers nothing that they could be made of"
    return StartError(
        f"No walls of tier {wish.weakest} or stronger can be had: {why}. Run `era-kernels "
        "doctor`, or let code run with all rights of this user by --allow-unsandboxed."
    )


async def _failure(sandbox: Tried) -> str | None:
    """What any kernel needs: the interpreter, its home, a place to write."""
    if not await sandbox.opened():
        return sandbox.failure or "its init died"
    code = "import ctypes, socket, tempfile; open('x', 'w').close(); tempfile.TemporaryFile()"
    command = Command(
        argv=(sys.executable, "-c", code),
        env={"PATH": os.defpath, "LANG": "C.UTF-8", "TMPDIR": str(sandbox.place.temporary)},
        cwd=str(sandbox.place.workspace),
    )
    process = await sandbox.spawn(command)
    ending = await process.ended
    if ending.code == 0:
        return None
    return process.stderr.tail().decode(errors="replace").strip() or ending.cause
