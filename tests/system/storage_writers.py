"""What a crash test needs to know of a store: how to write one thing, and how to verify it.

A store joins the crash tests by a writer in WRITERS.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any, Protocol

import httpx

from tests.client import Client

NAMESPACE = "crash"


class StorageWriter(Protocol):
    """Writes one thing by its number, and verifies it after a crash."""

    def write(self, client: Client, number: int) -> None:
        """Writes; returns once the server has acknowledged it, else raises httpx.HTTPError."""

    def verify(self, client: Client, number: int) -> None:
        """Fails unless the thing with that number is there, whole and right."""

    def verify_unanswered(self, client: Client, number: int) -> None:
        """Fails if a thing whose writing was not answered is there, but not whole and right."""


def content(number: int) -> str:
    """Returns the text of a number: from bytes to a few hundred KB, with its hash in front."""
    source = random.Random(number)
    text = "é" + source.randbytes(source.choice([10, 1000, 20_000, 200_000])).hex()
    return hashlib.sha256(text.encode()).hexdigest() + text


def check_content(number: int, found: str) -> None:
    """Fails unless the text is that of the number; its own hash tells a torn one."""
    assert hashlib.sha256(found[64:].encode()).hexdigest() == found[:64], f"{number} is torn"
    assert found == content(number), f"{number} is another"


class KVWriter:
    """Puts a new key for each number."""

    def write(self, client: Client, number: int) -> None:
        body = {"value": content(number), "metadata": {"number": number}}
        client.http.put(f"/api/storage/kv/{NAMESPACE}/k/{number}", json=body).raise_for_status()

    def verify(self, client: Client, number: int) -> None:
        answer = client.http.get(f"/api/storage/kv/{NAMESPACE}/k/{number}")
        assert answer.status_code == 200, f"{number}: {answer.text[:200]}"
        shown = answer.json()
        assert shown["metadata"] == {"number": number}
        check_content(number, shown["value"])

    def verify_unanswered(self, client: Client, number: int) -> None:
        answer = client.http.get(f"/api/storage/kv/{NAMESPACE}/k/{number}")
        if answer.status_code != 404:
            self.verify(client, number)


class KVOverwriter:
    """Puts one key over and over; of one writer, the key never goes back to an earlier value."""

    def __init__(self) -> None:
        self._newest = -1

    def write(self, client: Client, number: int) -> None:
        body = {"value": content(number), "metadata": {"number": number}}
        client.http.put(f"/api/storage/kv/{NAMESPACE}/same", json=body).raise_for_status()
        self._newest = number

    def verify(self, client: Client, number: int) -> None:
        if number < self._newest:
            return  # it was overwritten by one that is looked at
        shown = client.http.get(f"/api/storage/kv/{NAMESPACE}/same").raise_for_status().json()
        found = shown["metadata"]["number"]
        assert found >= number
        check_content(found, shown["value"])

    def verify_unanswered(self, client: Client, number: int) -> None:
        """Finds nothing to say: `verify` has looked at the only key."""


class D1Writer:
    """Inserts a row and adds to a sum in one transaction for each number."""

    def write(self, client: Client, number: int) -> None:
        text = content(number)
        body = [
            {"sql": "CREATE TABLE IF NOT EXISTS rows (number INTEGER PRIMARY KEY, text TEXT)"},
            {"sql": "CREATE TABLE IF NOT EXISTS sums (only INTEGER PRIMARY KEY, number, size)"},
            {"sql": "INSERT INTO rows VALUES (?, ?)", "params": [number, text]},
            {
                "sql": "INSERT INTO sums VALUES (1, ?1, ?2) "
                "ON CONFLICT DO UPDATE SET number = number + ?1, size = size + ?2",
                "params": [number, len(text)],
            },
        ]
        answer = client.http.post(f"/api/storage/d1/{NAMESPACE}/batch", json=body)
        answer.raise_for_status()

    def verify(self, client: Client, number: int) -> None:
        [row] = self._query(client, "SELECT text FROM rows WHERE number = ?", number)
        check_content(number, row["text"])

    def verify_unanswered(self, client: Client, number: int) -> None:
        if self._query(client, "SELECT 1 FROM sqlite_schema WHERE name = 'rows'"):
            if self._query(client, "SELECT 1 FROM rows WHERE number = ?", number):
                self.verify(client, number)
            self._verify_sums(client)

    def _verify_sums(self, client: Client) -> None:
        """Fails if half of a transaction is there."""
        sums = self._query(client, "SELECT number, size FROM sums")
        rows = self._query(client, "SELECT sum(number) number, sum(length(text)) size FROM rows")
        assert sums == rows

    def _query(self, client: Client, sql: str, *params: int) -> Any:
        body = {"sql": sql, "params": list(params)}
        answer = client.http.post(f"/api/storage/d1/{NAMESPACE}/query", json=body)
        return answer.raise_for_status().json()["results"]


class R2Writer:
    """Puts a new object for each number, and one key over and over."""

    def write(self, client: Client, number: int) -> None:
        for key in (f"k/{number}", "same"):
            client.http.put(
                f"/api/storage/r2/{NAMESPACE}/{key}",
                content=content(number).encode(),
                headers={"Content-Type": "text/plain", "X-Era-Meta-Number": f"{number}"},
            ).raise_for_status()

    def verify(self, client: Client, number: int) -> None:
        self._check(client, f"k/{number}", number)

    def verify_unanswered(self, client: Client, number: int) -> None:
        if self._get(client, f"k/{number}").status_code != 404:
            self._check(client, f"k/{number}", number)
        same = self._get(client, "same")
        if same.status_code != 404:
            self._check(client, "same", int(same.headers["X-Era-Meta-Number"]))

    def _check(self, client: Client, key: str, number: int) -> None:
        answer = self._get(client, key)
        assert answer.status_code == 200, f"{key}: {answer.text[:200]}"
        assert answer.headers["X-Era-Meta-Number"] == f"{number}"
        assert answer.headers["ETag"] == f'"{hashlib.md5(answer.content).hexdigest()}"'
        check_content(number, answer.text)

    def _get(self, client: Client, key: str) -> httpx.Response:
        headers = {"Accept": "application/octet-stream"}
        return client.http.get(f"/api/storage/r2/{NAMESPACE}/{key}", headers=headers)


# One client for each. Those that share a kind share commits.
WRITERS: list[type[StorageWriter]] = [
    KVOverwriter,
    KVWriter,
    KVWriter,
    D1Writer,
    D1Writer,
    R2Writer,
]
