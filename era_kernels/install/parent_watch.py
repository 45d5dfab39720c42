"""Ends this process when another one ends, such as the server beside which it works."""

from __future__ import annotations

import os
import select
import signal
import threading
from contextlib import suppress


def end_with_process(pid: int) -> None:
    """Ends this process by SIGTERM once the other has ended. Does nothing on Linux before 5.3."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGTERM)
        return
    except OSError:
        return
    threading.Thread(target=_wait_and_end, args=(descriptor,), daemon=True).start()


def _wait_and_end(descriptor: int) -> None:
    with suppress(OSError):
        select.select([descriptor], [], [])
    os.kill(os.getpid(), signal.SIGTERM)
