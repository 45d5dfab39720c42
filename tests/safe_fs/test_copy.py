"""Copies of trees are whole, whatever code made of them, and follow no links."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from era_kernels.errors import Conflict, TooLarge
from era_kernels.safe_fs import copy as module
from era_kernels.safe_fs.copy import CopyCancelled, TreeCopier
from era_kernels.safe_fs.tree import closing_fd
from era_kernels.safe_fs.usage import SLACK_BYTES, max_copy_bytes
from tests.safe_fs.long_paths import make_many_below_long_path, traced_peak
from tests.storage.stores import ROOT

MIB = 1024 * 1024
ATTRIBUTE = "user.test"


def copy_attribute(source: int, target: int) -> None:
    """Copies the one attribute that the caller of these copies wants to be kept."""
    with suppress(OSError):
        os.setxattr(target, ATTRIBUTE, os.getxattr(source, ATTRIBUTE))


class Trees:
    """Holds a tree, and the directory of its copy."""

    def __init__(self, path: Path) -> None:
        self.source = path / "source" / "tree"
        self.target = path / "target" / "tree"
        self.source.mkdir(parents=True)
        self.target.mkdir(parents=True)

    def copy(
        self, is_cancelled: Callable[[], bool] = lambda: False, max_bytes: int = 1024 * MIB
    ) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY
        with (
            closing_fd(os.open(self.source.parent, flags)) as source,
            closing_fd(os.open(self.target.parent, flags)) as target,
        ):
            copier = TreeCopier(is_cancelled, max_bytes, copy_attributes=copy_attribute)
            copier.copy(source, target, "tree")
            copier.sync(target)

    def clear_target(self) -> None:
        subprocess.run(["rm", "-rf", self.target], check=True)
        self.target.mkdir()


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    return Trees(tmp_path)


@pytest.fixture(params=["clone", "range", "sendfile"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to move bytes; the file system decides whether the first one works."""

    def refused(*arguments: object) -> int:
        raise OSError(errno.EXDEV, "refused")

    if request.param != "clone":
        monkeypatch.setattr(module.fcntl, "ioctl", refused)
    if request.param == "sendfile":
        monkeypatch.setattr(module.os, "copy_file_range", refused)
    return str(request.param)


def test_a_copy_keeps_no_long_paths(trees: Trees, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of directories and linked files it keeps names and paths within a bound of memory."""
    with closing_fd(os.open(trees.source, os.O_RDONLY)) as root:
        make_many_below_long_path(root, 1000)
    assert traced_peak(trees.copy) < 4_000_000
    trees.clear_target()
    monkeypatch.setattr(module, "MAX_TEXT_BYTES", 50_000)
    with pytest.raises(TooLarge):
        trees.copy()
    subprocess.run(["rm", "-rf", trees.source], check=True)
    trees.source.mkdir()
    for number in range(1000):
        (trees.source / str(number)).touch()
        (trees.source / f"{number} again").hardlink_to(trees.source / str(number))
    trees.clear_target()
    with pytest.raises(TooLarge):
        trees.copy()


def described(root: Path) -> dict[str, tuple[Any, ...]]:
    """Everything about a tree that a copy keeps: kind, mode, time, content."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder, name)
            status = path.lstat()
            content: object = None
            if path.is_symlink():
                content = str(path.readlink())
            elif path.is_file():
                content = path.read_bytes()
            kind = stat.S_IFMT(status.st_mode)
            mode = status.st_mode & 0o777
            found[str(path.relative_to(root))] = (kind, mode, status.st_mtime_ns, content)
    return found


def test_all_is_copied(trees: Trees, way: str) -> None:
    """Contents, names, modes, times, links as links: what was there is there."""
    root = trees.source
    for number in range(60):
        folder = root / f"d{number % 7}" / "e" / f"{number}"
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(os.urandom(number * 1000))
    (root / os.fsdecode(b"\xff\n")).mkdir()
    (root / os.fsdecode(b"\xff\n") / "é").write_text("é")
    (root / "empty").mkdir()
    (root / "nothing").touch()
    (root / "script").write_text("#!")
    (root / "script").chmod(0o751)
    (root / "loop").symlink_to(".")
    (root / "out").symlink_to("/etc/passwd")
    (root / "dangling").symlink_to("nowhere/at all")
    os.utime(root / "script", ns=(5, 123_456_789_012_345_678))
    os.utime(root / "d1", ns=(5, 7))
    (root / "d2" / "e").chmod(0o500)
    trees.copy()
    assert described(trees.target) == described(trees.source)


def test_few_files(trees: Trees, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few files are synced one by one, with their directories; for many, the file system is."""
    synced: list[int] = []
    monkeypatch.setattr(module.os, "fsync", synced.append)
    (trees.source / "d").mkdir()
    (trees.source / "d" / "file").write_text("x")
    trees.copy()
    assert len(synced) == 4  # file, its directory, the tree, what holds it
    assert described(trees.target) == described(trees.source)
    for number in range(module.MAX_SYNCED_ENTRIES):
        (trees.source / f"{number}").touch()
    trees.clear_target()
    synced.clear()
    calls: list[int] = []
    monkeypatch.setattr(module, "_libc", FakeLibc(calls))
    trees.copy()
    assert len(calls) == 1
    assert len(synced) <= module.MAX_SYNCED_ENTRIES + 1


class FakeLibc:
    def __init__(self, calls: list[int], failure: int = 0) -> None:
        self._calls = calls
        self._failure = failure

    def syncfs(self, descriptor: int) -> int:
        self._calls.append(descriptor)
        return self._failure


def test_sync_that_fails(trees: Trees, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be made durable is no copy."""
    for number in range(module.MAX_SYNCED_ENTRIES + 1):
        (trees.source / f"{number}").touch()
    monkeypatch.setattr(module, "_libc", FakeLibc([], -1))
    with pytest.raises(OSError):
        trees.copy()


def test_hard_links_stay_names_of_one_file(trees: Trees, way: str) -> None:
    """Else a small tree would have a copy of any size. The copy shares nothing with the source."""
    (trees.source / "below").mkdir()
    (trees.source / "a").write_bytes(b"x" * MIB)
    for number in range(100):
        os.link(trees.source / "a", trees.source / "below" / str(number))
    (trees.source / "alone").write_text("one")
    trees.copy(max_bytes=3 * MIB)
    names = [trees.target / "a", *(trees.target / "below").iterdir()]
    assert len(names) == 101
    assert len({path.stat().st_ino for path in names}) == 1
    assert (trees.target / "a").stat().st_ino != (trees.source / "a").stat().st_ino
    assert (trees.target / "below" / "7").read_bytes() == b"x" * MIB
    assert (trees.target / "alone").read_text() == "one"


def test_hard_links_where_there_can_be_none(trees: Trees, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without hard links, or past what it has, they become files."""
    (trees.source / "a").write_text("one")
    os.link(trees.source / "a", trees.source / "b")

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EMLINK, "too many links")

    monkeypatch.setattr(os, "link", refuse)
    trees.copy()
    assert {(trees.target / name).read_text() for name in "ab"} == {"one"}
    assert (trees.target / "a").stat().st_ino != (trees.target / "b").stat().st_ino


def test_files_that_code_moves_to_where_the_copy_comes_later(trees: Trees, way: str) -> None:
    """A copy ends where it would take more than it may, however code fills files meanwhile."""
    names = [str(number) for number in range(1000)]
    for name in names:
        (trees.source / name).touch()
    order = os.listdir(trees.source)  # noqa: PTH208 - in the order of the file system
    (trees.source / order[0]).write_bytes(b"x" * MIB)
    at = 0

    def move_on() -> bool:
        """Moves the bytes once they are copied: to the name that comes after the next."""
        nonlocal at
        copy = trees.target / order[at]
        if copy.exists() and copy.stat().st_size == MIB:
            (trees.source / order[at]).replace(trees.source / order[at + 2])
            at += 2
        return False

    most = max_copy_bytes(trees.source) - SLACK_BYTES
    assert most < 12 * MIB
    with pytest.raises(Conflict, match="faster"):
        trees.copy(move_on, max_bytes=most)
    written = sum(path.stat().st_blocks for path in trees.target.iterdir()) * 512
    assert written <= most + MIB


def test_special_files_are_left_out(trees: Trees) -> None:
    """Pipes, sockets and devices are not copied, and never opened: a pipe would block."""
    os.mkfifo(trees.source / "pipe")
    with socket.socket(socket.AF_UNIX) as wire:
        here = Path.cwd()
        os.chdir(trees.source)
        try:
            wire.bind("socket")
        finally:
            os.chdir(here)
    if os.geteuid() == 0:
        os.mknod(trees.source / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    (trees.source / "file").write_text("x")
    trees.copy()
    assert os.listdir(trees.target) == ["file"]  # noqa: PTH208


def test_set_id_bits_are_dropped(trees: Trees) -> None:
    """The mode is kept, what would lend rights is not."""
    (trees.source / "tool").touch()
    (trees.source / "tool").chmod(0o6755)
    (trees.source / "folder").mkdir()
    (trees.source / "folder").chmod(0o3777)
    trees.copy()
    assert stat.S_IMODE((trees.target / "tool").stat().st_mode) == 0o755
    assert stat.S_IMODE((trees.target / "folder").stat().st_mode) == 0o777


def test_attributes_are_copied_by_the_callers_function(trees: Trees) -> None:
    """The caller's function decides which attributes are copied; all others are not."""
    (trees.source / "file").write_text("x")
    try:
        os.setxattr(trees.source / "file", ATTRIBUTE, b"kept")
        os.setxattr(trees.source / "file", "user.other", b"1")
    except OSError:
        pytest.skip("this file system has no user attributes")
    trees.copy()
    assert os.listxattr(trees.target / "file") == [ATTRIBUTE]
    assert os.getxattr(trees.target / "file", ATTRIBUTE) == b"kept"


def test_holes_stay_holes(trees: Trees, way: str) -> None:
    """A sparse file of a terabyte costs what its data cost."""
    with (trees.source / "sparse").open("wb") as file:
        for at in (0, 5 * MIB, 1 << 39):
            file.seek(at)
            file.write(b"data" * 1000)
        file.truncate(1 << 40)
    with (trees.source / "hole").open("wb") as file:
        file.truncate(1 << 40)
    trees.copy()
    copy = trees.target / "sparse"
    assert (copy.stat().st_size, (trees.target / "hole").stat().st_size) == (1 << 40, 1 << 40)
    assert copy.stat().st_blocks * 512 < MIB
    with copy.open("rb") as file:
        for at in (0, 5 * MIB, 1 << 39):
            file.seek(at)
            assert file.read(5000) == b"data" * 1000 + bytes(1000)


def test_large_files(trees: Trees, way: str) -> None:
    """A file of more than one chunk is copied whole."""
    data = os.urandom(MIB) * 40 + b"end"
    (trees.source / "large").write_bytes(data)
    trees.copy()
    assert (trees.target / "large").read_bytes() == data


AS_NOBODY = """
import os, sys
from era_kernels.safe_fs.copy import TreeCopier
os.chdir(sys.argv[1])
source, target = (os.open(name, os.O_RDONLY) for name in ("source", "target"))
os.umask(0)
os.setuid(65534)
os.makedirs("source/tree/shut/inner")
for name, mode in ("secret", 0o000), ("written", 0o222), ("shut/file", 0o044):
    with open("source/tree/" + name, "w") as file:
        file.write(name)
    os.chmod("source/tree/" + name, mode)
os.chmod("source/tree/shut", 0o011)
TreeCopier(lambda: False, 2**40, copy_attributes=lambda old, new: None).copy(source, target, "tree")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_code_shut_is_copied(tmp_path: Path) -> None:
    """Files and directories whose owner may not read them are copied with the modes they had."""
    for name in ("source", "target", "target/tree"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, 65534, -1)
    os.chown(tmp_path, 65534, -1)
    command = [sys.executable, "-c", AS_NOBODY, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    copied = {
        name: (kind_mode[1], kind_mode[3])
        for name, kind_mode in described(tmp_path / "target" / "tree").items()
    }
    assert copied == {
        "secret": (0o000, b"secret"),
        "written": (0o222, b"written"),
        "shut": (0o011, None),
        "shut/inner": (0o777, None),
        "shut/file": (0o044, b"shut/file"),
    }
    source = described(tmp_path / "source" / "tree")
    assert (source["secret"][1], source["shut/file"][1]) == (0o000, 0o044)


# ---------------------------------------------------------------- bounds


def test_too_many(trees: Trees, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree past the bound is refused whole, never copied in part without a word."""
    monkeypatch.setattr(module, "MAX_ENTRIES", 20)
    for number in range(20):
        (trees.source / f"{number}").touch()
    trees.copy()
    (trees.source / "one more").touch()
    trees.clear_target()
    with pytest.raises(TooLarge, match="20"):
        trees.copy()


def test_too_deep(trees: Trees) -> None:
    """Directories deeper than the longest path are refused, too."""
    here = os.open(trees.source, os.O_RDONLY)
    for _ in range(100):
        os.mkdir("d" * 50, dir_fd=here)
        below = os.open("d" * 50, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(TooLarge, match="deep"):
        trees.copy()


@pytest.mark.parametrize("after", [0, 5, 15])
def test_cancelled(trees: Trees, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Nobody wants it any more: it ends between two files, and inside a large one."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 65536)
    for number in range(10):
        (trees.source / f"{number}").touch()
    (trees.source / "large").write_bytes(bytes(MIB))
    answers = iter([False] * after)
    with pytest.raises(CopyCancelled):
        trees.copy(lambda: next(answers, True))


def test_no_tree(trees: Trees) -> None:
    """Code removed the directory, or put something else in its place: nothing is copied."""
    trees.source.rmdir()
    trees.copy()
    trees.source.symlink_to("/etc")
    trees.copy()
    trees.source.unlink()
    trees.source.write_text("a file")
    trees.copy()
    assert os.listdir(trees.target) == []  # noqa: PTH208


# ---------------------------------------------------------------- races


RACE = """
import os, sys, random
os.chdir(sys.argv[1])
outside = sys.argv[2]
print("racing", flush=True)
while True:
    n = random.randrange(20)
    try:
        os.rename(f"d{n}", "away")
        os.symlink(outside, f"d{n}")
        os.unlink(f"d{n}")
        os.rename("away", f"d{n}")
        os.unlink(f"d{n}/file")
        os.symlink(outside + "/secret", f"d{n}/file")
        os.unlink(f"d{n}/file")
        os.mkfifo(f"d{n}/file")
        os.unlink(f"d{n}/file")
        with open(f"d{n}/file", "w") as file:
            file.write("mine" * random.randrange(5000))
            file.truncate(random.randrange(20000))
    except FileExistsError:
        pass
"""


@pytest.fixture
def race(trees: Trees, tmp_path: Path) -> Iterator[Path]:
    """Code that exchanges files and directories for links and pipes, as fast as it can."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (outside / "file").write_text("secret")
    for number in range(20):
        (trees.source / f"d{number}").mkdir()
        (trees.source / f"d{number}" / "file").write_text("mine")
        (trees.source / f"d{number}" / "still").write_text(f"still {number}")
    command = [sys.executable, "-c", RACE, str(trees.source), str(outside)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield outside
        assert process.poll() is None
        process.kill()


def test_races(trees: Trees, race: Path) -> None:
    """A copy of a tree that changes all the time ends, and holds nothing from outside."""
    for _ in range(25):
        trees.copy()
        for path, (kind, _, _, content) in described(trees.target).items():
            assert kind in (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK)
            assert content is None or b"secret" not in os.fsencode(content) or kind == stat.S_IFLNK
            if path.endswith("still"):
                assert isinstance(content, bytes)
                assert content.startswith(b"still ")
        trees.clear_target()


def test_files_that_grow(trees: Trees) -> None:
    """A file that code writes without an end is copied to the length that it had."""
    stop = threading.Event()
    path = trees.source / "growing"
    path.write_bytes(b"x" * MIB)

    def write() -> None:
        with path.open("ab") as file:
            while not stop.is_set():
                file.write(b"y" * 65536)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        trees.copy()
    finally:
        stop.set()
        writer.join()
    copied = (trees.target / "growing").read_bytes()
    assert copied == path.read_bytes()[: len(copied)]
    assert len(copied) >= MIB


def test_a_file_that_code_keeps_for_itself(trees: Trees) -> None:
    """A lease on a file is told as a conflict; the copy neither waits for it nor leaves it out."""
    (trees.source / "leased").write_text("x")
    with (trees.source / "leased").open("r+") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        before = signal.signal(signal.SIGIO, signal.SIG_IGN)
        try:
            with pytest.raises(Conflict, match="for itself"):
                trees.copy()
        finally:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            signal.signal(signal.SIGIO, before)
