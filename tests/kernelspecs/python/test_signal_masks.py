"""The kernel's threads take no signal, from their first moment on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

KERNEL = Path(__file__).parents[3] / "kernelspecs" / "python"
SIGNALS_WHILE_THREADS_START = """
import os, signal
from era_kernel.signal_masks import start_kernel_thread

for _ in range(300):
    start_kernel_thread(signal.pause)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.sigwait([signal.SIGUSR1]) == signal.SIGUSR1
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
print("waited", flush=True)
os._exit(0)
"""


def test_a_signal_is_for_who_waits_for_it() -> None:
    """A thread that has just been started does not take it."""
    ran = subprocess.run(
        [sys.executable, "-c", SIGNALS_WHILE_THREADS_START],
        cwd=KERNEL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (0, "waited\n"), ran.stderr
