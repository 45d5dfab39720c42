"""Writes a text to a process's descriptor 0, through a non-blocking pipe."""

from __future__ import annotations

import asyncio
import os


class StdinWriter:
    """Writes as the process reads, then closes the pipe, which the process sees as end of file.

    When the process reads nothing, only the text stays in memory until `close` is called.
    """

    def __init__(self, descriptor: int, data: bytes) -> None:
        """Takes over `descriptor`, the write end of the pipe."""
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._remaining = memoryview(data)
        self._loop = asyncio.get_running_loop()
        self.is_open = True
        self._loop.add_writer(descriptor, self._on_writable)

    def close(self) -> None:
        """Closes the pipe and drops the rest; a second call is fine."""
        if self.is_open:
            self.is_open = False
            self._loop.remove_writer(self._descriptor)
            os.close(self._descriptor)
            self._remaining = memoryview(b"")

    def _on_writable(self) -> None:
        try:
            while self._remaining:
                self._remaining = self._remaining[os.write(self._descriptor, self._remaining) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # no process reads any more
            pass
        self.close()
