"""What a program of one language stores, a program of every other finds as it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise, product
from typing import Any

import pytest

from tests.client import Client, SessionClient
from tests.languages.storage_programs import ALL_STORAGE_PROGRAMS
from tests.languages.storage_programs.programs import StoragePrograms
from tests.server_process import temporary_launcher

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
        self.namespace = f"shared-{programs.column}"
        self._written: dict[str, Any] = {}

    def call(self, name: str, *arguments: Any) -> Any:
        """Runs a program; returns what it printed."""
        env = {"ARGUMENTS": json.dumps(arguments)}
        answer = self.session.run(getattr(self.programs, name), env=env)
        assert (answer["stderr"], answer["exit_code"]) == ("", 0), (name, arguments, answer)
        return json.loads(answer["stdout"])

    def write_once(self, kind: str, write: Callable[[StorageUser], Any]) -> Any:
        """Writes what all others are to read, the first time; returns what was written."""
        if kind not in self._written:
            self._written[kind] = write(self)
        return self._written[kind]


Users = Callable[[StoragePrograms], StorageUser]


@contextmanager
def open_users(tier: int) -> Iterator[Users]:
    """Starts a server; yields what gives the user of a language, with one session for all tests."""
    users: dict[str, StorageUser] = {}
    with temporary_launcher() as launcher:
        server = launcher.start("--strongest-tier", str(tier), "--min-tier", "3")
        client = Client(server.base_url)
        if client.http.get("/health").json()["isolation"]["tier"] != tier:
            pytest.skip(f"this host has no tier {tier}")
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

        yield get
        client.close()


@pytest.fixture(scope="module")
def users() -> Iterator[Users]:
    """The users of languages, in the strongest tier."""
    with open_users(1) as get:
        yield get


@pytest.fixture(scope="module")
def weaker_users() -> Iterator[Users]:
    """The users of languages in tier 3, where the way to the storage is another."""
    with open_users(3) as get:
        yield get


Pair = tuple[StoragePrograms, StoragePrograms]


def across(pairs: Iterable[Pair]) -> pytest.MarkDecorator:
    """Returns the mark of tests in which one language reads what another has written."""
    return pytest.mark.parametrize(
        "pair", list(pairs), ids=lambda pair: f"{pair[0].column} to {pair[1].column}"
    )


pairs = across(product(ALL_STORAGE_PROGRAMS, repeat=2))
# Each language writes and reads once: what it does with others' values is shown by all the pairs.
ring = across(pairwise([*ALL_STORAGE_PROGRAMS, ALL_STORAGE_PROGRAMS[0]]))


# ---------------------------------------------------------------- what one writes and another reads


def write_kv(writer: StorageUser) -> dict[str, tuple[str, Any]]:
    expected = {}
    for number in range(max(len(KEYS), len(VALUES))):
        key, value = KEYS[number % len(KEYS)], VALUES[number % len(VALUES)]
        expected[key] = value, METADATA[number % len(METADATA)]
        assert writer.call("kv_set", writer.namespace, key, *expected[key]) is True
    return expected


def exchange_kv(writer: StorageUser, reader: StorageUser) -> None:
    """Reads, lists and deletes by one what the other has set: any keys, values and metadata."""
    expected, namespace = writer.write_once("kv", write_kv), writer.namespace
    values = [value for value, _ in expected.values()]
    assert reader.call("kv_get", namespace, list(expected)) == values
    listed = reader.call("kv_list", namespace, "", 100)
    assert listed == [[key, expected[key][1]] for key in sorted(expected, key=str.encode)]
    assert reader.call("kv_list", namespace, "a", 2) == [
        [key, expected[key][1]] for key in ("a", "a b+c")
    ]
    assert reader.call("kv_delete", namespace, "..") is True
    assert writer.call("kv_get", namespace, [".."]) == [None]
    assert writer.call("kv_delete", namespace, "..") is True
    assert writer.call("kv_set", namespace, "..", *expected[".."]) is True


def write_d1(writer: StorageUser) -> None:
    make = "CREATE TABLE IF NOT EXISTS x AS SELECT ? AS t, ? AS b, ? AS i LIMIT 0"
    writer.call("d1_exec", writer.namespace, make, "", "", "0")
    for row in ROWS:
        insert = "INSERT INTO x VALUES (?, ?, ?)"
        assert writer.call("d1_exec", writer.namespace, insert, *row) == 1


def exchange_d1(writer: StorageUser, reader: StorageUser) -> None:
    """Reads by one the other's rows: texts, blobs and integers of 64 bits come back exactly."""
    writer.write_once("d1", write_d1)
    read = "SELECT t, b, i FROM x ORDER BY rowid"
    assert reader.call("d1_query", writer.namespace, read) == [list(row) for row in ROWS]


def write_r2(writer: StorageUser) -> dict[str, tuple[str, int, Any]]:
    expected = {}
    for number, key in enumerate(KEYS):
        metadata = OBJECT_METADATA[number % len(OBJECT_METADATA)]
        expected[key] = *OBJECTS[number % len(OBJECTS)], metadata
        assert writer.call("r2_put", writer.namespace, key, *expected[key]) is True
    return expected


def exchange_r2(writer: StorageUser, reader: StorageUser) -> None:
    """Reads, lists and deletes by one the other's objects: any bytes and sizes, any keys."""
    expected, namespace = writer.write_once("r2", write_r2), writer.namespace
    contents = {key: bytes.fromhex(piece) * count for key, (piece, count, _) in expected.items()}
    sums = [hashlib.sha256(content).hexdigest() for content in contents.values()]
    assert reader.call("r2_get", namespace, list(contents)) == sums
    listed = reader.call("r2_list", namespace)
    assert listed == [[key, len(contents[key])] for key in sorted(contents, key=str.encode)]
    assert reader.call("r2_delete", namespace, "..") is True
    assert writer.call("r2_get", namespace, [".."]) == [None]
    assert writer.call("r2_put", namespace, "..", *expected[".."]) is True


def check_many_at_once(writer: StorageUser, reader: StorageUser) -> None:
    """Sets many keys at the same time by one; the other must find all."""
    namespace = f"{writer.namespace}-many"
    assert writer.call("at_once", namespace, 150) is True
    names = sorted(f"k{number}" for number in range(150))
    listed = reader.call("kv_list", namespace, "", 1000)
    assert [name for name, _ in listed] == names
    assert reader.call("kv_get", namespace, ["k149"]) == ["k149"]


def check_scope(user: StorageUser, _: StorageUser) -> None:
    """Calls outside the session's scope: they fail with the server's code, status and sentence."""
    assert user.call("fails", "other") == ["STORAGE_SCOPE", 403, "kv get failed"]


Exchange = Callable[[StorageUser, StorageUser], None]


def each_of(*exchanges: Exchange) -> pytest.MarkDecorator:
    """Returns the mark of tests of these exchanges."""
    return pytest.mark.parametrize("exchange", exchanges, ids=lambda one: one.__name__)


@pairs
@each_of(exchange_kv, exchange_d1, exchange_r2)
def test_pairs(users: Users, pair: Pair, exchange: Exchange) -> None:
    """What one writes in any characters, sizes and numbers, every other reads exactly."""
    exchange(users(pair[0]), users(pair[1]))


@ring
@each_of(check_many_at_once, check_scope)
def test_each(users: Users, pair: Pair, exchange: Exchange) -> None:
    """What does not depend on who reads holds for each."""
    exchange(users(pair[0]), users(pair[1]))


@ring
@each_of(exchange_kv, exchange_d1, exchange_r2, check_many_at_once, check_scope)
def test_weaker_tier(weaker_users: Users, pair: Pair, exchange: Exchange) -> None:
    """All of that holds where there are no namespaces, over the other way to the storage."""
    exchange(weaker_users(pair[0]), weaker_users(pair[1]))
