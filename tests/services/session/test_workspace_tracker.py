"""A session's desk: what runs find and what they leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from era_kernels.models import JsonObject
from era_kernels.services.session.workspace_tracker import WorkspaceTracker
from era_kernels.storage.workspaces import Workspaces
from tests.services.service_fixture import DATA


class TrackerFixture:
    """A desk on a real directory."""

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


@pytest.mark.gen_test
async def test_run_finds_the_data(fixture: TrackerFixture) -> None:
    """Before a run the mirror shows the data; a run that changes nothing has changed nothing."""
    await fixture.tracker.before_run({"a": 1})
    assert fixture.data() == {"a": 1}
    after = await fixture.tracker.after_run()
    assert (after.data, after.files_modified) == (None, 0)


@pytest.mark.gen_test
async def test_changes_are_told_once(fixture: TrackerFixture) -> None:
    """What a run did is told after it, and no more after the next."""
    await fixture.tracker.before_run({})
    (fixture.workspace / "f").write_text("x")
    (fixture.workspace / DATA).write_text('{"b": 2}')
    after = await fixture.tracker.after_run()
    assert (after.data, after.files_modified, after.snapshot.count) == ({"b": 2}, 1, 1)
    await fixture.tracker.before_run({"b": 2})
    after = await fixture.tracker.after_run()
    assert (after.data, after.files_modified, after.snapshot.count) == (None, 0, 1)


@pytest.mark.gen_test
async def test_data_that_changes_during_a_run(fixture: TrackerFixture) -> None:
    """The mirror is written at once; the code, which did not touch it, has changed nothing."""
    await fixture.tracker.before_run({"a": 1})
    await fixture.tracker.write_data_file({"a": 2})
    assert fixture.data() == {"a": 2}
    assert (await fixture.tracker.after_run()).data is None


@pytest.mark.gen_test
async def test_last_write_wins(fixture: TrackerFixture) -> None:
    """What code writes after the API did is what counts, and the other way round."""
    await fixture.tracker.before_run({"a": 1})
    await fixture.tracker.write_data_file({"a": 2})
    (fixture.workspace / DATA).write_text('{"a": 3}')
    assert (await fixture.tracker.after_run()).data == {"a": 3}
    await fixture.tracker.before_run({"a": 3})
    (fixture.workspace / DATA).write_text('{"a": 4}')
    await fixture.tracker.write_data_file({"a": 5})
    assert (await fixture.tracker.after_run()).data is None
    assert fixture.data() == {"a": 5}


@pytest.mark.gen_test
async def test_cleared_files(fixture: TrackerFixture) -> None:
    """Dropped files are gone, are no change of the next run, and the mirror is written anew."""
    await fixture.tracker.before_run({"a": 1})
    (fixture.workspace / "f").write_text("x")
    await fixture.tracker.after_run()
    await fixture.tracker.clear_files()
    assert list(fixture.workspace.iterdir()) == []
    await fixture.tracker.before_run({"a": 1})
    assert fixture.data() == {"a": 1}
    assert (await fixture.tracker.after_run()).files_modified == 0


# ---------------------------------------------------------------- beside others


@pytest.mark.gen_test
async def test_who_joins_overwrites_nothing(fixture: TrackerFixture) -> None:
    """What others have written is told, and what they have half written stays."""
    await fixture.tracker.before_run({"a": 1})
    assert await fixture.tracker.read_changed_data() is None
    (fixture.workspace / DATA).write_text('{"a": 2}')
    assert await fixture.tracker.read_changed_data() == {"a": 2}
    assert await fixture.tracker.read_changed_data() is None
    (fixture.workspace / DATA).write_text('{"a":')
    assert await fixture.tracker.read_changed_data() is None
    assert (fixture.workspace / DATA).read_text() == '{"a":'


@pytest.mark.gen_test
async def test_half_written_data_are_completed(fixture: TrackerFixture) -> None:
    """Who is settled in the middle of another's write leaves the rest to be adopted later."""
    await fixture.tracker.before_run({"a": 1})
    (fixture.workspace / DATA).write_text('{"a":')
    assert (await fixture.tracker.after_run()).data is None
    (fixture.workspace / DATA).write_text('{"a": 3}')
    assert (await fixture.tracker.after_run()).data == {"a": 3}


@pytest.mark.gen_test
async def test_joining_counts_no_files(fixture: TrackerFixture) -> None:
    """A change that is there when somebody joins is still to be counted."""
    await fixture.tracker.before_run({})
    (fixture.workspace / "new").write_text("x")
    await fixture.tracker.read_changed_data()
    assert (await fixture.tracker.after_run()).files_modified == 1
    assert (await fixture.tracker.after_run()).files_modified == 0
