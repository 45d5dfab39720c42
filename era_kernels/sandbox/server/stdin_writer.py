"""The text that a process is given on its descriptor 0, through a pipe that never blocks us."""

from __future__ import annotations

import asyncio
import os


class StdinWriter:
    """Writes as the process reads; closed, which is end of file to it, when it has had all.

    Of a process that reads nothing it costs no more than the text, until somebody calls `close`.
    """

    def __init__(self, descriptor: int, data: bytes) -> None:
        """`descriptor` is the write end, now owned."""
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._remaining = memoryview(data)
        self._loop = asyncio.get_running_loop()
        self.is_open = True
        self._loop.add_writer(descriptor, self._on_writable)

    def close(self) -> None:
        """Nothing more comes; a second call is fine."""
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
        except BrokenPipeError:  # nobody reads any more
            pass
        self.close()
