"""What a program has written is seen when its process ends at once, with the kernel in it."""

from __future__ import annotations

import time
from pathlib import Path
from queue import Empty

import pytest

from tests.kernelspecs.node.toolchain import jupyter_kernelspec, requires_node
from tests.languages.jupyter_checks import open_kernel

pytestmark = requires_node

ENDS = {
    "abort": "process.abort()",
    "kill": "process.kill(process.pid, 'SIGKILL')",
    "segmentation fault": "process.kill(process.pid, 'SIGSEGV')",
    "exit of the process": "process.reallyExit(6)",
}


def run_to_death(directory: Path, code: str) -> tuple[str, str]:
    """Runs code that ends its kernel. Returns what was published of both streams."""
    texts = {"stdout": "", "stderr": ""}
    with open_kernel(jupyter_kernelspec("node", directory), directory, "ipc") as kernel:
        kernel.client.execute(code)
        end = time.monotonic() + 60
        is_alive = True
        while is_alive and time.monotonic() < end:
            is_alive = kernel.manager.is_alive()
            try:
                while True:
                    message = kernel.client.get_iopub_msg(timeout=0.3)
                    if message["msg_type"] == "stream":
                        texts[message["content"]["name"]] += message["content"]["text"]
            except Empty:
                continue
        assert not is_alive
    return texts["stdout"], texts["stderr"]


@pytest.mark.parametrize("name", ENDS)
def test_output_of_before(tmp_path: Path, name: str) -> None:
    """Nothing of what was written before is lost."""
    stdout, stderr = run_to_death(
        tmp_path, f"console.log('x'.repeat(100000)); console.error('before'); {ENDS[name]}"
    )
    assert stdout == "x" * 100_000 + "\n"
    assert stderr.startswith("before\n")


def test_fatal_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What V8 says when its heap is full is in the run's stderr."""
    monkeypatch.setenv("ERA_MEMORY_MB", "160")  # kernelspecs/node/launch.py gives V8 a part of it
    _, stderr = run_to_death(
        tmp_path, "const taken = []; for (;;) taken.push(new Array(10_000).fill(0.5))"
    )
    assert "FATAL ERROR:" in stderr
    assert "JavaScript heap out of memory" in stderr
