"""Sessions and runs leave no process, descriptor, thread or file behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.client import Client
from tests.server_process import Server
from tests.waiting import wait_until


def processes(server: Server) -> int:
    return len(psutil.Process(server.process.pid).children(recursive=True))


def descriptors(server: Server) -> int:
    return psutil.Process(server.process.pid).num_fds()


def threads(server: Server) -> int:
    return psutil.Process(server.process.pid).num_threads()


def files(server: Server) -> int:
    """Returns the files of the sessions in the data directory, and of the runtime directory."""
    runtime = [path for path in Path("/tmp").glob("era-*") if _owned_by(path, server)]
    roots = [server.data_dir / "sessions", *runtime]
    return sum(len(dirs) + len(names) for root in roots for _, dirs, names in os.walk(root))


def _owned_by(path: Path, server: Server) -> bool:
    """The zygote of a server has its home in the runtime directory."""
    homes = [p.environ().get("HOME", "") for p in psutil.Process(server.process.pid).children()]
    return any(home.startswith(f"{path}/") for home in homes)


MEASURES: list[Callable[[Server], int]] = [processes, descriptors, threads, files]


def cycle(client: Client) -> None:
    session = client.session("python")
    answer = session.run("open('made.txt', 'w').write('x'); print('ran')")
    assert answer["stdout"] == "ran\n"
    session.delete()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [50, pytest.param(200, marks=pytest.mark.long)])
def test_many_cycles(server: Server, client: Client, count: int) -> None:
    """So many times create, run, delete leave the server as it was after the first ten."""
    for _ in range(10):
        cycle(client)
    before = {measure.__name__: measure(server) for measure in MEASURES}
    for _ in range(count - 10):
        cycle(client)
    for measure in MEASURES:
        # A thread pool may have grown by what it was allowed to from the start.
        room = 8 if measure is threads else 0
        name, limit = measure.__name__, before[measure.__name__] + room
        assert wait_until(lambda m=measure, n=limit: m(server) <= n, 10), (name, before)  # type: ignore[misc]


def test_fifty_sessions_at_once(server: Server, client: Client) -> None:
    """50 sessions created and run at once all work, and all are gone after one call."""
    before = processes(server)

    def one(number: int) -> str:
        session = client.session("python", session_id=f"crowd-{number}")
        answer: str = session.run(f"x = {number}\nprint(x)")["stdout"]
        return answer

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(one, range(50))) == [f"{n}\n" for n in range(50)]
    deleted = client.http.delete("/api/sessions").json()
    assert deleted["deleted_count"] == 50
    assert wait_until(lambda: processes(server) <= before)


def test_vanished_execute_clients(server: Server, client: Client) -> None:
    """A one-shot run whose client left is ended, and leaves nothing."""
    before = processes(server)
    for _ in range(5):
        with pytest.raises(Exception, match="timed out"):
            client.http.post(
                "/api/execute",
                json={"language": "python", "code": "import time; time.sleep(60)"},
                timeout=0.7,
            )
    assert wait_until(lambda: processes(server) <= before, 15)
    assert client.http.get("/api/sessions").json()["total"] == 0
