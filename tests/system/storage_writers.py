"""What a crash test needs to know of a store: how to write one thing, and how to verify it.

A store joins the crash tests by a writer in WRITERS.
"""

from __future__ import annotations

import hashlib
import random
from typing import Protocol

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


# One client for each. Those that share a kind share commits.
WRITERS: list[type[StorageWriter]] = [KVOverwriter, KVWriter, KVWriter, KVWriter]
