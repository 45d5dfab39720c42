"""A server of an ordinary user works end to end, in each tier that such a user can have.

The interpreter and this checkout may lie where only root can read, so the server is started in a
mount namespace that shows them where they are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.server_process import PRINT_PID, host_pid
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
USER = 12345
AS_USER = """
import json, os, sys
from pathlib import Path
from era_kernels.sandbox.linux import syscalls

def open_to_all(path):
    return bool(path.stat().st_mode & 1)

user, paths, command, with_groups = json.loads(sys.argv[1])
syscalls.unshare(syscalls.CLONE_NEWNS)
syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
shown = {path: os.open(path, os.O_PATH) for path in paths}
closed = {}
for path in map(Path, paths):
    above = [one for one in reversed(path.parents) if not open_to_all(one)]
    if above:
        closed.setdefault(above[0], []).append(path)
for top, below in closed.items():
    syscalls.mount("tmpfs", str(top), "tmpfs", 0, "mode=755")
    for path in below:
        path.mkdir(parents=True)
        source = f"/proc/self/fd/{shown[str(path)]}"
        syscalls.mount(source, str(path), None, syscalls.MS_BIND | syscalls.MS_REC)
if not with_groups:
    syscalls.mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, "mode=755")
syscalls.close_except((0, 1, 2))
os.setgroups([])
os.setgid(user)
os.setuid(user)  # nothing changes for root
os.execv(command[0], command)
"""


@contextmanager
def served(
    tier: int,
    user: int = USER,
    more_flags: Sequence[str] = (),
    open_files: int | None = None,
    with_groups: bool = True,
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Starts a server with that isolation; yields its address and process.

    It may open `open_files` files, else as many as this process, and finds no control groups unless
    `with_groups`.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with tempfile.TemporaryDirectory(prefix="era-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        data = directory / "data"
        data.mkdir(0o700)
        os.chown(data, user, user)
        flags = ["--port", "0", "--data-dir", str(data), "--strongest-tier", str(tier)]
        serve = [sys.executable, "-m", "era_kernels", "serve", *flags, "--min-tier", str(tier)]
        serve += more_flags
        if open_files is not None:
            serve = ["/bin/sh", "-c", f'ulimit -n {open_files} && exec "$0" "$@"', *serve]
        paths = sorted({str(ROOT), sys.prefix, sys.base_prefix})
        with (directory / "log").open("w+") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", AS_USER, json.dumps([user, paths, serve, with_groups])],
                env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd="/",
            )
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert "http://" in line, (directory / "log").read_text()
                yield next(word for word in line.split() if word.startswith("http://")), process
            finally:
                process.terminate()
                process.communicate(timeout=30)


def ask(method: str, url: str, body: bytes | None = None) -> bytes:
    kind = "application/json" if method == "POST" else "application/octet-stream"
    request = Request(url, body, {"Content-Type": kind}, method=method)
    with urlopen(request, timeout=60) as response:
        answer: bytes = response.read()
        return answer


def call(method: str, url: str, body: object = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    answer: dict[str, Any] = json.loads(ask(method, url, data))
    return answer


LIMITS = ("--server-memory", "1G", "--session-memory", "900M", "--session-tmp", "600M")


@pytest.fixture(scope="module", params=[1, 3])
def ordinary(request: pytest.FixtureRequest) -> Iterator[tuple[int, str, int]]:
    """The tier, address and pid of a server of the ordinary user."""
    with served(request.param, more_flags=LIMITS) as (url, process):
        yield request.param, url, process.pid


def test_from_end_to_end(ordinary: tuple[int, str, int]) -> None:
    """A session is made, runs, has files both ways, and leaves nothing when it is deleted."""
    tier, url, server_pid = ordinary
    assert Path(f"/proc/{server_pid}").stat().st_uid == USER
    health = call("GET", f"{url}/health")
    assert health["isolation"]["tier"] == tier
    assert any("control groups" in text for text in health["isolation"]["missing"])
    session = call("POST", f"{url}/api/sessions", {"language": "python"})["id"]
    home = f"{url}/api/sessions/{session}"
    ask("PUT", f"{home}/files/in.txt", b"hello")
    code = "open('out.txt', 'w').write(open('in.txt').read().upper())\n" + PRINT_PID
    done = call("POST", f"{home}/run", {"code": code})
    assert ask("GET", f"{home}/files/out.txt") == b"HELLO"
    pid = host_pid(done["stdout"]) if tier == 1 else int(done["stdout"].split()[0])
    assert Path(f"/proc/{pid}").stat().st_uid == USER
    closed = call("POST", f"{home}/run", {"code": "print(open('/etc/shadow').read())"})
    assert closed["exit_code"] != 0
    call("DELETE", home)
    assert wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_the_server_needs_no_watches_of_epoll(ordinary: tuple[int, str, int]) -> None:
    """Code of its user could take all that Linux gives to a user: the server waits without."""
    files = [str(one.readlink()) for one in Path(f"/proc/{ordinary[2]}/fd").iterdir()]
    assert any(one.startswith("socket:") for one in files)
    assert not any("eventpoll" in one for one in files)


# Kind of memory → how a session takes 520 MB of it.
TAKE = {
    "of the heap": "kept = b'x' * (520 << 20)",
    # PR_SET_DUMPABLE, 0: an ordinary user would see nothing of it in /proc but its size.
    "that would hide": (
        "import ctypes\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\nkept = b'x' * (520 << 20)"
    ),
    "of /tmp": (
        "kept = open('/tmp/kept', 'wb', 0)\nfor _ in range(520): kept.write(bytes(1 << 20))"
    ),
}


def check_largest_ends(url: str, kind: str) -> None:
    """Checks that of two sessions the one with that memory ends, and the other goes on."""
    ids = [call("POST", f"{url}/api/sessions", {"language": "python"})["id"] for _ in range(2)]
    first, largest = (f"{url}/api/sessions/{one}/run" for one in ids)
    assert call("POST", largest, {"code": TAKE[kind]})["exit_code"] == 0
    grow = (
        "import time\nkept = []\n"
        "for _ in range(92): kept.append(b'x' * (5 << 20)); time.sleep(0.02)"
    )
    done = call("POST", first, {"code": grow})
    assert done["exit_code"] == 0, (kind, done)
    code = "print('kept' in globals())"
    assert wait_until(lambda: call("POST", largest, {"code": code})["stdout"] == "False\n"), kind
    assert call("POST", first, {"code": code})["stdout"] == "True\n"
    for one in ids:
        call("DELETE", f"{url}/api/sessions/{one}")


def test_memory_of_all_sessions(ordinary: tuple[int, str, int]) -> None:
    """The server sums what it may see of sessions, and ends the largest of them, not itself."""
    tier, url, _ = ordinary
    for kind in TAKE:
        if tier == 1 or kind != "of /tmp":  # which is the host's in tier 3
            check_largest_ends(url, kind)


def test_a_uid_per_session_without_namespaces() -> None:
    """Root's server gives each session a uid of its own in tier 3, too, where it can be let in."""
    with served(3, user=0) as (url, _):
        missing = call("GET", f"{url}/health")["isolation"]["missing"]
        assert not any(text.startswith("users:") for text in missing), missing
        uids = set()
        for _ in range(2):
            session = call("POST", f"{url}/api/sessions", {"language": "python"})["id"]
            home = f"{url}/api/sessions/{session}"
            ask("PUT", f"{home}/files/in.txt", b"hello")
            code = (
                "import os, tempfile\ntempfile.TemporaryFile()\n"
                "open('out.txt', 'w').write(open('in.txt').read().upper())\nprint(os.getuid())"
            )
            done = call("POST", f"{home}/run", {"code": code})
            assert done["exit_code"] == 0, done
            assert ask("GET", f"{home}/files/out.txt") == b"HELLO"
            uids.add(int(done["stdout"]))
        assert len(uids) == 2 and not uids & {0, USER}
