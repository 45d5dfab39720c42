"""Interrupts of what IPython runs in a shell: the run ends, and the command with it."""

from __future__ import annotations

import asyncio

import pytest

from era_kernels.kernels.machine import Machine
from era_kernels.models import ExecutionEnd
from tests.kernels.test_machine import run

COMMANDS = [
    "!sleep 60",
    "x = !sleep 60",
    "%sx sleep 60",
    "!!sleep 60",
    "%system sleep 60",
    "%ls . ; sleep 60",
    "while True:\n    !sleep .05",
    "while True:\n    x = !sleep .05",
    "%%bash\nsleep 60; echo no",
    "%%sh\nsleep 60",
    "%%bash --out x\nsleep 60",
    "%%bash --no-raise-error\nsleep 60",
    "%%sh\ntrap '' INT\nsleep 60",
    "%%script python3\nimport time\ntime.sleep(60)",
    "%%capture\n!sleep 60",
    "%%time\n!sleep 60",
    "%time !sleep 60",
    "get_ipython().run_cell('!sleep 60')",
    "get_ipython().run_cell('import time; time.sleep(60)')",
    "open('m.py', 'w').write('import time\\ntime.sleep(60)')\n%run m.py",
]
# An interrupt may come when Python has begun a command and does not know its number yet: such a
# command ends, and nobody waits for it.
CHILDREN = """
import os
from pathlib import Path
numbers = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
print(x0, [n for n in numbers if Path(f"/proc/{n}/stat").read_text().rpartition(") ")[2][0] != "Z"])
"""


@pytest.mark.parametrize("command", COMMANDS)
async def test_interrupt(machine: Machine, command: str) -> None:
    """An interrupt ends the command and the run, with variables kept and nothing run after it."""
    await run(machine, "x0 = 1")
    is_body = command.startswith("%%")
    cell = command if is_body else f"{command}\nprint('after')"
    running = asyncio.create_task(run(machine, cell))
    await asyncio.sleep(0.7)
    await machine.kernel.interrupt()
    stdout, finished = await asyncio.wait_for(running, 10)
    assert (finished.exit_code, finished.state) == (130, "preserved")
    assert "after" not in stdout
    assert await run(machine, CHILDREN) == ("1 []\n", ExecutionEnd(0))


async def test_timeout(machine: Machine) -> None:
    """A run past its time ends its command in the same way."""
    _, finished = await run(machine, "!sleep 60\nprint('after')", timeout=0.7)
    assert (finished.exit_code, finished.state) == (124, "preserved")
