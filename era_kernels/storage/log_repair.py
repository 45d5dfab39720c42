"""After a crash: logs are made whole again, and get the end that their server could not write."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from era_kernels.models import (
    Done,
    Ending,
    Event,
    Execution,
    ExecutionStatus,
    Failure,
    Reason,
    Recorded,
    duration_text,
    now,
)
from era_kernels.storage.execution_rows import Unfinished
from era_kernels.storage.log_index import LogIndex, first_line, index_path, last_line
from era_kernels.storage.log_lines import (
    Header,
    decode,
    decode_header,
    encode,
    encode_header,
)

SERVER_STOPPED = Failure("Server stopped", "The server stopped during the run.", "SERVER_STOPPED")


def log_ids(directory: Path) -> set[str]:
    """The executions that have a log in a directory (blocking). Raises OSError."""
    try:
        return {path.stem for path in directory.iterdir() if path.suffix == ".jsonl"}
    except FileNotFoundError:
        return set()


def execution_of(path: Path, session_id: str) -> Execution | None:
    """What a log's header tells of its execution (blocking); None when not even that is whole."""
    try:
        header = decode_header(first_line(path))
    except (FileNotFoundError, ValueError):
        return None
    return Execution(path.stem, session_id, header.code, header.time, ExecutionStatus.RUNNING)


def closed(path: Path, left: Unfinished) -> tuple[Execution, int]:
    """Give a log its end (blocking): the execution as it ended, and the size of its log.

    Whatever is torn is cut off first. A log that has its end already keeps it. Raises OSError.
    """
    if not path.parent.is_dir():
        return _finished(left.execution, now(), _end(left, left.execution.created_at)), 0
    index = _made_whole(path, left)
    last = _last(path, index)
    if last is None or not isinstance(last.event, Done):
        last = _append_end(path, index, left, last)
    assert isinstance(last.event, Done)
    return _finished(left.execution, last.time, last.event), index.size


def _made_whole(path: Path, left: Unfinished) -> LogIndex:
    """The log's index, after what is torn was cut off, or the header written where it is lost."""
    index = LogIndex.counted(path) if path.exists() else LogIndex(0)
    if index.size == 0 or path.stat().st_size > index.size:
        # What was saved before fits the log no more, though its size may come to be the same.
        index_path(path).unlink(missing_ok=True)
    if index.size == 0:
        execution = left.execution
        header = encode_header(Header(execution.code, left.language, execution.created_at))
        _replace(path, header)
        return LogIndex(len(header))
    if path.stat().st_size > index.size:
        os.truncate(path, index.size)
    return index


def _replace(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.replace(path)


def _last(path: Path, index: LogIndex) -> Recorded | None:
    return decode(last_line(path, index)) if index.last_seq else None


def _append_end(path: Path, index: LogIndex, left: Unfinished, last: Recorded | None) -> Recorded:
    """Write what a reader needs to stop; the `Done`."""
    until = left.execution.created_at if last is None else last.time
    events: list[Event] = [_end(left, until)]
    if last is None or not isinstance(last.event, Failure):
        events.insert(0, SERVER_STOPPED)
    time, first = now(), index.last_seq + 1
    recorded = [Recorded(first + n, time, event) for n, event in enumerate(events)]
    encoded = [encode(one) for one in recorded]
    with path.open("ab") as file:
        file.write(b"".join(data for data, _ in encoded))
    for _, line in encoded:
        index.add(line)
    return recorded[-1]


def _end(left: Unfinished, until: datetime) -> Done:
    """The last event of a run whose server died; it went on at least `until` then."""
    execution = left.execution
    began = execution.started_at or execution.created_at
    seconds = max(0.0, (until - began).total_seconds()) if execution.started_at else 0.0
    ending = Ending(reason=Reason.STOPPED.value)
    return Done(
        exit_code=ending.exit_code,
        duration=duration_text(seconds),
        execution_time_ms=round(seconds * 1000, 3),
        files_modified=0,
        session_id=execution.session_id,
        execution_id=execution.id,
        state="lost",
        started_from="fresh",
        kernel_generation=left.kernel_generation,
        queued_ms=0.0,
        start_ms=0.0,
        cause=ending.cause,
        data=left.data,
    )


def _finished(execution: Execution, time: datetime, done: Done) -> Execution:
    return replace(
        execution,
        status=ExecutionStatus.FINISHED,
        finished_at=time,
        exit_code=done.exit_code,
        cause=done.cause,
        position=None,
    )
