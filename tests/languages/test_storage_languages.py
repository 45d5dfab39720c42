"""What a program of one language stores, a program of every other finds as it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest

from tests.client import Client, SessionClient
from tests.languages.storage_programs import ALL_STORAGE_PROGRAMS
from tests.languages.storage_programs.programs import StoragePrograms
from tests.server_process import temporary_launcher

TIERS = ("1", "3")
KEYS = ("a", "a/b", "../../x", ".", "..", "/", "a b+c", "%2F", "ä/漢/😀", "?x=1&key=2#", "\n", "\0")
VALUES = ("", "x", "ä漢😀", '{"json": 1}', "a\0b\r\n", "x" * 100_000)
METADATA: tuple[Any, ...] = ({}, {"n": 1}, {"ä": ["漢", None, {"deep": True}]})
ROWS = (
    ("", "", "0"),
    ("ä漢😀", "00ff", "1"),
    ("a\0b", "00" * 60_000, str(2**53 + 1)),  # with more, ARGUMENTS were too long for a process
    ('"\\', "22", str(2**63 - 1)),
    ("9007199254740993", "5c", str(-(2**63))),
)
OBJECTS = (("", 0), ("", 1), ("00ff0d0a", 1), ("5a" * 50_000, 60))
OBJECT_METADATA = ({}, {"kind": "photo"}, {"Größe": "ß", "a": " x "})


class StorageUser:
    """A session of one language, which runs its programs."""

    def __init__(self, session: SessionClient, programs: StoragePrograms) -> None:
        self.session = session
        self.programs = programs

    def call(self, name: str, *arguments: Any) -> Any:
        """Runs a program; returns what it printed."""
        env = {"ARGUMENTS": json.dumps(arguments)}
        answer = self.session.run(getattr(self.programs, name), env=env)
        assert (answer["stderr"], answer["exit_code"]) == ("", 0), (name, arguments, answer)
        return json.loads(answer["stdout"])


@pytest.fixture(scope="module", params=TIERS, ids=lambda tier: f"tier {tier}")
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    with temporary_launcher() as launcher:
        server = launcher.start("--strongest-tier", request.param, "--min-tier", "3")
        client = Client(server.base_url)
        if client.http.get("/health").json()["isolation"]["tier"] != int(request.param):
            pytest.skip(f"this host has no tier {request.param}")
        yield client
        client.close()


@pytest.fixture(scope="module")
def user(client: Client) -> Callable[[StoragePrograms], StorageUser]:
    """Returns a function that gives the user of a language, with one session for the module."""
    users: dict[str, StorageUser] = {}
    listed = client.http.get("/api/languages").json()["languages"]
    reasons = {one["name"]: one.get("reason") for one in listed}

    def get(programs: StoragePrograms) -> StorageUser:
        if reasons[programs.language] is not None:
            pytest.skip(f"{programs.language}: {reasons[programs.language]}")
        if programs.column not in users:
            kernel = {} if programs.kernel is None else {"kernel": programs.kernel}
            session = client.session(programs.language, storage=["shared-*"], **kernel)
            users[programs.column] = StorageUser(session, programs)
        return users[programs.column]

    return get


@pytest.fixture(
    params=list(product(ALL_STORAGE_PROGRAMS, repeat=2)),
    ids=lambda pair: f"{pair[0].column} to {pair[1].column}",
)
def pair(request: pytest.FixtureRequest, user: Any) -> tuple[StorageUser, StorageUser, str]:
    """Who writes, who reads, and a namespace of theirs."""
    writer, reader = map(user, request.param)
    return writer, reader, f"shared-{writer.programs.column}-{reader.programs.column}"


@pytest.fixture(params=ALL_STORAGE_PROGRAMS, ids=lambda programs: programs.column)
def one(request: pytest.FixtureRequest, user: Any) -> StorageUser:
    found: StorageUser = user(request.param)
    return found


def test_kv(pair: Any) -> None:
    """Keys of any characters, empty and large values and metadata arrive as they are."""
    writer, reader, namespace = pair
    expected = {}
    for number in range(max(len(KEYS), len(VALUES))):
        key, value = KEYS[number % len(KEYS)], VALUES[number % len(VALUES)]
        expected[key] = METADATA[number % len(METADATA)]
        assert writer.call("kv_set", namespace, key, value, expected[key]) is True
        assert reader.call("kv_get", namespace, key) == value
    listed = reader.call("kv_list", namespace, "", 100)
    assert listed == [[key, expected[key]] for key in sorted(expected, key=str.encode)]
    assert reader.call("kv_list", namespace, "a", 2) == [
        [key, expected[key]] for key in ("a", "a b+c")
    ]
    assert reader.call("kv_delete", namespace, "..") is True
    assert writer.call("kv_get", namespace, "..") is None
    assert writer.call("kv_delete", namespace, "..") is True


def test_d1(pair: Any) -> None:
    """Texts, blobs and integers of 64 bits come back exactly."""
    writer, reader, namespace = pair
    make = "CREATE TABLE IF NOT EXISTS x AS SELECT ? AS t, ? AS b, ? AS i LIMIT 0"
    writer.call("d1_exec", namespace, make, "", "", "0")
    for row in ROWS:
        assert writer.call("d1_exec", namespace, "INSERT INTO x VALUES (?, ?, ?)", *row) == 1
    read = "SELECT t, b, i FROM x ORDER BY rowid"
    assert reader.call("d1_query", namespace, read) == [list(row) for row in ROWS]


def test_r2(pair: Any) -> None:
    """Objects of any bytes and size arrive whole, under keys of any characters."""
    writer, reader, namespace = pair
    sizes = {}
    for number, key in enumerate(KEYS):
        piece, count = OBJECTS[number % len(OBJECTS)]
        metadata = OBJECT_METADATA[number % len(OBJECT_METADATA)]
        content = bytes.fromhex(piece) * count
        sizes[key] = len(content)
        assert writer.call("r2_put", namespace, key, piece, count, metadata) is True
        assert reader.call("r2_get", namespace, key) == hashlib.sha256(content).hexdigest()
    listed = reader.call("r2_list", namespace)
    assert listed == [[key, sizes[key]] for key in sorted(sizes, key=str.encode)]
    assert reader.call("r2_delete", namespace, "..") is True
    assert writer.call("r2_get", namespace, "..") is None


def test_at_once(pair: Any) -> None:
    """Calls at the same time do not disturb each other."""
    writer, reader, namespace = pair
    assert writer.call("at_once", f"{namespace}-many", 150) is True
    names = sorted(f"k{number}" for number in range(150))
    listed = reader.call("kv_list", f"{namespace}-many", "", 1000)
    assert [name for name, _ in listed] == names
    assert reader.call("kv_get", f"{namespace}-many", "k149") == "k149"


def test_scope(one: StorageUser) -> None:
    """Outside the session's scope a call fails with the server's code, status and sentence."""
    assert one.call("fails", "other") == ["STORAGE_SCOPE", 403, "kv get failed"]
