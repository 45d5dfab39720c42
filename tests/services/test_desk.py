"""A session's desk: what runs find and what they leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from era_kernels.models import JsonObject
from era_kernels.services.desk import Desk
from era_kernels.storage.workspaces import Workspaces
from tests.services.house import DATA


class Bench:
    """A desk on a real directory."""

    def __init__(self, workspaces: Workspaces, directory: str) -> None:
        self.desk = Desk(workspaces, directory)
        self.workspace = workspaces.session_paths(directory).workspace

    def data(self) -> JsonObject:
        value: JsonObject = json.loads((self.workspace / DATA).read_text())
        return value


@pytest.fixture
def bench(io_loop: IOLoop, tmp_path: Path) -> Iterator[Bench]:
    workspaces = Workspaces(tmp_path)
    yield Bench(workspaces, io_loop.run_sync(workspaces.create))
    io_loop.run_sync(workspaces.aclose)


@pytest.mark.gen_test
async def test_run_finds_the_data(bench: Bench) -> None:
    """Before a run the mirror shows the data; a run that changes nothing has changed nothing."""
    await bench.desk.prepare({"a": 1})
    assert bench.data() == {"a": 1}
    after = await bench.desk.settle()
    assert (after.data, after.files_modified) == (None, 0)


@pytest.mark.gen_test
async def test_changes_are_told_once(bench: Bench) -> None:
    """What a run did is told after it, and no more after the next."""
    await bench.desk.prepare({})
    (bench.workspace / "f").write_text("x")
    (bench.workspace / DATA).write_text('{"b": 2}')
    after = await bench.desk.settle()
    assert (after.data, after.files_modified, after.snapshot.count) == ({"b": 2}, 1, 1)
    await bench.desk.prepare({"b": 2})
    after = await bench.desk.settle()
    assert (after.data, after.files_modified, after.snapshot.count) == (None, 0, 1)


@pytest.mark.gen_test
async def test_data_that_changes_during_a_run(bench: Bench) -> None:
    """The mirror is written at once; the code, which did not touch it, has changed nothing."""
    await bench.desk.prepare({"a": 1})
    await bench.desk.mirror({"a": 2})
    assert bench.data() == {"a": 2}
    assert (await bench.desk.settle()).data is None


@pytest.mark.gen_test
async def test_last_write_wins(bench: Bench) -> None:
    """What code writes after the API did is what counts, and the other way round."""
    await bench.desk.prepare({"a": 1})
    await bench.desk.mirror({"a": 2})
    (bench.workspace / DATA).write_text('{"a": 3}')
    assert (await bench.desk.settle()).data == {"a": 3}
    await bench.desk.prepare({"a": 3})
    (bench.workspace / DATA).write_text('{"a": 4}')
    await bench.desk.mirror({"a": 5})
    assert (await bench.desk.settle()).data is None
    assert bench.data() == {"a": 5}


@pytest.mark.gen_test
async def test_cleared_desk(bench: Bench) -> None:
    """Dropped files are gone, are no change of the next run, and the mirror is written anew."""
    await bench.desk.prepare({"a": 1})
    (bench.workspace / "f").write_text("x")
    await bench.desk.settle()
    await bench.desk.clear()
    assert list(bench.workspace.iterdir()) == []
    await bench.desk.prepare({"a": 1})
    assert bench.data() == {"a": 1}
    assert (await bench.desk.settle()).files_modified == 0


# ---------------------------------------------------------------- beside others


@pytest.mark.gen_test
async def test_who_joins_overwrites_nothing(bench: Bench) -> None:
    """What others have written is told, and what they have half written stays."""
    await bench.desk.prepare({"a": 1})
    assert await bench.desk.join() is None
    (bench.workspace / DATA).write_text('{"a": 2}')
    assert await bench.desk.join() == {"a": 2}
    assert await bench.desk.join() is None
    (bench.workspace / DATA).write_text('{"a":')
    assert await bench.desk.join() is None
    assert (bench.workspace / DATA).read_text() == '{"a":'


@pytest.mark.gen_test
async def test_half_written_data_are_completed(bench: Bench) -> None:
    """Who is settled in the middle of another's write leaves the rest to be adopted later."""
    await bench.desk.prepare({"a": 1})
    (bench.workspace / DATA).write_text('{"a":')
    assert (await bench.desk.settle()).data is None
    (bench.workspace / DATA).write_text('{"a": 3}')
    assert (await bench.desk.settle()).data == {"a": 3}


@pytest.mark.gen_test
async def test_joining_counts_no_files(bench: Bench) -> None:
    """A change that is there when somebody joins is still to be counted."""
    await bench.desk.prepare({})
    (bench.workspace / "new").write_text("x")
    await bench.desk.join()
    assert (await bench.desk.settle()).files_modified == 1
    assert (await bench.desk.settle()).files_modified == 0
