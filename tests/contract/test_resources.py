"""Resources over HTTP: the list of everything stored, and its counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.client import Client
from tests.contract.checks import TIME, check, check_error

LIST = "/api/resources/list"
STATS = "/api/resources/stats"


@pytest.fixture(scope="module", autouse=True)
def stored(client: Client) -> Iterator[None]:
    """Two sessions, then keys in two namespaces, the newest last."""
    for number in range(2):
        client.session("python", session_id=f"s{number}", metadata={"number": number})
    for namespace, key in (("m", "a"), ("n", "user:1"), ("n", "user:2"), ("n", "x")):
        body = {"value": "é" * len(key), "metadata": {"of": key}}
        client.http.put(f"/api/storage/kv/{namespace}/{key}", json=body).raise_for_status()
    yield
    client.http.delete("/api/sessions")


def listing(client: Client, **query: Any) -> dict[str, Any]:
    shown: dict[str, Any] = client.http.get(LIST, params=query).raise_for_status().json()
    assert set(shown) == {"resources", "total", "offset", "limit", "has_more"}
    return shown


def keys(client: Client, **query: Any) -> list[str]:
    return [one["key"] for one in listing(client, **query)["resources"]]


NEWEST_FIRST = ["x", "user:2", "user:1", "a", "s1", "s0"]


def test_list(client: Client) -> None:
    """Everything is there, newest update first, with all fields."""
    shown = listing(client)
    check(shown, total=6, offset=0, limit=100, has_more=False)
    assert [one["key"] for one in shown["resources"]] == NEWEST_FIRST
    for one in shown["resources"]:
        assert set(one) == {
            "type", "namespace", "key", "created_at", "updated_at", "size", "metadata"
        }  # fmt: skip
        assert TIME.fullmatch(one["created_at"]) and TIME.fullmatch(one["updated_at"])
    check(shown["resources"][1], type="kv", namespace="n", size=12, metadata={"of": "user:2"})
    check(shown["resources"][5], type="do", namespace="sessions", size=0, metadata={"number": 0})


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"type": "kv"}, ["x", "user:2", "user:1", "a"]),
        ({"type": "do"}, ["s1", "s0"]),
        ({"type": "d1"}, []),
        ({"type": "r2"}, []),
        ({"type": ""}, NEWEST_FIRST),
        ({"namespace": "n"}, ["x", "user:2", "user:1"]),
        ({"namespace": "sessions"}, ["s1", "s0"]),
        ({"namespace": "none"}, []),
        ({"namespace": "é/"}, []),
        ({"namespace": ""}, NEWEST_FIRST),
        ({"key_prefix": "user:"}, ["user:2", "user:1"]),
        ({"key_prefix": "s"}, ["s1", "s0"]),
        ({"key_prefix": "%"}, []),
        ({"type": "kv", "namespace": "m", "key_prefix": "a"}, ["a"]),
        ({"type": "do", "namespace": "n"}, []),
    ],
)
def test_filters(client: Client, query: dict[str, str], expected: list[str]) -> None:
    """Filters select, also together, and the total counts what they select."""
    shown = listing(client, **query)
    assert [one["key"] for one in shown["resources"]] == expected
    check(shown, total=len(expected), has_more=False)


def test_pages(client: Client) -> None:
    """Pages are parts of one list, and tell whether there is more."""
    for limit in range(1, 8):
        for offset in range(8):
            shown = listing(client, limit=limit, offset=offset)
            assert [one["key"] for one in shown["resources"]] == NEWEST_FIRST[offset:][:limit]
            check(shown, total=6, limit=limit, offset=offset, has_more=offset + limit < 6)


@pytest.mark.parametrize("number", ["x", "-1", "1.5", "", " ", "1e3", "٣", "--1", "0x10", "NaN"])
def test_bad_numbers(client: Client, number: str) -> None:
    """A number that is none counts as the default."""
    check(listing(client, limit=number, offset=number), limit=100, offset=0, total=6)


@pytest.mark.parametrize(
    ("query", "limit", "offset"),
    [
        ({"limit": "0"}, 100, 0),
        ({"limit": "1000"}, 1000, 0),
        ({"limit": "1001"}, 1000, 0),
        ({"limit": "9" * 5000}, 1000, 0),
        ({"offset": "6"}, 100, 6),
        ({"offset": "9" * 5000}, 100, 2**62),
    ],
)
def test_extreme_numbers(client: Client, query: dict[str, str], limit: int, offset: int) -> None:
    """Great numbers are lowered; none is an error."""
    check(listing(client, **query), limit=limit, offset=offset, total=6)


def test_unknown_type(client: Client) -> None:
    """A type that there is not is 400, and the types are named."""
    answer = client.http.get(LIST, params={"type": "files"})
    assert "r2" in check_error(answer, 400, "INVALID_REQUEST")["message"]


def test_updates(client: Client) -> None:
    """A put and a run bring a resource to the front; creation keeps its time."""
    before = listing(client, type="kv", key_prefix="a")["resources"][0]
    body = {"value": "new", "metadata": {"of": "a"}}
    client.http.put("/api/storage/kv/m/a", json=body).raise_for_status()
    after = listing(client, limit=1)["resources"][0]
    check(after, key="a", size=3, created_at=before["created_at"])
    assert after["updated_at"] > before["updated_at"]
    session = client.session("python", session_id="runs")
    session.run("open('f', 'w').write('12345')")
    client.http.get("/api/sessions")  # lists wait for what runs leave to be counted
    check(listing(client, limit=1)["resources"][0], key="runs", type="do", size=5)
    session.delete()
    assert keys(client, limit=1) == ["a"]
    for key in ("user:1", "user:2", "x"):  # back to the order that the other tests know
        path = f"/api/storage/kv/n/{key}"
        body = {**client.http.get(path).json(), "value": "é" * len(key)}
        client.http.put(path, json=body).raise_for_status()


def test_stats(client: Client) -> None:
    """Counts by type and by namespace, and the bytes of all."""
    shown = client.http.get(STATS).raise_for_status().json()
    assert set(shown) == {"total", "by_type", "by_namespace", "total_size"}
    check(shown, total=6, by_type={"kv": 4, "d1": 0, "r2": 0, "do": 2})
    check(shown, by_namespace={"m": 1, "n": 3, "sessions": 2})
    assert shown["total_size"] == sum(one["size"] for one in listing(client)["resources"])
    client.http.put("/api/storage/kv/more/k", json={"value": "x" * 100}).raise_for_status()
    more = client.http.get(STATS).json()
    check(more, total=7, total_size=shown["total_size"] + 100)
    check(more, by_namespace={"m": 1, "more": 1, "n": 3, "sessions": 2})
    client.http.delete("/api/storage/kv/more/k")
    assert client.http.get(STATS).json() == shown


@pytest.mark.parametrize("path", [LIST, STATS])
def test_methods(client: Client, path: str) -> None:
    """Resources are only looked at here."""
    for method in ("POST", "PUT", "DELETE"):
        check_error(client.http.request(method, path), 405, "METHOD_NOT_ALLOWED")
