"""The plain values of the domain: sessions, executions, events, directories, limits, exits."""

from era_kernels.models.events import (
    SERVER_PREFIX,
    ClearOutput,
    Display,
    Done,
    ErrorEvent,
    Event,
    ExceptionInfo,
    InputRequest,
    LoggedEvent,
    Output,
    Queued,
    Result,
    Stderr,
    Stdout,
    UpdateDisplay,
    event_from_json,
    event_to_json,
    event_values,
    server_line,
)
from era_kernels.models.executions import (
    MAX_CHANGED_PATHS,
    NO_FILES_CHANGED,
    ExecSubmission,
    Execution,
    ExecutionEnd,
    ExecutionStatus,
    FilesChanged,
    IdempotencyKey,
    InterruptStep,
    KernelRequest,
    Submission,
    lost_done,
)
from era_kernels.models.formatting import (
    GIB,
    KIB,
    MIB,
    MIN_TOKEN_LENGTH,
    TIB,
    JsonObject,
    end_sentence,
    format_duration,
    format_size,
    now,
    to_iso,
)
from era_kernels.models.internet import NO_INTERNET, HostPatterns, InternetAccess
from era_kernels.models.links import Link, LinkTarget
from era_kernels.models.runtime import (
    SERVER_VARIABLES,
    EndReason,
    ExitInfo,
    Limits,
    ListeningPort,
    Network,
    SessionListener,
    SessionPaths,
    default_disk_reserve,
)
from era_kernels.models.sessions import (
    UNSANDBOXED_TIER,
    FileInfo,
    Isolation,
    NewSession,
    Session,
    SessionStatus,
    SessionView,
)
from era_kernels.models.stack_and_variables import MISSING, StackFrame, Variable, Variables
from era_kernels.models.storage_namespaces import (
    ALL_STORAGE,
    ResourceType,
    StorageQuotas,
    StorageScope,
)
