"""Tries a way out with sandboxes of the user who runs this, and prints JSON.

Only the standard library is needed: it is run by an interpreter that all users may execute.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from era_kernels.egress.host_network import HostNetwork
from era_kernels.models import Limits, SessionPaths
from era_kernels.sandbox.server.process_spec import ProcessSpec
from era_kernels.sandbox.server.sandbox import Sandbox
from era_kernels.sandbox.server.sandboxes import Sandboxes
from era_kernels.sandbox.server.tiers import IsolationPolicy
from tests.egress.outbound_code import CODE
from tests.egress.small_internet import PUBLIC


async def _start(sandbox: Sandbox, code: str) -> Any:
    env = {"PATH": os.defpath, "LANG": "C.UTF-8"}
    argv = (sys.executable, "-c", f"{CODE}\n{code}")
    return await sandbox.spawn(ProcessSpec(argv=argv, env=env, cwd="/home/user"))


async def _ask(sandbox: Sandbox, asked: list[list[str]]) -> list[str]:
    process = await _start(sandbox, f"attempts({asked!r})")
    await process.ended
    answers: list[str] = json.loads(process.stdout.tail())
    return answers


async def _try_outbound(directory: Path, asked: list[list[str]]) -> dict[str, Any]:
    find_rules = HostNetwork().find_rules
    sandboxes = await Sandboxes.open(
        directory / "run", [], [], IsolationPolicy(), find_rules=find_rules
    )
    paths = SessionPaths(*(directory / name for name in ("workspace", "packages", "cache")))
    for path in (paths.workspace, paths.packages, paths.cache):
        path.mkdir()
    try:
        sandbox = await sandboxes.open_sandbox(paths, Limits())
        found: dict[str, Any] = {"off": await _ask(sandbox, asked)}
        await sandbox.outbound.switch(True)
        found["problem"] = sandboxes.outbounds.problem or sandbox.outbound.problem
        found["on"] = await _ask(sandbox, asked)
        code = f"end, _ = hold({PUBLIC!r})\nprint('held', flush=True)\n"
        holding = await _start(sandbox, f"{code}print(json.dumps(wait_for_end(end)))")
        while b"held" not in holding.stdout.tail():
            await asyncio.sleep(0.02)
        await sandbox.outbound.switch(False)
        await holding.ended
        found["established"] = json.loads(holding.stdout.tail().splitlines()[-1])
        return found
    finally:
        await sandboxes.aclose()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="era-", dir="/tmp") as made:
        print(json.dumps(asyncio.run(_try_outbound(Path(made), json.loads(sys.argv[1])))))
