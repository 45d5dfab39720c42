"""The error of all calls on storage."""

from __future__ import annotations

from typing import Any


class StorageError(RuntimeError):
    """A call on storage failed; its text tells which, and why.

    `code` is the server's name of the error, such as `STORAGE_SCOPE`, and `status` its HTTP status;
    both are None when there was no answer.
    """

    def __init__(self, message: str, code: str | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.code, self.status)
