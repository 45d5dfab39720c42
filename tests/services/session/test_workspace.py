"""A tracker knows what runs find in a workspace and what they change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from era_kernels.models import JsonObject
from era_kernels.services.session.workspace import WorkspaceTracker
from era_kernels.storage.workspaces import Workspaces
from tests.services.service_fixture import DATA


class TrackerFixture:
    """A tracker on a real directory."""

    def __init__(self, workspaces: Workspaces, directory: str) -> None:
        self.tracker = WorkspaceTracker(workspaces, directory)
        self.workspace = workspaces.session_paths(directory).workspace

    def data(self) -> JsonObject:
        value: JsonObject = json.loads((self.workspace / DATA).read_text())
        return value


@pytest.fixture
def fixture(io_loop: IOLoop, tmp_path: Path) -> Iterator[TrackerFixture]:
    workspaces = Workspaces(tmp_path)
    yield TrackerFixture(workspaces, io_loop.run_sync(workspaces.create))
    io_loop.run_sync(workspaces.aclose)


async def test_run_finds_the_data(fixture: TrackerFixture) -> None:
    """Before a run the data file shows the data; a run that changes nothing is not counted."""
    await fixture.tracker.prepare({"a": 1})
    assert fixture.data() == {"a": 1}
    after = await fixture.tracker.take_changes()
    assert (after.data, after.files_changed.count) == (None, 0)


async def test_changes_are_reported_once(fixture: TrackerFixture) -> None:
    """A run's changes are reported after it, and no more after the next."""
    await fixture.tracker.prepare({})
    (fixture.workspace / "f").write_text("x")
    (fixture.workspace / DATA).write_text('{"b": 2}')
    after = await fixture.tracker.take_changes()
    assert (after.data, after.files_changed.count, after.listing.count) == ({"b": 2}, 1, 1)
    await fixture.tracker.prepare({"b": 2})
    after = await fixture.tracker.take_changes()
    assert (after.data, after.files_changed.count, after.listing.count) == (None, 0, 1)


async def test_data_that_changes_during_a_run(fixture: TrackerFixture) -> None:
    """The data file is written at once; that does not count as a change of the code."""
    await fixture.tracker.prepare({"a": 1})
    await fixture.tracker.write_data_file({"a": 2})
    assert fixture.data() == {"a": 2}
    assert (await fixture.tracker.take_changes()).data is None


async def test_last_write_wins(fixture: TrackerFixture) -> None:
    """Data that code writes after the API did win, and the other way round."""
    await fixture.tracker.prepare({"a": 1})
    await fixture.tracker.write_data_file({"a": 2})
    (fixture.workspace / DATA).write_text('{"a": 3}')
    assert (await fixture.tracker.take_changes()).data == {"a": 3}
    await fixture.tracker.prepare({"a": 3})
    (fixture.workspace / DATA).write_text('{"a": 4}')
    await fixture.tracker.write_data_file({"a": 5})
    assert (await fixture.tracker.take_changes()).data is None
    assert fixture.data() == {"a": 5}


async def test_cleared_files(fixture: TrackerFixture) -> None:
    """Removed files do not count for the next run, and the data file is written again."""
    await fixture.tracker.prepare({"a": 1})
    (fixture.workspace / "f").write_text("x")
    await fixture.tracker.take_changes()
    await fixture.tracker.clear_files()
    assert list(fixture.workspace.iterdir()) == []
    await fixture.tracker.prepare({"a": 1})
    assert fixture.data() == {"a": 1}
    assert (await fixture.tracker.take_changes()).files_changed.count == 0


# ---------------------------------------------------------------- beside others


async def test_reading_data_overwrites_nothing(fixture: TrackerFixture) -> None:
    """New data are returned once, and a half-written data file stays as it is."""
    await fixture.tracker.prepare({"a": 1})
    assert await fixture.tracker.read_changed_data() is None
    (fixture.workspace / DATA).write_text('{"a": 2}')
    assert await fixture.tracker.read_changed_data() == {"a": 2}
    assert await fixture.tracker.read_changed_data() is None
    (fixture.workspace / DATA).write_text('{"a":')
    assert await fixture.tracker.read_changed_data() is None
    assert (fixture.workspace / DATA).read_text() == '{"a":'


async def test_half_written_data_are_completed(fixture: TrackerFixture) -> None:
    """Data that were half written at one `after_run` are returned by the next."""
    await fixture.tracker.prepare({"a": 1})
    (fixture.workspace / DATA).write_text('{"a":')
    assert (await fixture.tracker.take_changes()).data is None
    (fixture.workspace / DATA).write_text('{"a": 3}')
    assert (await fixture.tracker.take_changes()).data == {"a": 3}


async def test_reading_data_counts_no_files(fixture: TrackerFixture) -> None:
    """`read_changed_data` leaves changes of files to be counted by `after_run`."""
    await fixture.tracker.prepare({})
    (fixture.workspace / "new").write_text("x")
    await fixture.tracker.read_changed_data()
    assert (await fixture.tracker.take_changes()).files_changed.count == 1
    assert (await fixture.tracker.take_changes()).files_changed.count == 0
