"""Control groups: what they limit, how kills are reported, and that no group is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from era_kernels.models import Limits
from era_kernels.sandbox.server.cgroup_hierarchies import Controller, find_controllers
from era_kernels.sandbox.server.cgroup_memory import Shortage
from era_kernels.sandbox.server.cgroups import CgroupTree, SandboxCgroup, remove_stale
from tests.conftest import loop
from tests.sandbox.sandboxes import forked_program, run_to_end
from tests.sandbox.tiers import MIB, Isolated, isolated_sandboxes
from tests.waiting import until, wait_until

BURN = (
    "import time\nend = time.monotonic() + 2\nwhile time.monotonic() < end: pass\n"
    "print(time.process_time())"
)


io_loop = pytest.fixture(loop, scope="module")


@pytest.fixture
def groups() -> Iterator[CgroupTree]:
    """Groups of a server of their own; root of a usual host can make all."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    made = CgroupTree.open()
    try:
        assert made.enforced_limits == {"memory", "processes", "cpu"}, made.problems
        yield made
    finally:
        made.close()


def create_limited(groups: CgroupTree, limits: Limits) -> SandboxCgroup:
    """Groups that are bound at once."""
    group = groups.create_cgroup()
    group.apply_limits(limits)
    return group


def server_directories() -> set[Path]:
    """The directories of all servers, in every hierarchy."""
    found = {one.directory for one in find_controllers()}
    return {directory for group in found for directory in group.glob("era-*")}


def run_in_cgroup(cgroup_procs: list[str], code: str) -> subprocess.Popen[bytes]:
    """A program that joins before it does anything."""
    text = (
        "from era_kernels.sandbox.linux.cgroup import join_cgroups\n"
        f"join_cgroups({cgroup_procs!r})\n{code}"
    )
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)


def test_memory(groups: CgroupTree) -> None:
    """A process that takes more is killed by the kernel, and the group reports it."""
    group = create_limited(groups, Limits(memory=64 * MIB))
    with run_in_cgroup(group.cgroup_procs, "x = bytearray(128 << 20)") as process:
        process.wait(30)
    assert (process.returncode, group.find_shortage()) == (-signal.SIGKILL, Shortage.SESSION)
    group.remove()


def test_memory_left(groups: CgroupTree) -> None:
    """A process within the limit lives, and no kill is reported."""
    group = create_limited(groups, Limits(memory=64 * MIB))
    with run_in_cgroup(group.cgroup_procs, "x = bytearray(16 << 20)") as process:
        process.wait(30)
    assert (process.returncode, group.find_shortage()) == (0, None)
    group.remove()


FILL_SOCKETS = """
import socket
held, sent = [socket.create_server(("127.0.0.1", 0))], 0
while len(held) < 400 and sent < 160 << 20:
    one = socket.create_connection(held[0].getsockname())
    other, _ = held[0].accept()
    one.setblocking(False)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    try:
        while True:
            sent += one.send(bytes(1 << 16))
    except BlockingIOError:
        held += one, other
print(sent)
"""


def test_memory_of_sockets(groups: CgroupTree) -> None:
    """What connections hold of bytes that nobody reads is bounded, too, and kills nothing."""
    group = create_limited(groups, Limits(memory=64 * MIB))
    with run_in_cgroup(group.cgroup_procs, FILL_SOCKETS) as process:
        out, _ = process.communicate(timeout=120)
    if process.returncode == 0:  # version 2 counts it with the rest, and kills
        assert int(out) < 64 * MIB
    group.remove()


def test_processes(groups: CgroupTree) -> None:
    """A fork too many fails."""
    group = create_limited(groups, Limits(processes=5))
    code = (
        "import os, time\nn = 1\n"
        "try:\n    while os.fork(): n += 1\n    time.sleep(2)\n"
        "except OSError as e: print(n, e.errno)"
    )
    with run_in_cgroup(group.cgroup_procs, code) as process:
        out, _ = process.communicate(timeout=30)
    assert out.split() == [b"6", b"11"]  # with the one for the init
    group.remove()


async def test_share_of_processors(isolated: Isolated) -> None:
    """A session that may use a fifth of a processor gets that."""
    assert "cpu" in isolated.sandboxes.profile.enforced_limits
    sandbox = await isolated.open(Limits(cpu=0.2))
    ending, out, err = await run_to_end(sandbox, forked_program(BURN))
    assert ending.code == 0, err
    assert float(out) < 0.4 * 2


async def test_death_is_told(isolated: Isolated) -> None:
    """A kernel that the kernel of the system killed: the cause is there with its end."""
    sandbox = await isolated.open(Limits(memory=64 * MIB))
    # Shared memory is no data of a process, so that no other bound comes first.
    code = (
        "import mmap, sys\nprint('begun', flush=True)\n"
        "m = mmap.mmap(-1, 128 << 20)\nfor i in range(0, 128 << 20, 4096): m[i] = 1"
    )
    process = await sandbox.spawn(forked_program(code))
    await until(lambda: b"begun" in process.stdout.tail())
    ending = await asyncio.wait_for(process.ended, 10)
    assert (ending.description, ending.exit_code) == ("out of memory at 64 MB", 137)
    assert (await asyncio.wait_for(sandbox.ended, 5)).reason == "out of memory at 64 MB"


async def test_death_of_a_child(isolated: Isolated) -> None:
    """When a child of the kernel is killed, the session ends as well: one rule everywhere."""
    sandbox = await isolated.open(Limits(memory=64 * MIB))
    code = (
        "import mmap, os, time\n"
        "if os.fork():\n    time.sleep(60)\n"
        "m = mmap.mmap(-1, 128 << 20)\nfor i in range(0, 128 << 20, 4096): m[i] = 1"
    )
    ending, _, _ = await run_to_end(sandbox, forked_program(code))
    assert ending.description == "out of memory at 64 MB"


async def test_nothing_of_them_inside(isolated: Isolated) -> None:
    """Code sees no files of groups, and what /proc tells names no group of the host."""
    sandbox = await isolated.open(Limits(processes=50))
    code = (
        "import os\n"
        "try: print(os.listdir('/sys/fs/cgroup'))\nexcept OSError as e: print('closed')\n"
        "print(open('/proc/self/cgroup').read())"
    )
    _, out, err = await run_to_end(sandbox, forked_program(code))
    assert out.startswith("closed"), err
    assert isolated.tier == 3 or "era-" not in out


async def test_all_are_members(isolated: Isolated) -> None:
    """The init and all that it starts are in the group, and it is gone with them."""
    sandbox = await isolated.open(Limits(processes=50))
    process = await sandbox.spawn(forked_program("import os, time; os.fork(); time.sleep(60)"))
    assert process.is_running
    groups = [Path(procs).parent for procs in sandbox._prepared_init.cgroup_procs]
    assert len({*groups}) == 3
    for group in groups:
        members = (group / "cgroup.procs").read_text
        assert wait_until(lambda members=members: len(members().split()) == 3)
        assert str(sandbox.pid) in members().split()
    await sandbox.aclose()
    assert [group for group in groups if group.exists()] == []
    assert server_directories().issuperset(group.parent for group in groups)


@pytest.mark.parametrize("tier", [1, 2, 3])
async def test_nothing_is_left_of_a_server(tier: int) -> None:
    """With the server its own directory is gone, too."""
    async with isolated_sandboxes(tier) as (sandboxes, _):
        directories = [Path(one) for one in sandboxes._init_pool.cgroups.directories]
        assert directories and server_directories().issuperset(directories)
    assert [directory for directory in directories if directory.exists()] == []


def test_stale_ones(groups: CgroupTree) -> None:
    """Groups of a server that was killed are removed by the next; those of the living stay."""
    text = (
        "from era_kernels.models import Limits\n"
        "from era_kernels.sandbox.server.cgroups import CgroupTree\n"
        "tree = CgroupTree.open(); tree.create_cgroup()\n"
        "print(*tree.directories, flush=True); input()"
    )
    command = [sys.executable, "-c", text]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        directories = [Path(directory) for directory in other.stdout.readline().split()]
        kept = create_limited(groups, Limits())
        CgroupTree.open().close()
        assert server_directories().issuperset(directories)
        other.kill()
    CgroupTree.open().close()
    assert [directory for directory in directories if directory.exists()] == []
    assert all(directory.exists() for directory in kept.directories)
    kept.remove()


@pytest.mark.parametrize("who", ["server", "both"])
def test_server_killed(who: str) -> None:
    """The zygote removes the groups of a server that was killed; the next server, if it cannot."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    text = (
        "import asyncio\nfrom pathlib import Path\nfrom era_kernels.models import Limits\n"
        "from tests.sandbox.tiers import isolated_sandboxes\n"
        "async def main():\n"
        "    async with isolated_sandboxes() as (sandboxes, make_paths):\n"
        "        await sandboxes.open_sandbox(make_paths('a'), Limits())\n"
        "        directories = sandboxes._init_pool.cgroups.directories\n"
        "        print(sandboxes.zygote.pid, *directories, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        zygote, *directories = one.stdout.readline().split()
        if who == "both":
            os.kill(int(zygote), signal.SIGSTOP)
        one.kill()
        if who == "both":
            os.kill(int(zygote), signal.SIGKILL)
    if who == "both":
        time.sleep(0.5)  # for what was in the groups to die
        CgroupTree.open().close()
    assert wait_until(lambda: not any(Path(directory).exists() for directory in directories))


def test_who_may_not() -> None:
    """For an ordinary user the reasons are noted, and nothing is made."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setuid(12345)
            groups = CgroupTree.open()
            status = int(bool(groups.enforced_limits or groups.directories or not groups.problems))
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_remove_stale_spares_others(tmp_path: Path) -> None:
    """Only directories with our prefix are touched, and only those without a lock."""
    for name in ("era-0", "other"):
        (tmp_path / name / "1").mkdir(parents=True)
    remove_stale(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_files_of_both_versions() -> None:
    """What is written for the same limits; the second version also ends all members at once."""
    limits = Limits(memory=64 * MIB, processes=10, cpu=0.5)
    size = str(64 * MIB)

    def files(controller: str, version: int) -> dict[str, str]:
        return dict(Controller(controller, version, Path("/")).control_files(limits))

    assert files("memory", 1) == {
        "memory.limit_in_bytes": size,
        "memory.memsw.limit_in_bytes?": size,
        "memory.kmem.tcp.limit_in_bytes?": str(16 * MIB),
    }
    assert files("memory", 2) == {
        "memory.max": size,
        "memory.swap.max?": "0",
        "memory.oom.group?": "1",
    }
    assert files("pids", 1) == files("pids", 2) == {"pids.max": "11"}
    assert files("cpu", 1) == {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"}
    assert files("cpu", 2) == {"cpu.max": "50000 100000"}
    assert not Controller("cpu", 2, Path("/")).control_files(Limits())
