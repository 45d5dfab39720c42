"""Memory over HTTP: what a session of a usual host can load, and many that want too much."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import pytest

from tests.client import Client
from tests.contract.checks import check
from tests.server_process import Launcher, Server, temporary_launcher

MIB, GIB = 1024**2, 1024**3
CAUSE = (
    "out of memory: all sessions together use 95 % of 1 GiB (server_memory), "
    "and this one used the most"
)
LAST_RESORT = (
    "out of memory: all sessions together used 1 GiB (server_memory), "
    "and this one had the largest process"
)
# Those of a notebook that are installed: `make test` does it.
IMPORTS = [
    name
    for name in ("polars", "sklearn", "seaborn", "pandas", "matplotlib.pyplot")
    if find_spec(name.partition(".")[0]) is not None
]
LIBRARIES = [name for name in ("pandas", "polars") if name in IMPORTS]
WRITE_TABLE = """
import numpy as np, os
rows = np.random.default_rng(0).random((20_000, 10))
text = "\\n".join(",".join(f"{x:.6f}" for x in row) for row in rows) + "\\n"
with open("table.csv", "w") as file:
    print(",".join(f"c{n}" for n in range(10)), file=file)
    while file.tell() < 200_000_000: file.write(text)
print(os.path.getsize("table.csv") > 200_000_000)
"""
# What polars does beside: a pool of threads with stacks, and arenas that it never fills.
RESERVE = """
import mmap
arenas = [mmap.mmap(-1, 1 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(8)]
for arena in arenas: arena[:4096] = bytes(4096)
print(len(arenas))
"""


@pytest.fixture
def small() -> Iterator[Client]:
    """A client of a server whose sessions may use little together."""
    with temporary_launcher() as launcher:
        server = launcher.start("--server-memory", "1G", "--session-memory", "600M")
        client = server.connect()
        isolation = client.http.get("/health").json()["isolation"]
        if isolation["tier"] == 4:
            pytest.skip("this host has no walls")
        yield client


def test_a_large_table(client: Client) -> None:
    """A session without limits of its own loads a table of 200 MB after the usual imports."""
    if client.http.get("/api/limits").json()["session_memory"] < 2 * GIB:
        pytest.skip("this host has less than 8 GiB of memory")
    session = client.session("python")
    check(session.run(f"import {', '.join(IMPORTS)}"), exit_code=0)
    check(session.run(WRITE_TABLE), stdout="True\n", exit_code=0)
    if client.has_memory_groups:
        check(session.run(RESERVE), stdout="8\n", exit_code=0)
    for library in LIBRARIES:
        code = f"import {library}\nprint({library}.read_csv('table.csv').shape[1])"
        check(session.run(code), stdout="10\n", exit_code=0, state="preserved")
    session.delete()


def grow(megabytes: int) -> str:
    """A program that takes so much in a second or so, and keeps it."""
    return (
        f"import time\nkept = []\nfor _ in range({megabytes} // 5):\n"
        "    kept.append(b'x' * (5 << 20))\n    time.sleep(0.01)\nprint(len(kept))"
    )


def test_the_largest_of_three(small: Client) -> None:
    """It ends with the cause, its next run starts anew; the others keep what they had."""
    sessions = [small.session("python") for _ in range(3)]
    first, largest, last = sessions
    check(first.run(grow(200)), stdout="40\n")
    check(largest.run(grow(500)), stdout="100\n")
    running = "import time; time.sleep(60)"
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(largest.run, running)
        check(last.run(grow(350)), stdout="70\n", exit_code=0, state="preserved")
        check(ended.result(), exit_code=137, state="lost", cause=CAUSE)
    for one, count in ((first, 40), (last, 70)):
        check(one.run("print(len(kept))"), stdout=f"{count}\n", started_from="live")
    check(largest.run("print(6 * 7)"), stdout="42\n", started_from="fresh")
    assert small.http.get("/health").json()["status"] == "healthy"


def test_one_session_wants_all(small: Client) -> None:
    """A session that reaches its own limit first says its own, however small the server is."""
    session = small.session("python")
    check(session.run(grow(900)), exit_code=137, cause="out of memory at 600 MB")
    check(session.run("print(6 * 7)"), stdout="42\n", started_from="fresh")


def test_all_want_too_much(small: Client) -> None:
    """Of four at once as many go on as there is room for; each answer is true; the server lives."""
    sessions = [small.session("python") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers: list[dict[str, Any]] = list(pool.map(lambda one: one.run(grow(500)), sessions))
    causes = [answer.get("cause") for answer in answers]
    # Beside others they come one after the other, or so fast that Linux is before the server.
    assert None in causes, causes
    assert len(set(causes)) > 1, causes
    assert set(causes) <= {None, CAUSE, LAST_RESORT}, causes
    for answer in answers:
        assert (answer["exit_code"], answer["stdout"]) == (
            (0, "100\n") if answer.get("cause") is None else (137, "")
        )
    assert small.http.get("/health").json()["status"] == "healthy"


def test_limits_are_told(launcher: Launcher) -> None:
    """`GET /api/limits` tells both in bytes, as they were set."""
    server: Server = launcher.start("--server-memory", "3G", "--session-memory", "700M")
    client = server.connect()
    check(client.http.get("/api/limits").json(), server_memory=3 * GIB, session_memory=700 * MIB)
