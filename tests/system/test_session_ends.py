"""A session is told to be deleted, and a server is gone, when none of its processes is left."""

from __future__ import annotations

import time

import psutil
import pytest

from tests.client import Client, SessionClient
from tests.server_process import Launcher, Server
from tests.waiting import wait_until

# What is hard to end: it starves the init, forks all the time, stands still, is traced. Bounded.
STUBBORN = """
import ctypes, contextlib, os, resource, signal, time
libc = ctypes.CDLL(None)
def daemon(work):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.alarm(60)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            work()
        os._exit(0)
    os.wait()
gate = os.pipe()
def spin():
    os.close(gate[1])
    os.read(gate[0], 1)  # until all is there: it would slow the others' starts
    while True:
        pass
def chain():
    for _ in range(20_000):
        if os.fork():
            os._exit(0)
def traced():
    libc.ptrace(0, 0, None, None)
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(60)
def stand():
    os.kill(os.getpid(), signal.SIGSTOP)
for attack in (
    lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)),
    lambda: os.setpriority(os.PRIO_PROCESS, 1, 19),
    lambda: os.setpriority(os.PRIO_USER, 0, 19),
    lambda: os.sched_setaffinity(1, [min(os.sched_getaffinity(0))]),
    lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3)),
):
    try:
        attack()
        print("through")
    except PermissionError:
        pass
for work, count in ((spin, 16), (traced, 3), (stand, 3), (chain, 3)):
    for _ in range(count):
        daemon(work)
os.close(gate[1])
print("ready")
"""


def descendants(server: Server) -> set[tuple[int, float]]:
    """All living processes below a server: pid and start, which no other has."""
    found = set()
    for one in psutil.Process(server.process.pid).children(recursive=True):
        try:
            if one.status() != psutil.STATUS_ZOMBIE:
                found.add((one.pid, one.create_time()))
        except psutil.NoSuchProcess:
            continue
    return found


def is_alive(pid: int, started: float) -> bool:
    try:
        one = psutil.Process(pid)
        return one.create_time() == started and one.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def server(launcher: Launcher) -> Server:
    return launcher.start("--shutdown-grace", "0.5")


@pytest.fixture
def client(server: Server) -> Client:
    return server.connect()


def start_stubborn(client: Client, server: Server, session_id: str) -> SessionClient:
    """Makes a session, and leaves in it what is hard to end."""
    session = client.session("python", session_id=session_id)
    answer = session.run(STUBBORN, timeout=60)
    assert answer["stdout"] == "ready\n", answer
    assert len(descendants(server)) > 16
    return session


@pytest.mark.timeout(240)
def test_delete_answers_when_nothing_is_left(client: Client, server: Server) -> None:
    """DELETE says success when every process is gone, and soon; restart and id work at once."""
    first = client.session("python", session_id="before")
    first.run("1")
    first.delete()
    before = descendants(server)  # spare inits are among them
    session = start_stubborn(client, server, "s1")
    assert session.run("1")["exit_code"] == 0
    began = time.monotonic()
    session.delete()
    seconds = time.monotonic() - began
    # A spare init may have taken the place of the one that was used: with at most two processes.
    assert len(descendants(server) - before) <= 2
    assert seconds < 5
    again = start_stubborn(client, server, "s1")
    again.http.post(f"{again.path}/restart").raise_for_status()
    assert len(descendants(server) - before) <= 8
    assert again.run("print(1)")["stdout"] == "1\n"


@pytest.mark.timeout(240)
def test_sigterm_leaves_nothing(client: Client, server: Server, launcher: Launcher) -> None:
    """SIGTERM while sessions resist: the server ends, nothing lives, and the next one starts."""
    for name in ("s1", "s2"):
        start_stubborn(client, server, name)
    all_of_them = descendants(server)
    assert server.stop() == 0
    assert wait_until(lambda: not [one for one in all_of_them if is_alive(*one)], 3)
    other = launcher.start().connect()
    assert SessionClient(other.http, "s1").run("print(2)")["stdout"] == "2\n"
