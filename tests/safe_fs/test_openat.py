"""Opening beneath a directory: nothing leads out, nothing but regular files is opened."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from era_kernels.safe_fs.openat import open_beneath, open_directory, open_regular
from tests.storage.stores import ROOT, small_disk


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A directory with a secret beside it, and a descriptor of it."""
    (tmp_path / "secret").write_text("secret")
    path = tmp_path / "inside"
    (path / "sub").mkdir(parents=True)
    (path / "file").write_text("mine")
    (path / "sub" / "deep").write_text("deep")
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY)
    yield descriptor, path
    os.close(descriptor)


@pytest.mark.parametrize("path", ["file", "sub/deep", "sub/../file", "./sub/./deep"])
def test_what_lies_beneath_is_opened(folder: tuple[int, Path], path: str) -> None:
    """Files below the directory are opened, not inherited by children."""
    descriptor = open_regular(folder[0], path)
    assert os.read(descriptor, 10) in (b"mine", b"deep")
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize(
    "path",
    ["../secret", "sub/../../secret", "/etc/passwd", "up", "up-dir/secret", "absolute", "magic/x"],
)
def test_nothing_leads_out(folder: tuple[int, Path], path: str, links: bool) -> None:
    """Neither dots, absolute paths, links of all kinds nor magic links reach what is outside."""
    descriptor, place = folder
    (place / "up").symlink_to("../secret")
    (place / "up-dir").symlink_to("..")
    (place / "absolute").symlink_to(place.parent / "secret")
    (place / "magic").symlink_to("/proc/self/root")
    with pytest.raises(OSError) as caught:
        open_beneath(descriptor, path, os.O_RDONLY, follow_symlinks=links)
    assert caught.value.errno in (errno.EXDEV, errno.ELOOP)


def test_links_that_stay_below(folder: tuple[int, Path]) -> None:
    """A link is followed where that is wanted, and only then."""
    descriptor, place = folder
    (place / "link").symlink_to("sub/deep")
    opened = open_beneath(descriptor, "link", os.O_RDONLY, follow_symlinks=True)
    assert os.read(opened, 10) == b"deep"
    os.close(opened)
    with pytest.raises(OSError, match="link"):
        open_beneath(descriptor, "link", os.O_RDONLY)


def test_only_regular_files(folder: tuple[int, Path]) -> None:
    """FIFOs, sockets, devices, links and directories are refused at once, none is opened."""
    descriptor, place = folder
    os.mkfifo(place / "fifo")
    (place / "link").symlink_to("file")
    with socket.socket(socket.AF_UNIX) as end:
        os.chdir(place)
        end.bind("socket")
        os.chdir(ROOT)
        names = ["fifo", "socket", "sub", "link", "missing"]
        if os.geteuid() == 0:
            os.mknod(place / "null", 0o20666, os.makedev(1, 3))
            names.append("null")
        for name in names:
            with pytest.raises(OSError, match=name):
                open_regular(descriptor, name)


def test_a_leased_file_does_not_block(folder: tuple[int, Path]) -> None:
    """A program that holds a lease on its file cannot keep an opening waiting."""
    descriptor, place = folder
    hold = (
        "import fcntl, signal, sys; f = open('file', 'r+'); signal.signal(signal.SIGIO, print); "
        "fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK); print('held', flush=True); "
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError):
            open_regular(descriptor, "file")
        holder.kill()


def test_names_of_any_bytes(folder: tuple[int, Path]) -> None:
    """A name that is no UTF-8 is opened like any other."""
    descriptor, place = folder
    name = os.fsdecode(b"\xff\xfe")
    (place / name).write_text("odd")
    opened = open_regular(descriptor, name)
    assert os.read(opened, 10) == b"odd"
    os.close(opened)


SHUT_OUT = """
import os, sys
from era_kernels.safe_fs.openat import open_directory
root = os.open(sys.argv[1], os.O_PATH | os.O_DIRECTORY)
os.setuid(65534)
for name in ("shut", "link"):
    try:
        print(os.listdir(open_directory(root, name)))
    except OSError as error:
        print(type(error).__name__)
"""


def test_owners_are_granted_access(tmp_path: Path) -> None:
    """For a server that is not root, mode 000 is undone, but never through a link."""
    (tmp_path / "shut").mkdir()
    (tmp_path / "other").mkdir(mode=0)
    (tmp_path / "shut" / "inside").write_text("")
    (tmp_path / "link").symlink_to("other")
    (tmp_path / "shut").chmod(0)
    if os.geteuid() != 0:
        pytest.skip("needs root to act as another user")
    for path in (tmp_path, tmp_path / "shut", tmp_path / "other"):
        os.chown(path, 65534, 65534)
    tmp_path.chmod(0o755)
    result = subprocess.run(
        [sys.executable, "-c", SHUT_OUT, str(tmp_path)],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert result.stdout.splitlines() == ["['inside']", "NotADirectoryError"]
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0


def test_a_directory_is_not_a_file(folder: tuple[int, Path]) -> None:
    """open_directory opens directories only."""
    opened = open_directory(folder[0], "sub")
    assert os.listdir(opened) == ["deep"]  # noqa: PTH208 - a descriptor, no path
    os.close(opened)
    with pytest.raises(NotADirectoryError):
        open_directory(folder[0], "file")


def test_regular_files_through_links(folder: tuple[int, Path]) -> None:
    """Where links are wanted, one that stays below is followed, and only to a regular file."""
    descriptor, place = folder
    os.mkfifo(place / "fifo")
    for name, target in {
        "in": "sub/deep", "down": "sub/../sub/deep", "fifo-link": "fifo", "dir-link": "sub",
        "out": "../secret", "null": "/dev/null", "magic": "/proc/self/exe", "loop": "loop",
    }.items():  # fmt: skip
        (place / name).symlink_to(target)
    for name in ("in", "down"):
        opened = open_regular(descriptor, name, follow_symlinks=True)
        assert os.read(opened, 10) == b"deep"
        os.close(opened)
    for name in ("fifo", "fifo-link", "dir-link", "out", "null", "magic", "loop"):
        with pytest.raises(OSError, match=name):
            open_regular(descriptor, name, follow_symlinks=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
@pytest.mark.parametrize("links", [True, False])
def test_mounts_are_not_entered(folder: tuple[int, Path], links: bool) -> None:
    """What somebody mounted below, and may answer when he likes, is outside."""
    descriptor, place = folder
    with small_disk(place) as disk:
        (disk / "f").write_text("mounted")
        for path in ("disk", "disk/f"):
            with pytest.raises(OSError) as caught:
                open_beneath(descriptor, path, os.O_RDONLY, follow_symlinks=links)
            assert caught.value.errno == errno.EXDEV
