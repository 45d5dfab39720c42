"""The storage SDK in real sessions of every tier: kernels, programs, children, busy runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import pytest
from tornado.ioloop import IOLoop

from era_kernels.kernels.machine import Machine
from era_kernels.models import StorageScope
from era_kernels.web import storage_session
from tests.kernels.conftest import io_loop
from tests.sdk_host import SdkHost, execute, run, sdk_host_in

__all__ = ["io_loop"]


@pytest.fixture(scope="module", params=[1, 2, 3, 4], ids=lambda tier: f"tier {tier}")
def opened(request: pytest.FixtureRequest, io_loop: IOLoop) -> Iterator[tuple[SdkHost, Machine]]:
    """A host of one tier, and a machine with a kernel in it."""
    with sdk_host_in(io_loop, request.param) as host:
        yield host, io_loop.run_sync(host.open)


@pytest.fixture
def host(opened: tuple[SdkHost, Machine]) -> Iterator[SdkHost]:
    host = opened[0]
    yield host
    host.scope, host.memory.seconds = StorageScope("all"), 0.0
    host.memory.values.clear()


@pytest.fixture
def machine(opened: tuple[SdkHost, Machine]) -> Machine:
    return opened[1]


ALL = """
import era_storage
from era_storage import kv, d1, r2
print(kv.set("app", "k", "", {"a": 1}), repr(kv.get("app", "k")), kv.get("app", "none"))
print(kv.list("app"), d1.query("app", "SELECT ?", [b"b"]), d1.exec("app", "x")["success"])
print(r2.put("app", "o", b"\\x00"), r2.get("app", "o"), r2.delete("app", "o"))
print(kv.delete("app", "k"))
"""
ALL_PRINTED = (
    "True '' None\n[{'name': 'k', 'metadata': {'a': 1}}] [{'c0': b'b'}] True\n"
    "True b'\\x00' True\nTrue\n"
)


async def test_kernels_and_programs(host: SdkHost, machine: Machine) -> None:
    """Cells, programs beside the kernel and children of cells use all of it without set-up."""
    assert await run(machine, ALL) == ALL_PRINTED
    assert await execute(machine, sys.executable, "-c", ALL) == ALL_PRINTED
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {ALL!r}])"
    assert await run(machine, child) == ALL_PRINTED
    shell = 'cd /; python -c "$0"'
    assert await execute(machine, "sh", "-c", shell, ALL) == ALL_PRINTED


async def test_a_sandbox_without_a_kernel(host: SdkHost) -> None:
    """Programs have it where no kernel runs, and a kernel that starts later as well."""
    machine = await host.open(kernel=False)
    assert await execute(machine, sys.executable, "-c", ALL) == ALL_PRINTED
    await machine.start_kernel({})
    assert await run(machine, ALL) == ALL_PRINTED
    await machine.aclose()


async def test_while_a_run_is_busy(host: SdkHost, machine: Machine) -> None:
    """Programs use it while a run computes, and while a run waits for an answer."""
    host.memory.seconds = 1.0
    busy = asyncio.create_task(run(machine, "from era_storage import kv\nkv.list('app'); print(1)"))
    await asyncio.sleep(0.2)
    code = "from era_storage import kv; print(kv.set('app', 'b', 'x'))"
    assert await asyncio.wait_for(execute(machine, sys.executable, "-c", code), 30) == "True\n"
    assert await busy == "1\n"


async def test_threads_forks_and_pools(host: SdkHost, machine: Machine) -> None:
    """Threads, forks and children of multiprocessing of a cell use it at once."""
    code = """
import concurrent.futures, multiprocessing, os, era_storage
era_storage.kv.set("app", "k", "v")
def work(number):
    era_storage.kv.set("app", f"k{number}", str(number))
    return era_storage.kv.get("app", f"k{number}") == str(number)
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    print(all(pool.map(work, range(32))))
for method in ("fork", "spawn"):
    context = multiprocessing.get_context(method)
    args = [("app", f"{method}{number}", "x") for number in range(3)]
    children = [context.Process(target=era_storage.kv.set, args=one) for one in args]
    for child in children:
        child.start()
    for child in children:
        child.join()
    print([child.exitcode for child in children], era_storage.kv.get("app", f"{method}2"))
print(era_storage.kv.get("app", "k"))
"""
    assert await run(machine, code) == "True\n[0, 0, 0] x\n[0, 0, 0] x\nv\n"


async def test_the_scope_is_enforced(host: SdkHost, machine: Machine) -> None:
    """A namespace outside the scope raises with the server's sentence, from the next call on."""
    code = "from era_storage import kv\nkv.set('app', 'k', 'v')"
    assert await run(machine, code) == ""
    host.scope = StorageScope.parse(["other", "tmp-*"])
    out = await run(machine, code)
    assert "StorageError: KV set failed: Outside the storage scope: This session may not" in out
    assert await run(machine, "print(kv.set('tmp-1', 'k', 'v'))") == "True\n"


async def test_another_address_for_one_run(host: SdkHost, machine: Machine) -> None:
    """`ERA_STORAGE_URL` is read at each call: one run may use another server."""
    code = (
        "from era_storage import kv\ntry:\n kv.get('app', 'k')\nexcept RuntimeError as e: print(e)"
    )
    out = await run(machine, code, {"ERA_STORAGE_URL": "http://127.0.0.1:9"})
    assert out.startswith("KV get failed: ")
    assert await run(machine, code) == ""


async def test_a_thousand_calls_do_not_starve_others(host: SdkHost, machine: Machine) -> None:
    """While one session makes a thousand calls at once, another gets its answers in time."""
    host.memory.seconds = 0.02
    other = await host.open()
    code = """
import concurrent.futures, era_storage
with concurrent.futures.ThreadPoolExecutor(100) as pool:
    print(len(list(pool.map(lambda n: era_storage.kv.list("app"), range(1000)))))
"""
    flood = asyncio.create_task(run(machine, code))
    await asyncio.sleep(0.3)
    timed = "import time, era_storage\nb = time.time()\nera_storage.kv.list('app')\n"
    timed += "print(time.time() - b < 2)"
    for _ in range(3):
        assert await run(other, timed) == "True\n"
    assert await flood == "1000\n"
    await other.aclose()


async def test_it_is_gone_with_the_session(host: SdkHost) -> None:
    """When a machine ends, nothing of its listener is left: no socket, no connection."""
    before = len(host.listener._sessions)
    machine = await host.open()
    assert await run(machine, ALL) == ALL_PRINTED
    assert len(host.listener._sessions) == before + 1
    await machine.aclose()
    for _ in range(100):
        if len(host.listener._sessions) == before:
            break
        await asyncio.sleep(0.02)
    assert len(host.listener._sessions) == before
    died = await host.open()
    await run(died, "import os; os._exit(3)")
    await died.aclose()
    await asyncio.sleep(0.05)
    assert len(host.listener._sessions) == before


async def test_the_sdk_is_hidden_from_nobody_and_hides_nothing(
    host: SdkHost, machine: Machine
) -> None:
    """Beside the package no module of ours can be imported, and a user's own one wins."""
    code = "import importlib.util as util\n"
    code += "print([n for n in ('era_kernel', 'selftest') if util.find_spec(n)])"
    assert await run(machine, code) == "[]\n"
    own = "open('era_storage.py', 'w').write('mine = 1')\n"
    own += "import subprocess, sys\n"
    own += "subprocess.run([sys.executable, '-c', 'import era_storage; print(era_storage.mine)'])\n"
    own += "import os; os.unlink('era_storage.py')"
    assert await run(machine, own) == "1\n"


# Sends raw bytes to the storage of the session, and returns the status of each answer.
RAW = """
import os, socket, urllib.parse
def raw(data):
    url = urllib.parse.urlsplit(os.environ["ERA_STORAGE_URL"])
    if url.scheme == "http":
        end = socket.create_connection((url.hostname, url.port))
    else:
        end = socket.socket(socket.AF_UNIX)
        end.connect(urllib.parse.unquote(url.netloc))
    with end:
        end.settimeout(30)
        end.sendall(data)
        answer = b""
        while chunk := end.recv(65536):
            answer += chunk
    return [line.split()[1].decode() for line in answer.split(b"\\r\\n") if line[:5] == b"HTTP/"]
"""
GET = "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
KEY = "/api/storage/kv/app?key=k"
PUT = f"PUT {KEY} HTTP/1.1\r\nHost: localhost\r\n"
ROUTES = (
    "/api/sessions", "/health", "/openapi.json", "/metrics", "/", "/api/resources/list",
    "http://127.0.0.1/api/sessions", "/api/storage", "/api/storage/kv",
)  # fmt: skip
OUTSIDE = (
    "kv/other?key=k", "kv/app2?key=k", "kv/%6fther?key=k", "kv/ap?key=k", "kv/app%00?key=k",
    "kv/app%2f..%2fother?key=k", "kv/..%2fother?key=k", "r2/other/x", "kv/other/../app",
    "../sessions",
)  # fmt: skip
SMUGGLING = (
    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "Content-Length: 5\r\nContent-Length: 6\r\n",
    "Transfer-Encoding: chunked, identity\r\n",
    "X: a\nTransfer-Encoding: chunked\r\n",
)
ATTACKS: dict[str, tuple[list[str], set[str]]] = {
    "other routes": ([GET.format(path) for path in ROUTES], {"404"}),
    "other namespaces": ([GET.format(f"/api/storage/{path}") for path in OUTSIDE], {"403"}),
    "foreign hosts": ([GET.format(KEY).replace("localhost", "evil.example")], {"403"}),
    "two requests in one": (
        [f"{PUT}{fields}\r\n0\r\n\r\n{GET.format(KEY)}" for fields in SMUGGLING],
        {"400"},
    ),
    "an endless head": (["GET / HTTP/1.1\r\nX: " + "x" * 100_000], {"400"}),
    "a slow head": (["GET /api/sto"], set()),
    "a slow body": ([PUT + "Content-Length: 9\r\n\r\n{"], set()),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_attacks(
    host: SdkHost, machine: Machine, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What hostile code may send to the socket is refused, and the session goes on."""
    monkeypatch.setattr(storage_session, "IDLE_TIMEOUT", 1.0)
    monkeypatch.setattr(storage_session, "STALL_TIMEOUT", 1.0)
    host.scope = StorageScope.parse(["app"])
    requests, expected = ATTACKS[attack]
    code = f"{RAW}\nfor data in {[one.encode() for one in requests]!r}:\n"
    code += (
        "    try:\n        print(raw(data))\n    except ConnectionError:\n        print('reset')"
    )
    answers = (await run(machine, code)).splitlines()
    assert len(answers) == len(requests)
    for answer in answers:
        assert answer == "reset" or set(eval(answer)) == expected, answers
    assert await run(machine, ALL) == ALL_PRINTED


async def test_a_neighbour_is_not_served(host: SdkHost, machine: Machine) -> None:
    """Another session gets nothing at the address of this one, whose scope may be wider."""
    url = (await run(machine, "import os; print(os.environ['ERA_STORAGE_URL'])")).strip()
    if url.startswith("http:"):
        return  # the loopback of each session is its own
    other = await host.open()
    code = f"{RAW}\nos.environ['ERA_STORAGE_URL'] = {url!r}\n"
    code += f"print(raw({GET.format(KEY)!r}.encode()))"
    assert "200" not in await run(other, code)
    await other.aclose()
