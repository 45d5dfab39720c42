"""Isolated sandboxes: what they see, who owns their files, and that nothing is left of them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from era_kernels.errors import KernelStartFailed, StartError, WeakTier3Refused
from era_kernels.models import JsonObject, Limits, SessionPaths
from era_kernels.sandbox.init import isolation
from era_kernels.sandbox.linux.syscalls import CAP_DAC_READ_SEARCH
from era_kernels.sandbox.server import cgroups, session_disk
from era_kernels.sandbox.server.process_spec import ProcessSpec
from era_kernels.sandbox.server.sandboxes import Sandboxes
from era_kernels.sandbox.server.tiers import IsolationPolicy, candidate_profiles
from era_kernels.sandbox.server.zygote_client import ZygoteClient
from tests.conftest import loop
from tests.sandbox.sandboxes import (
    ENV,
    ORDINARY_UID,
    descendants,
    forked_program,
    run_to_end,
    shell_command,
    short_directory,
    spawn_stubborn,
)
from tests.sandbox.tiers import MIB, Isolated, isolated_sandboxes
from tests.waiting import wait_until

CLEANUP_SECONDS = 2.0  # seconds in which nothing may be left


io_loop = pytest.fixture(loop, scope="module")


def list_mounts() -> set[str]:
    """Returns the mounts of the host, a line each, without the fields that change."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {" ".join(line.split()[:5]) for line in lines}


@pytest.mark.parametrize("tier", [1, 2, 3])
async def test_hidden_below_readable(tier: int) -> None:
    """What is hidden cannot be read, though it lies in an installation that sessions may read."""
    async with isolated_sandboxes(tier, shows_installation=True) as (sandboxes, make_paths):
        installation = make_paths("a").workspace.parents[1] / "local"
        (installation / "share" / "link").symlink_to(installation / "share" / "data")
        sandbox = await sandboxes.open_sandbox(make_paths("a"), Limits())
        read = "; ".join(
            f"cat {installation}/{name}"
            for name in ("bin/tool", "share/other/text", "share/data/secret", "share/link/secret")
        )
        _, out, err = await run_to_end(sandbox, shell_command(read))
        assert (out, err.count("ermission denied") + err.count("No such file")) == ("tooltext", 2)


@pytest.mark.parametrize("isolated", [1, 2], indirect=True)
async def test_where_code_is(isolated: Isolated) -> None:
    """The workspace is /home/user, and nothing of the host's directories is visible."""
    paths = isolated.new_paths()
    sandbox = await isolated.sandboxes.open_sandbox(paths, Limits())
    text = "pwd; echo x > file; ls -d /home/* /boot /srv /etc/shadow /sys 2>/dev/null; hostname"
    ending, out, _ = await run_to_end(sandbox, shell_command(text, cwd="/home/user"))
    assert (out.splitlines(), ending.code) == (["/home/user", "/home/user", "sandbox"], 0)
    assert (paths.workspace / "file").read_text() == "x\n"


@pytest.mark.parametrize("isolated", [1, 3], indirect=True)
@pytest.mark.parametrize("part", ["workspace", "packages", "cache"])
async def test_directory_that_holds_the_server(isolated: Isolated, part: str) -> None:
    """A session is refused a directory in which the server keeps its own: it would own all."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    paths = isolated.new_paths()
    base = paths.workspace.parents[1]
    for directory in (base, base / "local" / "share", paths.workspace.parent / ".."):
        with pytest.raises(KernelStartFailed, match="cannot be used"):
            await isolated.sandboxes.open_sandbox(
                dataclasses.replace(paths, **{part: directory}), Limits()
            )
    assert (base.stat().st_uid, (base / "local").stat().st_uid) == (0, 0)
    await isolated.sandboxes.open_sandbox(paths, Limits())


@pytest.mark.parametrize("isolated", [1], indirect=True)
async def test_uid_of_its_own(isolated: Isolated) -> None:
    """As root each session has a uid, which owns its files and keeps them for its next kernel."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    paths = isolated.new_paths()
    (paths.workspace / "uploaded").write_text("by the server")
    first = await isolated.sandboxes.open_sandbox(paths, Limits())
    other = await isolated.open()
    text = "id -u; echo more >> uploaded; mkdir -p d/e"
    ending, out, err = await run_to_end(first, shell_command(text, cwd="/home/user"))
    assert (ending.code, err) == (0, "")
    _, another, _ = await run_to_end(other, shell_command("id -u"))
    uid = int(out)
    assert uid not in (0, int(another))
    assert {path.stat().st_uid for path in paths.workspace.rglob("*")} == {uid}
    await first.aclose()
    again = await isolated.sandboxes.open_sandbox(paths, Limits())
    assert (await run_to_end(again, shell_command("id -u")))[1] == out


@pytest.mark.parametrize("isolated", [1, 2], indirect=True)
async def test_init_is_forked_alone(isolated: Isolated) -> None:
    """It is the zygote's child, has no child, and the zygote's next ones are outside again."""
    sandbox = await isolated.open()
    zygote = Path(f"/proc/{isolated.sandboxes.zygote.pid}")
    init = Path(f"/proc/{sandbox.pid}")
    assert str(sandbox.pid) in (zygote / f"task/{zygote.name}/children").read_text().split()
    assert (init / f"task/{init.name}/children").read_text() == ""
    assert (init / "ns/pid").readlink() != (zygote / "ns/pid").readlink()
    assert (zygote / "ns/pid_for_children").readlink() == (zygote / "ns/pid").readlink()


@pytest.mark.parametrize("isolated", [1], indirect=True)
async def test_loopback_of_its_own(isolated: Isolated) -> None:
    """A session talks to itself over TCP, and there is no other interface."""
    sandbox = await isolated.open()
    code = (
        "import socket; s = socket.create_server(('127.0.0.1', 10000));"
        "c = socket.create_connection(s.getsockname()); print('connected')"
    )
    _, out, err = await run_to_end(sandbox, forked_program(code))
    assert (out, err) == ("connected\n", "")


async def test_memory_of_all(isolated: Isolated) -> None:
    """What the processes take together ends the session, and the end has the cause."""
    sandbox = await isolated.open(Limits(memory=64 * MIB))
    code = "import os, time\nfor _ in range(4): os.fork()\ndata = b'x' * (30 << 20); time.sleep(60)"
    ending, _, _ = await run_to_end(sandbox, forked_program(code))
    assert (ending.reason, ending.exit_code) == ("out of memory at 64 MB", 137)


RESERVE = """
import mmap
try: mmap.mmap(-1, 512 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
except OSError as error: print(error.errno)
else: print('reserved')
"""


async def test_memory_that_is_only_reserved(isolated: Isolated) -> None:
    """It counts hardly where a control group counts what is used; past all sense it is refused."""
    sandbox = await isolated.open(Limits(memory=64 * MIB))
    is_counted = "memory" not in isolated.sandboxes.profile.cgroup_limits
    _, out, _ = await run_to_end(sandbox, forked_program(RESERVE))
    assert out == ("12\n" if is_counted else "reserved\n")
    code = "try: bytearray(20 << 30)\nexcept MemoryError: print('refused')"
    assert (await run_to_end(sandbox, forked_program(code)))[1] == "refused\n"
    assert sandbox.is_running


async def test_sessions_end_before_the_server(isolated: Isolated) -> None:
    """Where the host itself has no memory left, Linux ends code and inits first."""
    sandbox = await isolated.open()
    process = await sandbox.spawn(shell_command("sleep 60"))

    def score(pid: int | None) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    assert process.is_running
    of_session = [sandbox.pid, *descendants(sandbox.pid or 0)]
    assert len(of_session) > 1
    assert {score(pid) for pid in of_session} == {isolation.OOM_SCORE}
    assert score(os.getpid()) < isolation.OOM_SCORE


@pytest.mark.parametrize("tier", [1, 2, 3])
async def test_memory_of_one_without_groups(tier: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process that takes too much gets an error, and what it makes of that is its end."""
    monkeypatch.setattr(cgroups, "find_controllers", list)
    async with isolated_sandboxes(tier) as (sandboxes, make_paths):
        sandbox = await sandboxes.open_sandbox(make_paths("a"), Limits(memory=64 * MIB))
        assert (await run_to_end(sandbox, forked_program(RESERVE)))[1] == "12\n"
        code = "try: bytearray(100 << 20)\nexcept MemoryError: {}"
        for reaction, expected in (
            ("raise", "exit 1"),
            ("import os; os.abort()", "signal 6 (SIGABRT)"),  # as libraries in Rust and C++ do
            ("import ctypes; ctypes.string_at(0)", "signal 11 (SIGSEGV)"),
        ):
            ending, _, err = await run_to_end(sandbox, forked_program(code.format(reaction)))
            assert ending.description == expected, err
        assert sandbox.is_running


@pytest.mark.parametrize("isolated", [1], indirect=True)
async def test_workspace_quota(isolated: Isolated) -> None:
    """Files that take more than the workspace may hold end the session."""
    sandbox = await isolated.open(Limits(workspace=4 * MIB))
    text = "head -c 8388608 /dev/zero > large; sleep 60"
    ending, _, _ = await run_to_end(sandbox, shell_command(text, cwd="/home/user"))
    assert ending.reason == "workspace larger than 4 MB"


@pytest.mark.parametrize("where", ["packages", "cache", "runtime"])
async def test_quota_beside_the_workspace(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds wherever else code may write on the disk."""
    monkeypatch.setattr(session_disk, "MIN_OTHER_WRITABLE", 4 * MIB)
    async with isolated_sandboxes() as (sandboxes, make_paths):
        sandbox = await sandboxes.open_sandbox(make_paths("a"), Limits(workspace=4 * MIB))
        folder = (
            sandbox.inner_runtime_directory
            if where == "runtime"
            else getattr(sandbox.inner_paths, where)
        )
        text = f"head -c 8388608 /dev/zero > {folder}/large; sleep 60"
        ending, _, _ = await run_to_end(sandbox, shell_command(text, cwd="/home/user"))
        assert ending.reason == "files beside the workspace larger than 4 MB"


@pytest.mark.parametrize("isolated", [1], indirect=True)
@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
async def test_empty_files_in_memory(isolated: Isolated, folder: str) -> None:
    """They take memory of the system, so there are no more than the size makes likely."""
    sandbox = await isolated.open(Limits(tmp=8 * MIB, shm=8 * MIB))
    code = (
        "import itertools, os\n"
        "try:\n"
        f"    for n in itertools.count(): open(f'{folder}/{{n}}', 'x').close()\n"
        "except OSError as error: print(error.errno, 1000 < n < 2048)"
    )
    assert (await run_to_end(sandbox, forked_program(code)))[1] == "28 True\n"


@pytest.mark.alone  # it looks at the host's mounts, and measures
@pytest.mark.parametrize("tier", [1, 2, 3])
async def test_clean_end(tier: int) -> None:
    """Closed: daemons that ignore signals are gone, so are directory and mounts."""
    async with isolated_sandboxes(tier) as (sandboxes, make_paths):
        before = list_mounts()
        sandbox = await sandboxes.open_sandbox(make_paths("a"), Limits())
        await spawn_stubborn(sandbox)
        family = descendants(sandboxes.zygote.pid)
        assert len(family) >= 5
        began = time.monotonic()
        await sandbox.aclose()
        assert time.monotonic() - began < CLEANUP_SECONDS
        assert descendants(sandboxes.zygote.pid) == []
        assert not sandbox.runtime_directory.exists()
        assert list_mounts() <= before  # others may have gone meanwhile


@pytest.mark.parametrize("tier", [1, 2, 3])
async def test_init_killed(tier: int) -> None:
    """An init that is killed takes everything along."""
    async with isolated_sandboxes(tier) as (sandboxes, make_paths):
        sandbox = await sandboxes.open_sandbox(make_paths("a"), Limits())
        await spawn_stubborn(sandbox)
        assert sandbox.pid is not None
        os.kill(sandbox.pid, signal.SIGKILL)
        ending = await asyncio.wait_for(sandbox.ended, CLEANUP_SECONDS)
        assert ending.exit_code == 137
        assert wait_until(lambda: descendants(sandboxes.zygote.pid) == [], CLEANUP_SECONDS)
        await sandbox.aclose()
        assert not sandbox.runtime_directory.exists()


@pytest.mark.parametrize("tier", [1, 2, 3])
async def test_zygote_killed(tier: int) -> None:
    """Without the zygote nothing lasts longer than the server holds it."""
    async with isolated_sandboxes(tier) as (sandboxes, make_paths):
        sandbox = await sandboxes.open_sandbox(make_paths("a"), Limits())
        await spawn_stubborn(sandbox)
        assert sandbox.pid is not None
        pid = sandbox.pid
        os.kill(sandboxes.zygote.pid, signal.SIGKILL)
        await sandbox.aclose()
        assert wait_until(lambda: not Path(f"/proc/{pid}/fd").exists(), CLEANUP_SECONDS)


async def test_many_at_once() -> None:
    """Twenty are opened and closed side by side; nothing is mixed up or left."""
    async with isolated_sandboxes() as (sandboxes, make_paths):
        places = [make_paths(str(number)) for number in range(20)]
        opened = await asyncio.gather(*(sandboxes.open_sandbox(p, Limits()) for p in places))
        assert len({sandbox.pid for sandbox in opened}) == 20
        await asyncio.gather(*(sandbox.aclose() for sandbox in opened))
        assert descendants(sandboxes.zygote.pid) == []


@pytest.mark.parametrize("tier", [1, 2, 3])
async def test_opened_when_the_pid_is_known(tier: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The zygote tells the pid, and the init that it is ready; either may come first."""
    on_message = ZygoteClient._on_message

    def tell_late(zygote: ZygoteClient, message: JsonObject) -> None:
        delay = 0.2 if "init" in message else 0
        asyncio.get_running_loop().call_later(delay, on_message, zygote, message)

    monkeypatch.setattr(ZygoteClient, "_on_message", tell_late)
    async with isolated_sandboxes(tier) as (sandboxes, make_paths):
        sandbox = await sandboxes.open_sandbox(make_paths("a"), Limits())
        assert sandbox.pid is not None


async def test_isolation_that_fails() -> None:
    """When isolation fails, nothing is started, and the error has the reason."""
    async with isolated_sandboxes() as (sandboxes, make_paths):
        paths = make_paths("a")
        paths.cache.rmdir()
        with pytest.raises(KernelStartFailed):
            await sandboxes.open_sandbox(paths, Limits())
        assert wait_until(lambda: descendants(sandboxes.zygote.pid) == [], CLEANUP_SECONDS)


async def test_no_tier_available() -> None:
    """A wish that nothing fulfils says what to do; one that includes tier 4 is content."""
    with short_directory() as base:
        with pytest.raises(StartError, match="--allow-unsandboxed"):
            await Sandboxes.open(
                base / "r", (), (), IsolationPolicy(strongest_tier=4, weakest_tier=3)
            )
        sandboxes = await Sandboxes.open(
            base / "r", (), (), IsolationPolicy(strongest_tier=4, weakest_tier=4)
        )
        assert sandboxes.isolation.tier == 4
        await sandboxes.aclose()


@pytest.mark.parametrize(
    ("weakest", "allowed", "is_opened"), [(3, False, False), (3, True, True), (4, False, True)]
)
async def test_one_uid_must_be_asked_for(
    weakest: int, allowed: bool, is_opened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tier 3 with one uid for all is refused with what to say, unless it or less was accepted."""
    monkeypatch.setattr(os, "geteuid", lambda: ORDINARY_UID)
    with short_directory() as base:
        policy = IsolationPolicy(3, weakest, allowed, hidden_paths=(base / "data",))
        if not is_opened:
            with pytest.raises(WeakTier3Refused, match="--min-tier 3"):
                await Sandboxes.open(base / "r", (), (), policy)
            return
        sandboxes = await Sandboxes.open(base / "r", (), (), policy)
        await sandboxes.aclose()
        assert sandboxes.profile.shares_uid
        missing = "\n".join(sandboxes.isolation.missing)
        assert "keep them from starting" in missing
        assert "all sessions have the server's uid" in missing


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("weakest", [3, 4])
def test_roots_uid_is_for_those_who_need_no_walls(weakest: int) -> None:
    """Code with root's uid may change the modes of what root owns: it is offered above tier 4."""
    profiles = list(candidate_profiles(IsolationPolicy(3, weakest, allow_weak_tier3=True)))
    assert [one.shares_uid for one in profiles] == [False, False] + [True] * (weakest == 4)
    assert [one.spec.reads_past_modes for one in profiles][:2] == [False, True]


# Tries what root's uid or more than one capability would allow.
PRIVATE = """
import contextlib, json, os, socket
kinds = ("CapEff", "CapAmb")
held = [line.split()[1] for line in open("/proc/self/status") if line.startswith(kinds)]
done = []
for name, attempt in {
    "chmod": lambda: os.chmod(DIRECTORY, 0o777),
    "utime": lambda: os.utime(DIRECTORY),
    "chown": lambda: os.chown(DIRECTORY, os.getuid(), -1),
    "setxattr": lambda: os.setxattr(DIRECTORY, "user.a", b"b"),
    "list": lambda: os.listdir(DIRECTORY),
    "read": lambda: open(f"{DIRECTORY}/file").read(),
    "connect": lambda: socket.socket(socket.AF_UNIX).connect(f"{DIRECTORY}/socket"),
    "root": lambda: os.setuid(0),
    "see": lambda: os.stat(f"{DIRECTORY}/file"),
}.items():
    with contextlib.suppress(OSError):
        attempt()
        done.append(name)
child = os.popen("grep CapEff /proc/self/status").read().split()[1]
print(json.dumps([os.getuid(), *held, child, done]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_private_place_as_root() -> None:
    """Where only root may go, sessions have uids of their own, and nothing more than to look."""
    with short_directory() as base, socket.socket(socket.AF_UNIX) as listener:
        data = base / "data"
        data.mkdir(0o700)
        (data / "file").write_text("the server's")
        listener.bind(str(data / "socket"))
        (data / "socket").chmod(0o600)
        listener.listen()
        policy = IsolationPolicy(3, 3, hidden_paths=(data,))
        with pytest.raises(WeakTier3Refused, match="CAP_DAC_READ_SEARCH"):
            await Sandboxes.open(base / "r", (), (), policy)
        policy = dataclasses.replace(policy, allow_weak_tier3=True)
        sandboxes = await Sandboxes.open(base / "r", (), (), policy)
        try:
            assert "code has CAP_DAC_READ_SEARCH" in "\n".join(sandboxes.isolation.missing)
            seen = []
            for name in ("a", "b"):
                paths = SessionPaths(*(base / name / part for part in ("w", "p", "c")))
                for part in (paths.workspace, paths.packages, paths.cache):
                    part.mkdir(parents=True)
                sandbox = await sandboxes.open_sandbox(paths, Limits())
                code = f"DIRECTORY = {str(data)!r}\n{PRIVATE}"
                command = ProcessSpec(
                    argv=(sys.executable, "-c", code), env=ENV, cwd=str(paths.workspace)
                )
                _, out, err = await run_to_end(sandbox, command)
                assert not err
                seen.append(json.loads(out))
        finally:
            await sandboxes.aclose()
        one = f"{1 << CAP_DAC_READ_SEARCH:016x}"
        uids = {uid for uid, *_ in seen}
        assert len(uids) == 2 and 0 not in uids
        assert [rest for _, *rest in seen] == [[one, one, one, ["see"]]] * 2
