"""Lets a test append events to an execution by hand, and makes such events."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from era_kernels.errors import InsufficientStorage
from era_kernels.models import (
    Event,
    LoggedEvent,
    Session,
    Stdout,
    now,
)
from era_kernels.services.executions.live_execution import LiveExecution
from tests.services.executions.test_result import DONE
from tests.services.service_fixture import Services


def recorded(*texts: str, first: int = 1) -> list[LoggedEvent]:
    return [LoggedEvent(first + n, now(), Stdout(text)) for n, text in enumerate(texts)]


def seqs(batch: Sequence[LoggedEvent] | None) -> list[int] | None:
    return None if batch is None else [item.seq for item in batch]


class ManualExecution:
    """An execution that a test appends to by hand."""

    def __init__(self, services: Services, session: Session, running: LiveExecution) -> None:
        self.services = services
        self.session = session
        self.running = running

    @classmethod
    async def open(cls, services: Services) -> ManualExecution:
        session = await services.create()
        return cls(services, session, await services.executions.open(session, "code"))

    async def finish(self) -> None:
        await self.running.publish([DONE])
        await self.services.executions.finish(self.running, 1, "exit 1")

    def fail_appends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def append(events: Sequence[Event]) -> list[LoggedEvent]:
            raise InsufficientStorage("No room.")

        monkeypatch.setattr(self.running.log, "append", append)
