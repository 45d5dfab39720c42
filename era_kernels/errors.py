"""The exception tree, in which each class has an HTTP status and a stable code.

EraError                      500 INTERNAL_ERROR
├── InvalidRequest            400 INVALID_REQUEST
│   ├── InvalidJson           400 INVALID_JSON
│   ├── InvalidId             400 INVALID_ID
│   ├── InvalidPath           400 INVALID_PATH
│   ├── UnsupportedLanguage   400 UNSUPPORTED_LANGUAGE
│   └── SqlError              400 SQL_ERROR
│       └── SqlReadOnly       400 SQL_READ_ONLY
├── Unauthorized              401 UNAUTHORIZED
├── Forbidden                 403 FORBIDDEN
│   └── OutsideStorageScope   403 STORAGE_SCOPE
├── NotFound                  404 NOT_FOUND
│   ├── SessionNotFound       404 SESSION_NOT_FOUND
│   ├── ExecutionNotFound     404 EXECUTION_NOT_FOUND
│   ├── FileNotFound          404 FILE_NOT_FOUND
│   ├── KeyNotFound           404 KEY_NOT_FOUND
│   ├── LinkNotFound          404 LINK_NOT_FOUND
│   └── ObjectNotFound        404 OBJECT_NOT_FOUND
├── MethodNotAllowed          405 METHOD_NOT_ALLOWED
├── SqlTimeout                408 SQL_TIMEOUT
├── Conflict                  409 CONFLICT
│   ├── SessionExists         409 SESSION_EXISTS
│   ├── SessionBusy           409 SESSION_BUSY
│   ├── NotEnforceable        409 NOT_ENFORCEABLE
│   ├── NotRunning            409 NOT_RUNNING
│   ├── NoInputPending        409 NO_INPUT_PENDING
│   ├── NotSupported          409 NOT_SUPPORTED
│   └── IdempotencyConflict   409 IDEMPOTENCY_CONFLICT
├── LinkExpired               410 LINK_EXPIRED
├── PreconditionFailed        412 PRECONDITION_FAILED
├── TooLarge                  413 TOO_LARGE
│   └── QuotaExceeded         413 QUOTA_EXCEEDED
├── QueueFull                 429 QUEUE_FULL
├── UnsupportedMediaType      415 UNSUPPORTED_MEDIA_TYPE
├── RangeNotSatisfiable       416 RANGE_NOT_SATISFIABLE
├── BadGateway                502 BAD_GATEWAY
│   └── NothingListening      502 NOTHING_LISTENING
├── GatewayTimeout            504 GATEWAY_TIMEOUT
├── StorageFailed             500 STORAGE_FAILED
│   ├── InsufficientStorage   507 INSUFFICIENT_STORAGE
│   └── StorageUnavailable    503 UNAVAILABLE
└── Unavailable               503 UNAVAILABLE
    ├── AtCapacity            503 CAPACITY
    ├── LanguageUnavailable   503 LANGUAGE_UNAVAILABLE
    ├── KernelStartFailed     503 KERNEL_START_FAILED
    ├── KernelSilent          503 KERNEL_SILENT
    ├── EndUnfinished         503 END_UNFINISHED
    └── ShuttingDown          503 SHUTTING_DOWN

StartError is not in the tree: it means that the server (or a command) cannot start, and its text
tells the operator what to do.
"""

from __future__ import annotations

from typing import Any, ClassVar


class EraError(Exception):
    """The base of all errors that callers see.

    `message` is one full sentence that helps; `details`, `hint`, `id` and `format` (how a path
    should look) go into the answer where they are given; `retry_after` (seconds) becomes the
    `Retry-After` header.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "INTERNAL_ERROR"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        message: str,
        *,
        details: Any = None,
        hint: str | None = None,
        id: str | None = None,  # noqa: A002 - the word of the API
        format: str | None = None,  # noqa: A002 - the word of the API
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.hint = hint
        self.id = id
        self.format = format
        self.retry_after = retry_after


class InvalidRequest(EraError):
    status, code, title = 400, "INVALID_REQUEST", "Invalid request"


class InvalidJson(InvalidRequest):
    code, title = "INVALID_JSON", "Invalid JSON"


class InvalidId(InvalidRequest):
    code, title = "INVALID_ID", "Invalid id"


class InvalidPath(InvalidRequest):
    code, title = "INVALID_PATH", "Invalid path"


class UnsupportedLanguage(InvalidRequest):
    code, title = "UNSUPPORTED_LANGUAGE", "Unsupported language"


class SqlError(InvalidRequest):
    code, title = "SQL_ERROR", "D1 query failed"


class SqlReadOnly(SqlError):
    code = "SQL_READ_ONLY"


class Unauthorized(EraError):
    status, code, title = 401, "UNAUTHORIZED", "Unauthorized"


class Forbidden(EraError):
    status, code, title = 403, "FORBIDDEN", "Forbidden"


class OutsideStorageScope(Forbidden):
    code, title = "STORAGE_SCOPE", "Outside the storage scope"


class NotFound(EraError):
    status, code, title = 404, "NOT_FOUND", "Not found"


class SessionNotFound(NotFound):
    code, title = "SESSION_NOT_FOUND", "Session not found"

    @classmethod
    def for_id(cls, session_id: str) -> SessionNotFound:
        """Returns the error for an id that no session has."""
        return cls(f"There is no session {session_id}.", id=session_id)


class ExecutionNotFound(NotFound):
    code, title = "EXECUTION_NOT_FOUND", "Execution not found"


class FileNotFound(NotFound):
    code, title = "FILE_NOT_FOUND", "File not found"


class KeyNotFound(NotFound):
    code, title = "KEY_NOT_FOUND", "Key not found"


class LinkNotFound(NotFound):
    code, title = "LINK_NOT_FOUND", "Link not found"


class ObjectNotFound(NotFound):
    code, title = "OBJECT_NOT_FOUND", "Object not found"


class MethodNotAllowed(EraError):
    status, code, title = 405, "METHOD_NOT_ALLOWED", "Method not allowed"


class SqlTimeout(EraError):
    status, code, title = 408, "SQL_TIMEOUT", "SQL timeout"


class Conflict(EraError):
    status, code, title = 409, "CONFLICT", "Conflict"


class SessionExists(Conflict):
    code, title = "SESSION_EXISTS", "Session exists"


class SessionBusy(Conflict):
    code, title = "SESSION_BUSY", "Session busy"


class NotEnforceable(Conflict):
    code, title = "NOT_ENFORCEABLE", "Not enforceable"


class NoInputPending(Conflict):
    code, title = "NO_INPUT_PENDING", "No input pending"


class NotRunning(Conflict):
    code, title = "NOT_RUNNING", "Not running"


class NotSupported(Conflict):
    code, title = "NOT_SUPPORTED", "Not supported"


class IdempotencyConflict(Conflict):
    code, title = "IDEMPOTENCY_CONFLICT", "Idempotency conflict"


class LinkExpired(EraError):
    status, code, title = 410, "LINK_EXPIRED", "Link expired"


class PreconditionFailed(EraError):
    status, code, title = 412, "PRECONDITION_FAILED", "Precondition failed"


class TooLarge(EraError):
    status, code, title = 413, "TOO_LARGE", "Too large"


class QuotaExceeded(TooLarge):
    code, title = "QUOTA_EXCEEDED", "Quota exceeded"


class UnsupportedMediaType(EraError):
    status, code, title = 415, "UNSUPPORTED_MEDIA_TYPE", "Unsupported media type"


class RangeNotSatisfiable(EraError):
    status, code, title = 416, "RANGE_NOT_SATISFIABLE", "Range not satisfiable"


class QueueFull(EraError):
    status, code, title = 429, "QUEUE_FULL", "Queue full"


class BadGateway(EraError):
    status, code, title = 502, "BAD_GATEWAY", "Bad gateway"


class NothingListening(BadGateway):
    code, title = "NOTHING_LISTENING", "Nothing listening"


class GatewayTimeout(EraError):
    status, code, title = 504, "GATEWAY_TIMEOUT", "Gateway timeout"


class StorageFailed(EraError):
    status, code, title = 500, "STORAGE_FAILED", "Storage failed"


class InsufficientStorage(StorageFailed):
    status, code, title = 507, "INSUFFICIENT_STORAGE", "Insufficient storage"


class StorageUnavailable(StorageFailed):
    status, code, title = 503, "UNAVAILABLE", "Unavailable"


class Unavailable(EraError):
    status, code, title = 503, "UNAVAILABLE", "Unavailable"


class AtCapacity(Unavailable):
    code, title = "CAPACITY", "At capacity"


class LanguageUnavailable(Unavailable):
    code, title = "LANGUAGE_UNAVAILABLE", "Language unavailable"


class KernelStartFailed(Unavailable):
    code, title = "KERNEL_START_FAILED", "Kernel start failed"


class KernelSilent(Unavailable):
    code, title = "KERNEL_SILENT", "Kernel silent"


class EndUnfinished(Unavailable):
    code, title = "END_UNFINISHED", "End unfinished"


class ShuttingDown(Unavailable):
    code, title = "SHUTTING_DOWN", "Shutting down"


class StartError(Exception):
    """The server or a command cannot start; the text is a sentence that tells what to do."""


class WeakTier3Refused(StartError):
    """Only weak walls of tier 3 can be had, and nobody said that these will do."""


class InvalidSetting(StartError):
    """A setting is wrong; the text names the setting, the source of its value and the rule."""
