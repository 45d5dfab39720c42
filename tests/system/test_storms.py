"""Processes that fork all the time end with their session where no control group holds them.

In tier 3 there is no pid namespace either, so that lists of processes are never true.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.system.test_ordinary_user import call, served
from tests.waiting import wait_until

USER = 54_321  # of these tests alone: all its processes are killed in the end
MARK = "era-storm"
# Each of its processes has one child and ends: there are never more than twice as many as lineages.
STORM = f"""
import ctypes, os, signal, time
def name():
    ctypes.CDLL(None).prctl(15, b"{MARK}", 0, 0, 0)
def storm():
    name()
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        try:
            if os.fork():
                os._exit(0)
        except OSError:
            pass
for _ in range(60):
    if os.fork() == 0:
        storm()
print("ready")
"""


@pytest.fixture(params=[0, USER], ids=["root", "ordinary user"])
def user(request: pytest.FixtureRequest) -> Iterator[int]:
    yield request.param
    if request.param != 0:  # in one step, should the test have failed
        subprocess.run(["/bin/sh", "-c", "kill -9 -1"], user=USER, group=USER, check=False)


def count_storm() -> int:
    """Returns how many processes of the storm are found now; that may miss some."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            text = path.read_text(errors="replace")
            found += f"({MARK})" in text and text.rpartition(")")[2].split()[0] != "Z"
    return found


def has_ended() -> bool:
    for _ in range(5):  # one look may see none
        if count_storm():
            return False
        time.sleep(0.02)
    return True


@pytest.mark.timeout(120)
def test_storm_ends(user: int) -> None:
    """Nothing of it is left soon after the session was deleted or the server was killed."""
    with served(3, user=user, with_groups=False) as (url, process):
        for end in ("DELETE", "SIGKILL"):
            session = call("POST", f"{url}/api/sessions", {"language": "python"})["id"]
            home = f"{url}/api/sessions/{session}"
            assert call("POST", f"{home}/run", {"code": STORM})["stdout"] == "ready\n"
            assert wait_until(lambda: count_storm() > 0)
            if end == "DELETE":
                call("DELETE", home)
                assert has_ended()
            else:
                process.kill()
                process.wait(20)
            assert wait_until(has_ended, 3)
