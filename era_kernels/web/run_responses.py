"""Response models of runs and executions, and the functions that build these responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

from pydantic import Field

from era_kernels.models import NO_FILES_CHANGED, ExceptionInfo, JsonObject
from era_kernels.web.base_response_models import ResponseModel

if TYPE_CHECKING:
    from era_kernels.services.executions import result

_NO_FILES_CHANGED: JsonObject = NO_FILES_CHANGED.paths()
TIMEOUT_CODE = "EXECUTION_TIMEOUT"


class Uncaught(ResponseModel):
    """An uncaught error of the program."""

    name: str
    value: str
    traceback: list[str]


class RichOutput(ResponseModel):
    """The value of the last expression, or something displayed."""

    type: Literal["execute_result", "display_data"]
    data: Annotated[dict[str, Any], Field(description="A MIME bundle.")]
    metadata: dict[str, Any]


class FullOutput(ResponseModel):
    """Where the whole text of a truncated run is, as URL paths."""

    stdout: str
    stderr: str


class FilesChangedAnswer(ResponseModel):
    """The paths of files that were created, changed or deleted: the first 1 000 of them."""

    created: list[str]
    changed: list[str]
    deleted: list[str]


class ExecAnswer(ResponseModel):
    """Everything a program beside the kernel produced."""

    execution_id: str
    session_id: str
    stdout: str
    stderr: str
    exit_code: int
    execution_time_ms: float
    duration: Annotated[str, Field(examples=["15.3ms"])]
    files_modified: int
    files_changed: FilesChangedAnswer
    data: Annotated[dict[str, Any], Field(description="The session's data after the run.")]
    exception: Uncaught | None
    state: Annotated[
        Literal["preserved", "lost"], Field(description="Are the variables still there?")
    ]
    started_from: Literal["live", "fresh", "restored"]
    kernel_generation: int
    queued_ms: float
    start_ms: float
    cause: NotRequired[
        Annotated[str, Field("", description="Why the run was ended; only when it was.")]
    ]
    notices: NotRequired[
        Annotated[
            list[str],
            Field(
                [],
                description="What the server has to tell; only when there is something. "
                "`variables were lost: …` says why this run does not find those of earlier runs.",
            ),
        ]
    ]
    truncated: NotRequired[
        Annotated[bool, Field(False, description="Output was left out; only when it was.")]
    ]
    full_output: NotRequired[Annotated[FullOutput | None, Field(None)]]


class TimedOutExecAnswer(ExecAnswer):
    """A program that was ended at its timeout: what there is, and the error beside it."""

    error: str
    message: str
    code: Literal["EXECUTION_TIMEOUT"]


class RunAnswer(ExecAnswer):
    """Everything a run produced."""

    results: list[RichOutput]


class TimedOutRunAnswer(RunAnswer):
    """A run that was ended at its timeout: what there is, and the error beside it."""

    error: str
    message: str
    code: Literal["EXECUTION_TIMEOUT"]


class ExecuteAnswer(ResponseModel):
    """Everything a run in a throw-away session produced."""

    session_id: str
    vm_id: Annotated[str, Field(description="The same as `session_id`, under its other name.")]
    language: str
    stdout: str
    stderr: str
    exit_code: int
    execution_time_ms: float
    duration: str
    results: list[RichOutput]
    cause: NotRequired[Annotated[str, Field("")]]
    notices: NotRequired[Annotated[list[str], Field([])]]
    truncated: NotRequired[Annotated[bool, Field(False)]]


class TimedOutExecuteAnswer(ExecuteAnswer):
    """A throw-away run that was ended at its timeout."""

    error: str
    message: str
    code: Literal["EXECUTION_TIMEOUT"]


# ---------------------------------------------------------------- building


def run_response(result: result.RunResult) -> JsonObject:
    """Returns the answer of a run; fields known only at the end are null while the run goes on."""
    out: JsonObject = {
        "execution_id": result.execution_id,
        "session_id": result.session_id,
        "stdout": result.stdout,
        "stderr": result.stderr,
        "exit_code": result.exit_code,
        "execution_time_ms": result.execution_time_ms,
        "duration": result.duration,
        "files_modified": result.files_modified,
        "files_changed": _files_changed(result),
        "data": result.data,
        "results": result.results,
        "exception": exception_response(result.exception),
        "state": result.state,
        "started_from": result.started_from,
        "kernel_generation": result.kernel_generation,
        "queued_ms": result.queued_ms,
        "start_ms": result.start_ms,
    }
    _add_optional_fields(out, result)
    if result.truncated:
        execution_path = f"/api/sessions/{result.session_id}/executions/{result.execution_id}"
        out["full_output"] = {
            "stdout": f"{execution_path}/stdout",
            "stderr": f"{execution_path}/stderr",
        }
    return out


def _files_changed(result: result.RunResult) -> JsonObject | None:
    """Returns the paths, which a log has only when there are any; None before the end."""
    return None if result.files_modified is None else result.files_changed or _NO_FILES_CHANGED


def exec_response(result: result.RunResult) -> JsonObject:
    """Returns the answer of a program: that of a run without rich outputs."""
    out = run_response(result)
    del out["results"]
    return out


def execute_response(result: result.RunResult, language: str) -> JsonObject:
    """Returns the answer of a throw-away run, which cannot be requested again later."""
    out: JsonObject = {
        "session_id": result.session_id,
        "vm_id": result.session_id,
        "language": language,
        "stdout": result.stdout,
        "stderr": result.stderr,
        "exit_code": result.exit_code,
        "execution_time_ms": result.execution_time_ms,
        "duration": result.duration,
        "results": result.results,
    }
    _add_optional_fields(out, result)
    return out


def _add_optional_fields(out: JsonObject, result: result.RunResult) -> None:
    if result.cause is not None:
        out["cause"] = result.cause
    if result.notices:
        out["notices"] = result.notices
    if result.truncated:
        out["truncated"] = True


def exception_response(info: ExceptionInfo | None) -> Uncaught | None:
    if info is None:
        return None
    return Uncaught(name=info.name, value=info.value, traceback=info.traceback)


def with_status(result: result.RunResult, out: JsonObject) -> tuple[JsonObject, int]:
    """Returns the answer and its status; a run that its timeout ended gets 408 and the error."""
    error_event = result.error
    if error_event is None or error_event.code != TIMEOUT_CODE:
        return out, 200
    error = {"error": error_event.error, "message": error_event.message, "code": error_event.code}
    return {**error, **out}, 408


def estimated_size(result: result.RunResult) -> int:
    """Returns about how many bytes the answer takes as JSON."""
    return len(result.stdout) + len(result.stderr) + sum(map(len, result.results))
