"""A server that is forked from the template is as one that its command started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.client import Client
from tests.server_process import Launcher, Server, fork_servers
from tests.server_template import ForkedServer, shared_template

# Of /proc/<pid>/status: what a process inherits or sets up.
INHERITED = {
    "CapAmb", "CapBnd", "CapEff", "CapInh", "CapPrm", "Cpus_allowed", "Gid", "Groups",
    "NoNewPrivs", "Seccomp", "ShdPnd", "SigBlk", "SigCgt", "SigIgn", "SigPnd", "Uid", "Umask",
}  # fmt: skip


def facts(server: Server) -> dict[str, object]:
    """What can be seen of a server's process from outside."""
    pid = server.process.pid
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
    kinds = sorted(
        f"{name.name} {target}" if int(name.name) < 3 else target
        for name in (folder / "fd").iterdir()
        for target in [str(name.readlink()).split(":")[0]]
    )
    return {
        "status": {name: status[name] for name in INHERITED},
        "limits": (folder / "limits").read_text(),
        "cgroup": re.sub(r"(?<=\.era-)\w+", "…", (folder / "cgroup").read_text()),
        "cwd": (folder / "cwd").readlink(),
        "exe": (folder / "exe").readlink(),
        "oom": (folder / "oom_score_adj").read_text(),
        "nice": psutil.Process(pid).nice(),
        "leads its session and group": os.getsid(pid) == os.getpgid(pid) == pid,
        "descriptors": [re.sub(r"era-(run-)?\w+$|server-\d+", "…", kind) for kind in kinds],
    }


@pytest.fixture(params=[True, False], ids=["forked", "by its command"])
def is_forked(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def server(launcher: Launcher, is_forked: bool) -> Iterator[Server]:
    fork_servers(is_forked)
    server = launcher.start("--log-format", "human", env={"ERA_MAX_QUEUE": "7"})
    assert isinstance(server.process, ForkedServer) == is_forked
    yield server


def test_the_process_is_the_same(launcher: Launcher) -> None:
    """Its signals, limits, groups, folder, session and descriptors are the same.

    Where variables count for the start of an interpreter, the command starts the server. Of both
    the number of the signal that ended them is told, as subprocess tells it.
    """
    fork_servers(True)
    assert shared_template().can_start({**os.environ, "ERA_MAX_QUEUE": "7"})
    found = []
    for kind, env in ((ForkedServer, {}), (subprocess.Popen, {"PYTHONHASHSEED": "1"})):
        server = launcher.start(env=env)
        assert isinstance(server.process, kind)
        found.append(facts(server))
        server.kill()
        assert server.process.wait(1) == -signal.SIGKILL
    assert found[0] == found[1]


def test_flags_and_environment_count(server: Server) -> None:
    """Flags come before variables; both reach the server.

    Its exit code is told, also to who asks again; a signal to one that has ended is nothing.
    """
    with closing(Client(server.base_url)) as client:
        run = client.session("python").run("import os; print(os.environ.get('ERA_MAX_QUEUE'))")
    assert run["stdout"] == "None\n"
    assert "isolation" in server.log_text
    assert not server.log_text.startswith("{")
    assert server.process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        server.process.wait(0.1)
    assert server.stop() == 0
    assert server.process.poll() == server.process.wait(1) == server.process.returncode == 0
    server.process.send_signal(signal.SIGKILL)


def test_it_cannot_start(launcher: Launcher, is_forked: bool) -> None:
    """What a server that does not start writes is in the error."""
    fork_servers(is_forked)
    with pytest.raises(RuntimeError, match="max-queue"):
        launcher.start("--max-queue", "many")
