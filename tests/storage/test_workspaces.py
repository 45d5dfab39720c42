"""Workspaces report what runs change, whatever hostile code leaves there; removals are whole."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from pytest import MonkeyPatch
from tornado.ioloop import IOLoop

from era_kernels.errors import InsufficientStorage, StorageFailed, StorageUnavailable
from era_kernels.models import SessionPaths
from era_kernels.safe_fs import trash
from era_kernels.storage import file_listing
from era_kernels.storage import workspace_data_file as data_file_module
from era_kernels.storage import workspaces as workspaces_module
from era_kernels.storage.workspaces import (
    FileListing,
    WorkspaceChanges,
    WorkspaceDataFile,
    Workspaces,
)
from tests.conftest import entered
from tests.storage.stores import small_disk
from tests.waiting import wait_until

NAME = ".session_data.json"


class RunSimulator:
    """One session's directory, and what its last run left."""

    def __init__(self, workspaces: Workspaces, directory: str) -> None:
        self.workspaces = workspaces
        self.directory = directory
        self.paths = workspaces.session_paths(directory)
        self.workspace = self.paths.workspace
        self.file = self.workspace / NAME
        self.data_file: WorkspaceDataFile | None = None
        self.snapshot: FileListing | None = FileListing()
        self.data: dict[str, Any] = {}

    async def run(self, *code: Callable[[], object]) -> WorkspaceChanges:
        """Returns what a run of these steps changed."""
        self.data_file = await self.workspaces.write_data_file(
            self.directory, self.data, self.data_file
        )
        for step in code:
            step()
        after = await self.workspaces.read_changes(self.directory, self.snapshot, self.data_file)
        self.snapshot, self.data_file = after.listing, after.data_file
        self.data = self.data if after.data is None else after.data
        return after

    async def count_changes(self, *code: Callable[[], object]) -> int:
        return (await self.run(*code)).files_changed.count

    def write(self, path: str, content: str = "x") -> Callable[[], object]:
        def step() -> None:
            (self.workspace / path).parent.mkdir(parents=True, exist_ok=True)
            (self.workspace / path).write_text(content)

        return step

    def shown(self) -> object:
        return json.loads(self.file.read_bytes())


@asynccontextmanager
async def with_simulator(tmp_path: Path) -> AsyncIterator[RunSimulator]:
    """Runs the body with a new simulator, and checks that no descriptor is left."""
    (tmp_path / "sessions").mkdir()
    workspaces = Workspaces(tmp_path / "sessions")
    simulator = RunSimulator(workspaces, await workspaces.create())
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield simulator
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    await workspaces.aclose()


@pytest.fixture
def simulator(io_loop: IOLoop, tmp_path: Path) -> Iterator[RunSimulator]:
    with entered(io_loop, with_simulator(tmp_path)) as simulator:
        yield simulator


def paths(snapshot: FileListing) -> list[str]:
    return [file.path for file in snapshot.files]


# ---------------------------------------------------------------- directories


async def test_a_new_directory(simulator: RunSimulator, tmp_path: Path) -> None:
    """A directory has a random name and all parts, for its owner only, as `session_paths` says."""
    home = tmp_path / "sessions" / simulator.directory
    assert simulator.paths == SessionPaths(home / "workspace", home / "packages", home / "cache")
    parts = {"workspace", "packages", "executions", "state", "cache"}
    assert {path.name for path in home.iterdir()} == parts | {"unfinished"}
    simulator.workspaces.unfinished.keep_soon(simulator.directory)
    assert wait_until(lambda: {path.name for path in home.iterdir()} == parts)
    assert {path.stat().st_mode & 0o777 for path in [home, *home.iterdir()]} == {0o700}
    assert len({await simulator.workspaces.create() for _ in range(20)}) == 20


async def test_remove(simulator: RunSimulator, tmp_path: Path) -> None:
    """The directory is gone when it returns; a second removal is fine; others stay."""
    other = await simulator.workspaces.create()
    await simulator.run(simulator.write("a/b/c"))
    await simulator.workspaces.remove(simulator.directory)
    await simulator.workspaces.remove(simulator.directory)
    assert os.listdir(tmp_path / "sessions") == [other]  # noqa: PTH208
    with pytest.raises(StorageFailed, match="gone"):
        await simulator.workspaces.scan(simulator.directory)
    with pytest.raises(StorageFailed, match="gone"):
        await simulator.run()


async def test_a_file_that_takes_long_to_remove(
    simulator: RunSimulator, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    """However many there are, nobody waits for longer than a moment, nor for those of others."""
    directories = [await simulator.workspaces.create() for _ in range(8)]
    may_end = threading.Event()
    monkeypatch.setattr(trash, "remove_tree", lambda *_: may_end.wait(60))
    begin = time.monotonic()
    await asyncio.gather(*(simulator.workspaces.remove(one) for one in directories))
    assert time.monotonic() - begin < 10
    left = [path.name for path in (tmp_path / "sessions").iterdir()]
    assert simulator.directory in left
    assert not {*left} & {*directories}
    monkeypatch.undo()
    may_end.set()
    await asyncio.to_thread(simulator.workspaces._removal_threads.close)


async def test_reconcile(simulator: RunSimulator, tmp_path: Path) -> None:
    """Directories of no session are removed, also those that a killed removal left.

    Foreign names stay, and missing directories of sessions are made.
    """
    sessions = tmp_path / "sessions"
    lost, half = await simulator.workspaces.create(), await simulator.workspaces.create()
    (sessions / half).rename(sessions / f"removed-{half}")
    for name in ("notes", "0123", "ABCDEF0123456789", "removed-x", f"{lost}.bak"):
        (sessions / name).mkdir()
    missing = "f" * 16
    await simulator.workspaces.reconcile({simulator.directory, missing})
    left = {path.name for path in sessions.iterdir()}
    assert left == {
        simulator.directory, missing, "notes", "0123", "ABCDEF0123456789", "removed-x",
        f"{lost}.bak",
    }  # fmt: skip
    assert (sessions / missing / "workspace").is_dir()


async def test_clear_files(simulator: RunSimulator, tmp_path: Path) -> None:
    """Only the files of the workspace go; executions and packages stay, and runs go on."""
    await simulator.run(simulator.write("a/b"), simulator.write("c"))
    home = simulator.workspace.parent
    (home / "executions" / "log").write_text("x")
    (home / "packages" / "module").write_text("x")
    await simulator.workspaces.clear_files(simulator.directory)
    assert list(simulator.workspace.iterdir()) == []
    assert (home / "executions" / "log").exists()
    assert (home / "packages" / "module").exists()
    assert [path.name for path in (tmp_path / "sessions").iterdir()] == [simulator.directory]
    simulator.snapshot = simulator.data_file = None
    after = await simulator.run(simulator.write("new"))
    assert paths(after.listing) == ["new"]
    shutil.rmtree(simulator.workspace)
    await simulator.workspaces.clear_files(simulator.directory)


@pytest.mark.parametrize("harm", ["removed", "file", "link", "shut", "emptied", "fifo"])
async def test_a_spoilt_workspace(simulator: RunSimulator, tmp_path: Path, harm: str) -> None:
    """Whatever code does to its workspace, the run ends well and the next one has a good one."""
    simulator.data = {"a": 1}
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")

    def spoil() -> None:
        if harm == "shut":
            simulator.workspace.chmod(0)
            return
        shutil.rmtree(simulator.workspace)
        if harm == "file":
            simulator.workspace.write_text("x")
        elif harm == "link":
            simulator.workspace.symlink_to(outside)
        elif harm == "fifo":
            os.mkfifo(simulator.workspace)
        elif harm == "emptied":
            simulator.workspace.mkdir()

    await simulator.run(simulator.write("mine"))
    after = await simulator.run(spoil)
    assert after.files_changed.count == (0 if harm == "shut" else 1)
    assert after.data is None
    assert (await simulator.workspaces.scan(simulator.directory)).count == (harm == "shut")
    after = await simulator.run(simulator.write("again"))
    assert "again" in paths(after.listing)
    assert simulator.shown() == {"a": 1}
    assert simulator.workspace.stat().st_mode & 0o700 == 0o700
    assert [path.name for path in outside.iterdir()] == ["kept"]


# ---------------------------------------------------------------- files


async def test_files_modified(simulator: RunSimulator) -> None:
    """Created, changed, replaced, renamed and deleted files count; reading and links do not."""
    work, write = simulator.workspace, simulator.write
    assert await simulator.count_changes() == 0
    assert await simulator.count_changes(write("a"), write("d/b"), write("c")) == 3
    assert await simulator.count_changes((work / "a").read_text) == 0
    assert await simulator.count_changes(lambda: work.joinpath("a").write_text("other")) == 1
    assert await simulator.count_changes(lambda: os.utime(work / "c", (1, 1))) == 1
    assert await simulator.count_changes(lambda: (work / "d").rename(work / "e")) == 2
    assert await simulator.count_changes((work / "a").unlink, (work / "c").unlink) == 2
    assert await simulator.count_changes(lambda: (work / "l").symlink_to("e/b")) == 0
    assert await simulator.count_changes(lambda: simulator.file.write_text('{"x":1}')) == 0
    simulator.snapshot = None
    assert await simulator.count_changes(write("z")) == 0


async def test_the_list(simulator: RunSimulator) -> None:
    """Regular files with size and time, sorted by the bytes of their paths; caches are hidden."""
    names = ["b", "B", "a/x", "a-b", "é", "\U0001f600", "\uffee", ".hidden", "x/.env", "cache"]
    hidden = [
        NAME, "node_modules/m", "x/node_modules/m", "x/__pycache__/m.pyc", ".cache/c",
        ".ipython/p", ".local/share/x", ".config/y", ".npm/z", ".matplotlib/f", "x/.cache/y",
    ]  # fmt: skip
    for name in [*names, *hidden]:
        simulator.write(name, name)()
    simulator.write(f"x/{NAME}")()
    simulator.write("y/node_modules")()
    os.mkfifo(simulator.workspace / "fifo")
    (simulator.workspace / "link").symlink_to("b")
    os.utime(simulator.workspace / "b", ns=(0, 1_736_937_000_123_456_789))
    snapshot = await simulator.workspaces.scan(simulator.directory)
    shown = [*names, f"x/{NAME}", "y/node_modules"]
    assert paths(snapshot) == sorted(shown, key=str.encode)
    assert snapshot.count == len(shown)
    assert snapshot.total_size == sum(len(name.encode()) for name in names) + 2
    (b,) = [file for file in snapshot.files if file.path == "b"]
    assert b.size == 1
    assert b.modified_at.replace(microsecond=0) == datetime(2025, 1, 15, 10, 30, tzinfo=UTC)
    assert (await simulator.run()).listing.files == snapshot.files


async def test_a_shortage_of_descriptors(simulator: RunSimulator, monkeypatch: MonkeyPatch) -> None:
    """What could not be looked at is no file that is gone, and no data that are broken."""
    short = Mock(side_effect=OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
    await simulator.run(simulator.write("a"))
    with monkeypatch.context() as patch:
        patch.setattr(workspaces_module, "open_directory", short)
        with pytest.raises(StorageUnavailable):
            await simulator.workspaces.scan(simulator.directory)
        with pytest.raises(StorageUnavailable):
            await simulator.workspaces.read_changes(simulator.directory, FileListing(), None)
    monkeypatch.setattr(data_file_module, "open_regular", short)
    with pytest.raises(StorageUnavailable):
        await simulator.run(simulator.write(NAME, '{"a": 1}'))


async def test_odd_files(simulator: RunSimulator) -> None:
    """Names that are no UTF-8 show as U+FFFD and count; absurd times and sizes are bounded."""
    for name in (b"\xff", b"a\xfe/b\n", b"\xed\xa0\x80"):
        simulator.write(os.fsdecode(name))()
    snapshot = await simulator.workspaces.scan(simulator.directory)
    assert paths(snapshot) == ["a\ufffd/b\n", "\ufffd\ufffd\ufffd", "\ufffd"]
    json.dumps(paths(snapshot), ensure_ascii=False).encode()
    for number, seconds in enumerate((-(10**11), 2**33, 10**12)):
        simulator.write(f"t{number}")()
        os.utime(simulator.workspace / f"t{number}", (seconds, seconds))
    for number in range(3):
        with (simulator.workspace / f"s{number}").open("wb") as file:
            file.truncate(2**43)
    snapshot = await simulator.workspaces.scan(simulator.directory)
    assert snapshot.count == 9
    assert snapshot.total_size == 3 * 2**43 + 6
    assert all(file.modified_at.tzinfo is UTC for file in snapshot.files)


@pytest.mark.parametrize(
    ("nanoseconds", "year"), [(-(2**63), 1677), (2**63, 2262), (-(10**20), 1), (10**21, 9999)]
)
def test_any_time_is_a_datetime(nanoseconds: int, year: int) -> None:
    """File systems hold times that no datetime can: the nearest is shown."""
    assert file_listing.FileListing({"f": (1, 1, nanoseconds)}).files[0].modified_at.year == year


async def test_totals_fit_a_column(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """Sparse files may claim more than a column holds."""
    monkeypatch.setattr(file_listing, "MAX_TOTAL_SIZE", 1000)

    async with with_simulator(tmp_path) as simulator:
        simulator.write("a", "x" * 700)()
        simulator.write("b", "x" * 700)()
        assert (await simulator.workspaces.scan(simulator.directory)).total_size == 1000


async def test_walks_while_code_changes_everything(tmp_path: Path) -> None:
    """A scan beside code that renames, links and removes never fails and never leaves the tree."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("x")

    async with with_simulator(tmp_path) as simulator:
        stop = False

        def hostile() -> None:
            while not stop:
                for n in range(5):
                    folder = simulator.workspace / f"d{n}"
                    folder.mkdir(exist_ok=True)
                    (folder / "f").write_text("x")
                    folder.rename(simulator.workspace / "moved")
                    folder.symlink_to(tmp_path / "outside")
                    folder.unlink()
                    shutil.rmtree(simulator.workspace / "moved")

        task = asyncio.create_task(asyncio.to_thread(hostile))
        until = time.monotonic() + 1
        while time.monotonic() < until:
            for path in paths(await simulator.workspaces.scan(simulator.directory)):
                assert path.endswith("/f")
            await simulator.run()
        stop = True
        await task


# ---------------------------------------------------------------- the data file


async def test_the_data_file_shows_the_data(simulator: RunSimulator) -> None:
    """The data file exists before the first run, follows the data, and is written only on need."""
    await simulator.run(lambda: simulator.shown() == {} or pytest.fail())
    first = simulator.file.stat().st_mtime_ns
    await simulator.run()
    simulator.data = dict(simulator.data)
    await simulator.run()
    assert simulator.file.stat().st_mtime_ns == first
    for data in ({"a": 1}, {"a": 1.0}, {"a": True}, {"a": 2**100, "é": "\U0001f600"}):
        simulator.data = data
        assert (await simulator.run()).data is None
        assert json.dumps(simulator.shown()) == json.dumps(data)
    assert simulator.file.stat().st_mtime_ns != first
    assert list((simulator.workspace.parent / "state").iterdir()) == []


async def test_code_replaces_the_data(simulator: RunSimulator) -> None:
    """A new object in the file, written in any way, is the new data, and stays there."""
    simulator.data = {"a": 1, "b": 2}
    assert (await simulator.run(lambda: simulator.file.write_text('{"a": true}'))).data == {
        "a": True
    }
    assert simulator.data["a"] is True

    def replaced() -> None:
        (simulator.workspace / "new").write_text('{"n": 123456789012345678901234567890}')
        (simulator.workspace / "new").replace(simulator.file)

    assert (await simulator.run(replaced)).data == {"n": 123456789012345678901234567890}
    assert (await simulator.run()).data is None
    assert (await simulator.run(lambda: os.utime(simulator.file, (5, 5)))).data is None
    assert (await simulator.run(lambda: simulator.file.write_text(" {}\n"))).data == {}


async def test_data_changed_by_both(simulator: RunSimulator) -> None:
    """Data that the API changed in a run the code did not write in stays; else the code's wins."""

    def patch() -> None:
        simulator.data = {"api": 1}

    assert (await simulator.run(patch)).data is None
    await simulator.run(lambda: simulator.shown() == {"api": 1} or pytest.fail())
    after = await simulator.run(patch, lambda: simulator.file.write_text('{"code":1}'))
    assert after.data == {"code": 1}


def _harms(simulator: RunSimulator, outside: Path) -> dict[str, Callable[[], object]]:
    def fifo() -> None:
        simulator.file.unlink()
        os.mkfifo(simulator.file)

    def link() -> None:
        simulator.file.unlink()
        simulator.file.symlink_to(outside)

    def directory() -> None:
        simulator.file.unlink()
        simulator.file.mkdir()

    def end() -> None:
        simulator.file.unlink()
        os.mknod(simulator.file, stat.S_IFSOCK | 0o600)

    return {
        "missing": simulator.file.unlink,
        "broken": lambda: simulator.file.write_text('{"a":'),
        "empty": lambda: simulator.file.write_text(""),
        "list": lambda: simulator.file.write_text("[1]"),
        "nan": lambda: simulator.file.write_text('{"a":NaN}'),
        "surrogate": lambda: simulator.file.write_text('{"a":"\\ud800"}'),
        "bomb": lambda: simulator.file.write_text('{"a":' * 100_000),
        "digits": lambda: simulator.file.write_text('{"a":' + "9" * 10_000 + "}"),
        "large": lambda: simulator.file.write_text('{"a":"' + "x" * 1024 * 1024 + '"}'),
        "sparse": lambda: os.truncate(simulator.file, 2**40),
        "fifo": fifo,
        "link": link,
        "directory": directory,
        "socket": end,
    }


@pytest.mark.parametrize("harm", _harms(RunSimulator(Workspaces(Path("/")), "x"), Path("/")))
async def test_a_broken_data_file_keeps_the_data(tmp_path: Path, harm: str) -> None:
    """Missing, broken, too large or no file at all: the old data stays and is written anew."""
    outside = tmp_path / "outside.json"
    outside.write_text('{"stolen":1}')

    async with with_simulator(tmp_path) as simulator:
        simulator.data = {"kept": 1}
        after = await asyncio.wait_for(simulator.run(_harms(simulator, outside)[harm]), 20)
        assert (after.data, simulator.data) == (None, {"kept": 1})
        await simulator.run(lambda: simulator.shown() == {"kept": 1} or pytest.fail())
        assert simulator.file.is_file()
        assert not simulator.file.is_symlink()
        assert outside.read_text() == '{"stolen":1}'


async def test_a_full_directory_in_the_way_stays(simulator: RunSimulator) -> None:
    """The user's files are never removed for the data file; it comes back when they are removed."""
    simulator.data = {"kept": 1}

    def block() -> None:
        simulator.file.unlink()
        simulator.file.mkdir()
        (simulator.file / "mine").write_text("x")

    await simulator.run(block)
    for _ in range(2):
        assert (await simulator.run()).data is None
    assert (simulator.file / "mine").read_text() == "x"
    assert list((simulator.workspace.parent / "state").iterdir()) == []
    shutil.rmtree(simulator.file)
    await simulator.run()
    assert simulator.shown() == {"kept": 1}


async def test_a_file_of_just_the_largest_size(simulator: RunSimulator) -> None:
    """1 MiB is read, one byte more is not."""
    room = data_file_module.MAX_BYTES - len('{"a":""}')

    for extra, taken in ((1, False), (0, True)):
        text = '{"a":"' + "x" * (room + extra) + '"}'
        after = await simulator.run(lambda text=text: simulator.file.write_text(text))
        assert (after.data is not None) == taken


async def test_a_full_disk(tmp_path: Path) -> None:
    """A data file that cannot be written is 507, the old one stays; with room, it is written."""
    with small_disk(tmp_path, "1200k") as disk:
        workspaces = Workspaces(disk)
        simulator = RunSimulator(workspaces, await workspaces.create())
        simulator.data = {"old": 1}
        await simulator.run()
        simulator.data = {"new": "x" * 900_000}
        (disk / "ballast").write_bytes(b"x" * 500_000)
        with pytest.raises(InsufficientStorage):
            await simulator.run()
        assert simulator.shown() == {"old": 1}
        (disk / "ballast").unlink()
        await simulator.run()
        assert simulator.shown() == simulator.data
        await workspaces.aclose()


async def test_large_workspaces_keep_no_other_run_waiting(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    """The walk after a run in a large one waits for its like; others' runs go on meanwhile."""
    monkeypatch.setattr(workspaces_module, "LARGE", 1)
    workspaces, gate = Workspaces(tmp_path), threading.Event()
    large = FileListing({"a": (1, 1, 1), "b": (2, 1, 1)}, 2)
    directory = await workspaces.create()
    scan = file_listing.scan

    def slow_scan(workspace: int, most: int) -> FileListing:
        gate.wait(10)
        return scan(workspace, most)

    monkeypatch.setattr(file_listing, "scan", slow_scan)
    running = [
        asyncio.ensure_future(workspaces.read_changes(directory, large, None)) for _ in range(9)
    ]
    await asyncio.sleep(0.1)
    monkeypatch.setattr(file_listing, "scan", scan)
    async with asyncio.timeout(5):
        await workspaces.read_changes(directory, FileListing(), None)
    assert not any(one.done() for one in running)
    gate.set()
    await asyncio.gather(*running)
    await workspaces.aclose()


async def test_one_walk_for_all_who_list(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """Who asks while a walk is under way gets the next one, with what is there by then."""
    workspaces, gate, count = Workspaces(tmp_path), threading.Event(), 0
    directory, other = [await workspaces.create() for _ in range(2)]
    scan = file_listing.scan

    def slow_scan(workspace: int) -> FileListing:
        nonlocal count
        count += 1
        found = scan(workspace)
        gate.wait(10)
        return found

    monkeypatch.setattr(file_listing, "scan", slow_scan)
    first = asyncio.create_task(workspaces.scan(directory))
    assert await asyncio.to_thread(wait_until, lambda: count == 1)
    (workspaces.session_paths(directory).workspace / "f").touch()
    late = [asyncio.create_task(workspaces.scan(directory)) for _ in range(20)]
    left = asyncio.create_task(workspaces.scan(other))
    await asyncio.sleep(0.05)
    for one in (late[0], left):
        one.cancel()
    gate.set()
    assert ((await first).count, {(await one).count for one in late[1:]}) == (0, {1})
    assert (await workspaces.scan(other)).count == 0
    assert (count, len(workspaces._scans)) == (4, 0)
    await workspaces.aclose()


async def test_a_workspace_that_becomes_large(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """Runs of others wait for no walk that turns out to be long, as after a directory was shown."""
    monkeypatch.setattr(workspaces_module, "LARGE", 2)
    workspaces, threads = Workspaces(tmp_path), []
    directory = await workspaces.create()
    scan = file_listing.scan

    def noting_scan(workspace: int, most: int) -> FileListing:
        threads.append(threading.current_thread().name.split("_")[0])
        return scan(workspace, most)

    monkeypatch.setattr(file_listing, "scan", noting_scan)
    workspace = workspaces.session_paths(directory).workspace
    for number in range(9):
        (workspace / f"empty{number}").mkdir()
    changes = await workspaces.read_changes(directory, FileListing(), None)
    assert (changes.listing.count, len({*threads}), len(threads)) == (0, 2, 2)
    await workspaces.aclose()


async def test_what_is_not_removed_goes_with_the_next_start(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    """A removal that takes long keeps nobody waiting, and the end of the server cuts it short."""
    workspaces = Workspaces(tmp_path)
    directory = await workspaces.create()
    for number in range(500):
        (tmp_path / directory / "workspace" / f"{number}" / "below").mkdir(parents=True)
    monkeypatch.setattr(trash.Trash, "add", lambda trash, job: None)
    monkeypatch.setattr(trash, "remove_directory", lambda path, seconds: False)
    await workspaces.remove(directory)
    await workspaces.aclose()
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    workspaces = Workspaces(tmp_path)
    await workspaces.reconcile(set())
    assert await asyncio.to_thread(wait_until, lambda: not list(tmp_path.iterdir()), 60)
    await workspaces.aclose()


async def test_a_missing_directory_whose_making_was_cut_short(tmp_path: Path) -> None:
    """A kill while a start makes a session's directory does not keep the next from starting."""
    name = "0123456789abcdef"
    (tmp_path / "sessions" / f"new-{name}" / "workspace").mkdir(parents=True)
    workspaces = Workspaces(tmp_path / "sessions")
    await workspaces.reconcile({name})
    await workspaces.aclose()
    assert [path.name for path in (tmp_path / "sessions").iterdir()] == [name]
    assert (tmp_path / "sessions" / name / "state").is_dir()
