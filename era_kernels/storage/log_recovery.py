"""Repairs logs after a crash, and writes the end that their server could not write."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from era_kernels.models import (
    Done,
    EndReason,
    ErrorEvent,
    Event,
    Execution,
    ExecutionStatus,
    ExitInfo,
    LoggedEvent,
    Queued,
    Stderr,
    lost_done,
    now,
    server_line,
)
from era_kernels.storage.executions_table import UnfinishedExecution
from era_kernels.storage.log_format import (
    LogHeader,
    decode,
    decode_header,
    decode_text,
    encode,
    encode_header,
)
from era_kernels.storage.log_index import LineReader, LogIndex, first_line, last_line

STOPPED_LINE = "server stopped before the run ended; variables are lost"
SERVER_STOPPED = ErrorEvent(
    "Server stopped", "The server stopped during the run.", "SERVER_STOPPED"
)


def logged_execution_ids(directory: Path) -> set[str]:
    """Returns the ids of executions that have a log in a directory (blocking). Raises OSError."""
    try:
        return {path.stem for path in directory.iterdir() if path.suffix == ".jsonl"}
    except FileNotFoundError:
        return set()


def execution_from_header(path: Path, session_id: str) -> Execution | None:
    """Makes an execution from its log's header (blocking); None when the header is torn."""
    try:
        header = decode_header(first_line(path))
    except (FileNotFoundError, ValueError):
        return None
    return Execution(path.stem, session_id, header.code, header.time, ExecutionStatus.RUNNING)


def recover(path: Path, unfinished: UnfinishedExecution) -> tuple[Execution, int]:
    """Writes the end of a log (blocking); returns the finished execution and the log's size.

    A torn line is cut off first. A log that has an end already keeps it. Raises OSError.
    """
    if not path.parent.is_dir():
        return _finished_execution(
            unfinished.execution, now(), _done_event(unfinished, unfinished.execution.created_at)
        ), 0
    index = _repair(path, unfinished)
    last = _read_last_event(path, index)
    if last is None or not isinstance(last.event, Done):
        last = _append_end(path, index, unfinished, last)
    assert isinstance(last.event, Done)
    return _finished_execution(unfinished.execution, last.time, last.event), index.size


def _repair(path: Path, unfinished: UnfinishedExecution) -> LogIndex:
    """Cuts off a torn line, or rewrites a lost header, and returns the log's index."""
    index = LogIndex.load_or_build(path) if path.exists() else LogIndex(0)
    if index.size == 0:
        execution = unfinished.execution
        header = encode_header(LogHeader(execution.code, unfinished.language, execution.created_at))
        _replace_file(path, header)
        return LogIndex(len(header))
    if path.stat().st_size > index.size:
        os.truncate(path, index.size)
    return index


def _replace_file(path: Path, data: bytes) -> None:
    """Replaces a file as a whole or not at all."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.replace(path)


def _read_last_event(path: Path, index: LogIndex) -> LoggedEvent | None:
    return decode(last_line(path, index)) if index.last_seq else None


def _append_end(
    path: Path, index: LogIndex, unfinished: UnfinishedExecution, last: LoggedEvent | None
) -> LoggedEvent:
    """Writes the events that tell readers to stop; returns the last, a `Done`."""
    until = unfinished.execution.created_at if last is None else last.time
    events: list[Event] = [_done_event(unfinished, until)]
    if last is None or not isinstance(last.event, ErrorEvent):
        events.insert(0, SERVER_STOPPED)
        if _has_begun(unfinished.execution, last) and not _tells_end(last):
            events.insert(0, server_line(STOPPED_LINE, _last_stderr(path, index)))
    time, first = now(), index.last_seq + 1
    recorded = [LoggedEvent(first + n, time, event) for n, event in enumerate(events)]
    encoded = [encode(entry) for entry in recorded]
    with path.open("ab") as file:
        file.write(b"".join(data for data, _ in encoded))
    for _, line in encoded:
        index.add(line)
    return recorded[-1]


def _has_begun(execution: Execution, last: LoggedEvent | None) -> bool:
    """Returns whether the execution came out of the queue."""
    is_silent = last is None or isinstance(last.event, Queued)
    return execution.started_at is not None or not is_silent


def _tells_end(last: LoggedEvent | None) -> bool:
    """Returns whether an earlier repair, which was killed, has written the server's line."""
    line = server_line(STOPPED_LINE, "").content
    return last is not None and isinstance(last.event, Stderr) and last.event.content.endswith(line)


def _last_stderr(path: Path, index: LogIndex) -> str:
    """Returns the last text of a log's stderr; the empty string where there is none."""
    total, text = index.text_bytes[Stderr.type], b""
    if not total:
        return ""
    mark = index.mark_for_text(Stderr.type, total - 1)
    position = mark.stderr
    with closing(LineReader(path, mark.offset)) as lines:
        while position < total and (batch := lines.read(index.size)):
            for piece in (decode_text(line, Stderr.type) for line in batch):
                text, position = piece or text, position + len(piece)
    return text.decode("utf-8", "replace")


def _done_event(unfinished: UnfinishedExecution, until: datetime) -> Done:
    """Makes the last event of a run whose server died; the run lasted at least `until` then."""
    execution = unfinished.execution
    started_at = execution.started_at or execution.created_at
    seconds = max(0.0, (until - started_at).total_seconds()) if execution.started_at else 0.0
    exit_info = ExitInfo(reason=EndReason.STOPPED.value)
    return lost_done(
        execution,
        seconds,
        exit_code=exit_info.exit_code,
        cause=exit_info.description,
        kernel_generation=unfinished.kernel_generation,
        data=unfinished.data,
    )


def _finished_execution(execution: Execution, time: datetime, done: Done) -> Execution:
    return replace(
        execution,
        status=ExecutionStatus.FINISHED,
        finished_at=time,
        exit_code=done.exit_code,
        cause=done.cause,
        position=None,
    )
