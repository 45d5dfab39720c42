"""On a disk that sessions fill, the server keeps what it needs, and the others go on."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.contract.checks import check, check_error
from tests.server_process import Launcher
from tests.system.disks import launcher_on_disk
from tests.waiting import wait_until

MIB = 1024 * 1024
DISK = 640  # MiB
# Writes without end, in files that are each small enough.
BURST = """
data = b"x" * (1 << 20)
for n in range(100000):
    try:
        with open(str(n), "wb", buffering=0) as file: file.write(data)
    except OSError: pass
"""

# Takes inodes without end, which need next to no bytes.
INODES = """
import os
files = []
os.fork()
os.fork()
os.fork()
while True:
    name = f"{{os.getpid()}}.{{len(files)}}"
    try: files.append({call})
    except OSError: pass
"""


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    """Starts servers on a small disk."""
    with launcher_on_disk(tmp_path, f"{DISK}M") as launcher:
        yield launcher


def fill(directory: Path, name: str = "filler") -> Path:
    """Fills the disk from outside, to the last byte, and returns the file."""
    filler = directory / "sessions" / name
    with filler.open("wb", buffering=0) as file:
        for size in (MIB, 4096):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    return filler


def give_back(filler: Path, left: int) -> None:
    """Leaves so many bytes free at most: the filler may have taken what the server gave back."""
    status = os.statvfs(filler)
    free = status.f_bavail * status.f_frsize
    if free < left:
        os.truncate(filler, filler.stat().st_size - (left - free))


def test_the_fastest_is_ended(launcher: Launcher) -> None:
    """A session that fills the disk ends with the cause; the others run, and DELETE is quick."""
    client = launcher.start("--disk-reserve", "256M").connect()
    others = [client.session("python") for _ in range(2)]
    for session in others:
        check(session.run("print(1)"), stdout="1\n")
    greedy = client.session("python")
    check(greedy.run("print(1)"), stdout="1\n")
    answers = []
    thread = threading.Thread(target=lambda: answers.append(greedy.run(BURST)))
    thread.start()
    while thread.is_alive():
        for session in others:
            check(session.run("print(1)"), stdout="1\n", exit_code=0)
    assert "disk nearly full: less than 256 MiB" in answers[0]["cause"], answers
    assert "disk_reserve" in answers[0]["stderr"]
    began = time.monotonic()
    if client.http.put(f"{others[0].path}/files/f", content=b"x").status_code != 201:
        answer = client.http.put("/api/storage/kv/n/k", json={"value": "x"})
        check_error(answer, 507, "INSUFFICIENT_STORAGE")
        assert "disk_reserve" in answer.json()["message"]
        check_error(client.http.post("/api/sessions", json={"language": "python"}), 507,
                    "INSUFFICIENT_STORAGE")  # fmt: skip
    assert client.http.delete(greedy.path).status_code == 200
    assert time.monotonic() - began < 3
    client.http.put(f"{others[0].path}/files/f", content=b"x").raise_for_status()
    for session in others:
        check(session.run("print(1)"), stdout="1\n", started_from="live")


@pytest.mark.parametrize("call", ["exec", "run"])
def test_output_ends_with_its_own_run(launcher: Launcher, call: str) -> None:
    """Output that would fill the disk ends its run with 507, and nobody else's session."""
    client = launcher.start("--disk-reserve", "256M").connect()
    writer, loud = client.session("python"), client.session("python")
    check(writer.run("data = bytes(1 << 19)"))
    filler = fill(launcher.data_dir)
    give_back(filler, 350 * MIB)
    body = {"command": "yes"} if call == "exec" else {"code": "while True: print('y' * 99999)"}
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(client.http.post(f"{loud.path}/{call}", json=body))
    )
    thread.start()
    while thread.is_alive():
        check(writer.run("for n in range(4): open(str(n), 'wb').write(data)"), exit_code=0)
    check_error(answers[0], 507, "INSUFFICIENT_STORAGE")
    status = os.statvfs(filler)
    assert status.f_bavail * status.f_frsize > 256 * MIB
    check(writer.run("print(1)"), stdout="1\n", started_from="live")
    check(loud.run("print(1)"), stdout="1\n")  # what is short can be printed


def test_the_slow_are_ended_one_by_one(launcher: Launcher) -> None:
    """None of several sessions takes much in two seconds, and together they do not take it all."""
    client = launcher.start("--disk-reserve", "64M").connect()
    other, *slow = [client.session("python") for _ in range(4)]
    code = "import time\nfor n in range(300): open('f', 'ab').write(bytes(90_000)); time.sleep(0.1)"
    for session in (other, *slow):
        check(session.run("print(1)"), stdout="1\n")
    filler = fill(launcher.data_dir)
    give_back(filler, 66 * MIB)
    answers = []
    threads = [
        threading.Thread(target=lambda one=one: answers.append(one.run(code))) for one in slow
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        check(other.run("open('g', 'wb').write(bytes(300_000))"), exit_code=0)
        time.sleep(0.1)
    causes = [answer["cause"] or "" for answer in answers]
    assert sum("disk nearly full" in cause for cause in causes) >= 2, causes
    check(other.run("print(1)"), stdout="1\n", started_from="live")
    status = os.statvfs(filler)
    assert status.f_bavail * status.f_frsize > 16 * MIB


@pytest.mark.parametrize(
    "call",
    ["open(name, 'w').close()", "os.mkdir(name)", "os.symlink('x' * 50, name)", "os.mkfifo(name)",
     "os.open('.', os.O_TMPFILE | os.O_RDWR)"],
)  # fmt: skip
def test_who_takes_all_inodes_is_ended(tmp_path: Path, call: str) -> None:
    """A disk has room for so many files: who takes it in its first moment ends, others go on."""
    with launcher_on_disk(tmp_path, f"{DISK}M,nr_inodes=6000") as launcher:
        client = launcher.start("--disk-reserve", "128M").connect()
        other, greedy = client.session("python"), client.session("python")
        check(other.run("print(1)"), stdout="1\n")
        answer = greedy.run(INODES.format(call=call))
        assert "disk nearly full: less than 128 MiB" in answer["cause"], answer
        check(other.run("print(1)"), stdout="1\n", started_from="live")
        assert client.http.delete(greedy.path).status_code == 200
        client.http.put(f"{other.path}/files/f", content=b"x").raise_for_status()


def test_sql_takes_nothing_of_the_reserve(launcher: Launcher) -> None:
    """A statement that would fill the disk is undone with status 507; sessions go on."""
    reserve = 192 * MIB
    server = launcher.start("--disk-reserve", str(reserve), "--sql-timeout", "90")
    client, other = server.connect(), server.connect()
    session = client.session("python")
    check(session.run("print(1)"), stdout="1\n")
    path = "/api/storage/d1/n/exec"
    client.http.post(path, json={"sql": "CREATE TABLE t (a)"}).raise_for_status()
    sql = (
        "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 900) "
        "INSERT INTO t SELECT randomblob(1000000) FROM c"
    )
    answers, least = [], DISK * MIB
    thread = threading.Thread(
        target=lambda: answers.append(other.http.post(path, json={"sql": sql}, timeout=100))
    )
    thread.start()
    while thread.is_alive():
        check(session.run("open('f', 'wb').write(bytes(1 << 20)); print(1)"), stdout="1\n")
        status = os.statvfs(launcher.data_dir)
        least = min(least, status.f_bavail * status.f_frsize)
    check_error(answers[0], 507, "INSUFFICIENT_STORAGE")
    assert "disk_reserve" in answers[0].json()["message"]
    assert least > reserve * 3 // 4
    answer = client.http.post(
        "/api/storage/d1/n/query", json={"sql": "SELECT count(*) AS n FROM t"}
    )
    assert answer.json()["results"] == [{"n": 0}]
    client.http.post(path, json={"sql": sql.replace("900", "9")}).raise_for_status()


def test_full_disk(launcher: Launcher) -> None:
    """With not a byte left: /run answers, DELETE works, the server stops and starts."""
    server = launcher.start()
    client = server.connect()
    one, two = client.session("python"), client.session("python")
    client.http.put(f"{one.path}/files/f", content=bytes(4 * MIB)).raise_for_status()
    check(two.run("print(1)"), stdout="1\n")
    assert (launcher.data_dir / "ballast").stat().st_size == 8 * MIB
    filler = fill(launcher.data_dir)
    check_error(client.http.put(f"{two.path}/files/f", content=b"x"), 507, "INSUFFICIENT_STORAGE")
    assert wait_until(lambda: not (launcher.data_dir / "ballast").exists())
    give_back(filler, 8 * MIB)
    check(two.run("print(2)"), stdout="2\n")
    assert server.stop() == 0
    server = launcher.start()
    client = server.connect()
    path = "/api/sessions/"
    assert client.http.get(path[:-1]).json()["total"] == 2
    began = time.monotonic()
    assert client.http.delete(one.path).status_code == 200
    assert time.monotonic() - began < 3
    filler.unlink()
    ballast = launcher.data_dir / "ballast"
    assert wait_until(lambda: ballast.exists() and ballast.stat().st_size == 8 * MIB)
    client.http.put(f"{two.path}/files/f", content=b"x").raise_for_status()


def test_deletion_makes_its_own_room(launcher: Launcher) -> None:
    """Where nothing is left at all, not even ballast, the files go before the row."""
    server = launcher.start()
    client = server.connect()
    session = client.session("python")
    client.http.put(f"{session.path}/files/f", content=bytes(4 * MIB)).raise_for_status()
    fill(launcher.data_dir)
    time.sleep(1)  # the ballast is given back
    fill(launcher.data_dir, "filler2")
    assert client.http.delete(session.path).status_code == 200
    assert client.http.get(session.path).status_code == 404
