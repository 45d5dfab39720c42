"""Directories of the operator inside sessions: readable, never written, for those that asked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from era_kernels.errors import KernelStartFailed
from era_kernels.models import Limits, SessionPaths
from era_kernels.sandbox.server.sandbox import Sandbox
from tests.conftest import loop
from tests.sandbox.sandboxes import run_to_end, shell_command
from tests.sandbox.tiers import Isolated

NAMESPACES = pytest.mark.parametrize("isolated", [1, 2], indirect=True)
TIER_1 = pytest.mark.parametrize("isolated", [1], indirect=True)

io_loop = pytest.fixture(loop, scope="module")


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A directory that everybody may read and write, on the host."""
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "file").write_text("rows")
    (directory / "file").chmod(0o666)
    for path in (directory, *list(directory.parents)[:3]):  # pytest's own are private
        path.chmod(0o777)
    yield directory


def with_mounts(paths: SessionPaths, **directories: Path) -> SessionPaths:
    return replace(paths, mounts=tuple(directories.items()))


async def shell_output(sandbox: Sandbox, text: str) -> str:
    """What a shell inside says, on stderr too."""
    _, out, err = await run_to_end(sandbox, shell_command(text, cwd="/home/user"))
    return out + err


async def opened(isolated: Isolated, paths: SessionPaths) -> Sandbox:
    return await isolated.sandboxes.open_sandbox(paths, Limits())


@contextmanager
def mounted(directory: Path) -> Iterator[None]:
    """A file system of its own on the host."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    directory.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "none", str(directory)], check=False)
    if done.returncode:
        pytest.skip("this host lets nobody mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@NAMESPACES
async def test_read_only(isolated: Isolated, data: Path) -> None:
    """Files are there to be read, whatever their modes allow beyond that."""
    sandbox = await opened(isolated, with_mounts(isolated.new_paths(), data=data))
    assert await shell_output(sandbox, "ls /mnt; cat /mnt/data/file") == "data\nrows"
    for attempt in ("echo x >> file", "touch new", "rm file", "chmod 600 file", "mkdir d"):
        assert "Read-only file system" in await shell_output(sandbox, f"cd /mnt/data; {attempt}")
    assert "Read-only" in await shell_output(sandbox, "touch /mnt/new")
    options = await shell_output(sandbox, "grep ' /mnt/data ' /proc/self/mountinfo")
    assert {"ro", "nosuid", "nodev"} <= set(options.split()[5].split(","))
    assert sorted(path.name for path in data.iterdir()) == ["file"]
    assert (data / "file").read_text() == "rows"


@NAMESPACES
async def test_only_for_those_that_asked(isolated: Isolated, data: Path, tmp_path: Path) -> None:
    """Another session, and another mount, see nothing of it."""
    (tmp_path / "more").mkdir(mode=0o755)
    mine = with_mounts(isolated.new_paths(), data=data, more=tmp_path / "more")
    asked = await opened(isolated, mine)
    other = await opened(isolated, isolated.new_paths())
    assert await shell_output(asked, "ls /mnt") == "data\nmore\n"
    assert "No such file" in await shell_output(other, "ls /mnt")
    assert "No such file" in await shell_output(other, f"ls {data}")


@NAMESPACES
async def test_links_lead_nowhere(isolated: Isolated, data: Path, tmp_path: Path) -> None:
    """A link in the directory shows nothing of the host; one of the session's own stays inside."""
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    (data / "absolute").symlink_to(secret)
    (data / "relative").symlink_to("../secret")
    sandbox = await opened(isolated, with_mounts(isolated.new_paths(), data=data))
    for name in ("absolute", "relative"):
        assert "No such file" in await shell_output(sandbox, f"cat /mnt/data/{name}")
    assert "cross-device" in await shell_output(sandbox, "ln /mnt/data/file own")
    assert "Read-only" in await shell_output(sandbox, "ln -s /mnt/data d; touch d/new")


@NAMESPACES
async def test_what_is_mounted_below(isolated: Isolated, data: Path) -> None:
    """File systems below it are read-only as well; those that come later are not seen."""
    with mounted(data / "below"):
        (data / "below" / "deep").write_text("deep")
        (data / "below").chmod(0o777)
        sandbox = await opened(isolated, with_mounts(isolated.new_paths(), data=data))
        assert await shell_output(sandbox, "cat /mnt/data/below/deep") == "deep"
        assert "Read-only" in await shell_output(sandbox, "touch /mnt/data/below/new")
        with mounted(data / "later"):
            (data / "later" / "new").touch()
            assert await shell_output(sandbox, "ls /mnt/data/later") == ""
            assert "Read-only" in await shell_output(sandbox, "touch /mnt/data/later/mine")


@TIER_1
async def test_link_to_the_directory(isolated: Isolated, data: Path, tmp_path: Path) -> None:
    """The operator may switch a link: kernels that start from then on see what it leads to."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("newer rows")
    link = tmp_path / "current"
    link.symlink_to(data)
    mine = with_mounts(isolated.new_paths(), data=link)
    assert await shell_output(await opened(isolated, mine), "cat /mnt/data/file") == "rows"
    link.unlink()
    link.symlink_to(other)
    assert await shell_output(await opened(isolated, mine), "cat /mnt/data/file") == "newer rows"


def taken_away(data: Path, runtime: Path) -> None:
    (data / "file").unlink()
    data.rmdir()


def made_a_file(data: Path, runtime: Path) -> None:
    taken_away(data, runtime)
    data.touch()


def led_to_the_server(data: Path, runtime: Path) -> None:
    taken_away(data, runtime)
    data.symlink_to(runtime)


def led_above_the_server(data: Path, runtime: Path) -> None:
    taken_away(data, runtime)
    data.symlink_to(runtime.parent)


def led_in_a_circle(data: Path, runtime: Path) -> None:
    taken_away(data, runtime)
    data.symlink_to(data)


@TIER_1
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (taken_away, "not there"),
        (made_a_file, "not there"),
        (led_in_a_circle, "not there"),
        (led_to_the_server, "the server's own"),
        (led_above_the_server, "the server's own"),
    ],
)
async def test_gone(
    isolated: Isolated, data: Path, change: Callable[[Path, Path], None], why: str
) -> None:
    """A directory that is not what it was keeps the session from starting, and nothing is left."""
    mine = with_mounts(isolated.new_paths(), data=data)
    first = await opened(isolated, mine)
    await first.aclose()
    runtime = first.runtime_directory.parent
    change(data, runtime)
    before = sorted(runtime.iterdir())
    with pytest.raises(KernelStartFailed, match=why) as caught:
        await opened(isolated, mine)
    assert str(data) not in caught.value.message
    assert sorted(runtime.iterdir()) == before


async def test_enforceable(isolated: Isolated) -> None:
    """Mounts need namespaces."""
    enforceable = isolated.sandboxes.profile.enforceable
    assert ("mounts" in enforceable) is (isolated.tier < 3)
    assert {"memory", "processes", "workspace"} <= enforceable
