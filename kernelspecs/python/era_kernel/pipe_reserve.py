"""Keeps the pipes of the next run ready: a program may leave no descriptor for them."""

from __future__ import annotations

from fcntl import F_DUPFD_CLOEXEC, fcntl
from os import O_CLOEXEC, close, pipe2, set_blocking

Pipe = tuple[int, int]  # its read end, which never blocks, and its write end


class PipeReserve:
    """Holds two open pipes, for stdout and stderr of one run."""

    def __init__(self) -> None:
        self._pipes: list[Pipe] = []

    def take(self) -> list[Pipe]:
        """Returns the two pipes, which are the caller's now; none when there are none to be had."""
        self.refill()
        if len(self._pipes) < 2:
            return []
        taken, self._pipes = self._pipes, []
        return taken

    def holds(self, descriptor: int) -> bool:
        return any(descriptor in pipe for pipe in self._pipes)

    def refill(self) -> None:
        """Opens the pipes that are missing, as far as the system allows."""
        try:
            while len(self._pipes) < 2:
                self._pipes.append(_open_pipe())
        except OSError:  # no descriptor is left; the next run tries again
            return


def _open_pipe() -> Pipe:
    reader, writer = pipe2(O_CLOEXEC)
    try:
        reader = _move_above_stdio(reader)
        writer = _move_above_stdio(writer)
        set_blocking(reader, False)
    except OSError:
        close(reader)
        close(writer)
        raise
    return reader, writer


def _move_above_stdio(descriptor: int) -> int:
    """Moves a descriptor above 2: where a program closed a standard one, it may take its number."""
    if descriptor > 2:
        return descriptor
    moved = fcntl(descriptor, F_DUPFD_CLOEXEC, 3)
    close(descriptor)
    return moved
