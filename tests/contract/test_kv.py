"""KV over HTTP: any key, by path and by query; lists, limits, quotas, expiry."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.client import Client
from tests.contract.checks import check, check_error, open_client, send_and_parse, send_pipelined
from tests.server_process import Server
from tests.waiting import wait_until

KV = "/api/storage/kv"
FORMAT = "/api/storage/kv/{namespace}/{key}"
QUARTER = 1024 * 1024 // 4
NUMBERS = itertools.count()
# Keys that URL normalisers, routers and forms like to change.
KEYS = [
    "config", "user:1", "a/b/c", "/", "//", "/a", "a/", "a//b", ".", "..", "../..", "a/../b",
    "a/./b", "\0", "a\0b", " ", "a b", "a+b", "a%2Fb", "%", "%zz", "a?b", "a#b", "a&b=c", "a;b",
    "=", "é", "e\u0301", "😀", "\U0010ffff", "\ufeff", "\n", "\r\n", "\\", '"', "'", "<", "k" * 512,
    "query", "list",
]  # fmt: skip


@pytest.fixture
def namespace() -> str:
    """A namespace of its own."""
    return f"n{next(NUMBERS)}"


def put(client: Client, namespace: str, key: str, value: str, **body: Any) -> httpx.Response:
    return client.http.put(f"{KV}/{namespace}", params={"key": key}, json={"value": value, **body})


def put_many(client: Client, namespace: str, count: int) -> list[str]:
    keys = [f"k{number:04}" for number in range(count)]
    requests = [f'PUT {KV}/{namespace}/{key}\n{{"value":"v"}}' for key in keys]
    assert send_pipelined(client.base_url, requests) == [200] * count
    return keys


def get(client: Client, namespace: str, key: str) -> httpx.Response:
    return client.http.get(f"{KV}/{namespace}", params={"key": key})


def delete(client: Client, namespace: str, key: str) -> httpx.Response:
    return client.http.delete(f"{KV}/{namespace}", params={"key": key})


def page(client: Client, namespace: str, **query: Any) -> dict[str, Any]:
    shown: dict[str, Any] = client.http.get(f"{KV}/{namespace}", params=query).json()
    assert set(shown) == {"keys", "list_complete", "cursor"}, shown
    assert shown["list_complete"] == (shown["cursor"] == "")
    return shown


def listed(client: Client, namespace: str, **query: Any) -> list[str]:
    return [key["name"] for key in page(client, namespace, **query)["keys"]]


# ---------------------------------------------------------------- one key


def test_put_get_delete(client: Client, namespace: str) -> None:
    """Each answer has just the fields of the contract; absent metadata is an empty object."""
    path = f"{KV}/{namespace}/config"
    shown = check_error(client.http.get(path), 404, "KEY_NOT_FOUND")
    assert namespace in shown["message"]
    assert client.http.put(path, json={"value": '{"theme":"dark"}'}).json() == {"success": True}
    assert client.http.get(path).json() == {"value": '{"theme":"dark"}', "metadata": {}}
    metadata = {"custom": "data", "n": [1, None, 2**70]}
    client.http.put(path, json={"value": "", "metadata": metadata}).raise_for_status()
    assert client.http.get(path).json() == {"value": "", "metadata": metadata}
    assert client.http.head(path).status_code == 200
    client.http.put(path, json={"value": "x", "metadata": None}).raise_for_status()
    assert client.http.get(path).json() == {"value": "x", "metadata": {}}
    for _ in range(2):
        assert client.http.delete(path).json() == {"success": True}
    check_error(client.http.get(path), 404, "KEY_NOT_FOUND")


@pytest.mark.parametrize("key", KEYS)
def test_any_key(client: Client, server: Server, namespace: str, key: str) -> None:
    """A key is decoded once and never normalised, in the path as in the query."""
    assert put(client, namespace, key, "by query").status_code == 200
    assert listed(client, namespace) == [key]
    # httpx would normalise the path, so the request is written by hand.
    port = int(server.base_url.rpartition(":")[2])
    head = f"{KV}/{namespace}/{quote(key, safe='/')} HTTP/1.1\r\nHost: localhost:{port}\r\n"
    got = send_and_parse(port, f"GET {head}Connection: close\r\n\r\n".encode())
    assert got.json() == {"value": "by query", "metadata": {}}
    body = '{"value":"by path"}'
    more = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    assert send_and_parse(port, f"PUT {head}{more}".encode()).json() == {"success": True}
    assert get(client, namespace, key).json()["value"] == "by path"
    assert send_and_parse(port, f"DELETE {head}Connection: close\r\n\r\n".encode()).status == 200
    assert listed(client, namespace) == []


def test_key_as_it_is_typed(server: Server, client: Client, namespace: str) -> None:
    """curl sends the bytes of a key as they are typed; they count as UTF-8."""
    put(client, namespace, "clé", "found").raise_for_status()
    port = int(server.base_url.rpartition(":")[2])
    head = f"GET {KV}/{namespace}/clé HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert send_and_parse(port, head.encode()).json()["value"] == "found"


@pytest.mark.parametrize(
    "value", ["", " ", "\0", "x\0y", "é😀\U0010ffff", "\ufeff", "\r\n", "null"]
)
def test_any_value(client: Client, namespace: str, value: str) -> None:
    """A value is a text, which comes back as it was, also the empty one."""
    put(client, namespace, "k", value).raise_for_status()
    assert get(client, namespace, "k").json() == {"value": value, "metadata": {}}


def test_query_wins(client: Client, namespace: str) -> None:
    """Where path and query both name a key, the query counts."""
    put(client, namespace, "a", "of a").raise_for_status()
    answer = client.http.get(f"{KV}/{namespace}/b", params={"key": "a"})
    assert answer.json()["value"] == "of a"


@pytest.mark.parametrize(
    "body",
    [
        {}, {"value": 1}, {"value": None}, {"value": {}}, {"value": True}, {"value": ["a"]},
        {"value": "v", "metadata": []}, {"value": "v", "metadata": "m"},
        {"value": "v", "metadata": 1}, {"value": "v", "expiration_ttl": 0},
        {"value": "v", "expiration_ttl": -1}, {"value": "v", "expiration_ttl": "1"},
        {"value": "v", "expiration_ttl": True}, {"value": "v", "expiration_ttl": []},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_bad_body(client: Client, namespace: str, body: dict[str, Any]) -> None:
    """A wrong body is 400 and stores nothing."""
    answer = client.http.put(f"{KV}/{namespace}/k", json=body)
    check_error(answer, 400, "INVALID_REQUEST")
    assert listed(client, namespace) == []


@pytest.mark.parametrize("body", [b'{"value":"\\ud800"}', b'{"value":"\xff"}', b'{"value":', b"v"])
def test_no_json(client: Client, namespace: str, body: bytes) -> None:
    """What is no JSON, or no text, is 400 and stores nothing."""
    answer = client.http.put(f"{KV}/{namespace}/k", content=body)
    check_error(answer, 400, "INVALID_JSON")
    assert listed(client, namespace) == []


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize(
    "path",
    [
        "/api/storage", "/api/storage/", "/api/storage/kv", "/api/storage/kv/", "/api/storage//",
        "/api/storage/kv//key", "/api/storage/KV/n/k", "/api/storage/nothing/n/k", "/api/storage/n",
        "/api/storage/kv/-n/k", "/api/storage/kv/.n/k", "/api/storage/kv/_n",
        "/api/storage/kv/a%20b/k", "/api/storage/kv/%C3%A9/k", "/api/storage/kv/%FF/k",
        "/api/storage/kv/a%2Fb/k", f"/api/storage/kv/{'n' * 65}/k", "/api/storage/kv/n/%FF",
        "/api/storage/kv/n?key=", "/api/storage/kv/n?key=%FF", "/api/storage/kv/n%00/k",
        "/api/storage/kv/n%0A/k",
    ],
)  # fmt: skip
def test_bad_path(client: Client, path: str) -> None:
    """A path without a type, a namespace or a key as they must be is 400 and tells its format."""
    for method in ("GET", "PUT", "DELETE"):
        shown = check_error(
            client.http.request(method, path, json={"value": "v"}), 400, "INVALID_PATH"
        )
        assert shown["format"].startswith("/api/storage/")


@pytest.mark.parametrize("path", ["n", "n/"])
def test_put_without_a_key(client: Client, path: str) -> None:
    """A list cannot be put or deleted."""
    for method in ("PUT", "DELETE"):
        answer = client.http.request(method, f"{KV}/{path}", json={"value": "v"})
        assert check_error(answer, 400, "INVALID_PATH")["format"] == FORMAT


@pytest.mark.parametrize("namespace", ["a", "0", "A.b_c-d", "n" * 64, "sessions", "kv", "n--"])
def test_any_namespace(client: Client, namespace: str) -> None:
    """Namespaces are apart from each other."""
    put(client, namespace, "k", namespace).raise_for_status()
    assert get(client, namespace, "k").json()["value"] == namespace
    assert listed(client, namespace) == ["k"]
    delete(client, namespace, "k")


@pytest.mark.parametrize("path", ["n", "n/", "n/k", "n/a/b"])
def test_wrong_method(client: Client, path: str) -> None:
    """Other methods are 405, with those that there are."""
    for method in ("POST", "PATCH"):
        answer = client.http.request(method, f"{KV}/{path}", json={})
        check_error(answer, 405, "METHOD_NOT_ALLOWED")
        assert answer.headers["Allow"] == "GET, HEAD, PUT, DELETE, OPTIONS"


# ---------------------------------------------------------------- lists


def test_list(client: Client, namespace: str) -> None:
    """Keys are sorted by their bytes and shown with their metadata; a slash at the end is fine."""
    for key in ("b", "a/2", "A", "é", "a", "😀", "\uffff"):
        put(client, namespace, key, "v", metadata={"of": key}).raise_for_status()
    shown = page(client, namespace)
    check(shown, list_complete=True, cursor="")
    names = ["A", "a", "a/2", "b", "é", "\uffff", "😀"]
    assert shown["keys"] == [{"name": name, "metadata": {"of": name}} for name in names]
    assert client.http.get(f"{KV}/{namespace}/").json() == shown
    assert listed(client, "nothing") == []


def test_prefix(client: Client, namespace: str) -> None:
    """A prefix is a text like any other: nothing in it is a pattern."""
    last = "\U0010ffff"
    keys = ["", "%", "*", "_", "a%", "a_", "ab", "é", f"x{last}", f"x{last}y", f"{last}{last}", "y"]
    for key in keys[1:]:
        put(client, namespace, key, "v").raise_for_status()
    for prefix in [*keys, "a", "x", "z", last]:
        expected = sorted((key for key in keys[1:] if key.startswith(prefix)), key=str.encode)
        assert listed(client, namespace, prefix=prefix) == expected, prefix
    check_error(client.http.get(f"{KV}/{namespace}?prefix=%FF"), 400, "INVALID_REQUEST")


def test_limits_of_pages(client: Client, namespace: str) -> None:
    """A page has 100 keys, or as many as are asked for, but 1000 at most."""
    keys = put_many(client, namespace, 1005)
    assert listed(client, namespace) == keys[:100]
    for limit in (1, 7, 999):
        assert listed(client, namespace, limit=limit) == keys[:limit]
    for limit in (1000, 1001, 5000, 10**30):
        assert listed(client, namespace, limit=limit) == keys[:1000]
    found, cursor = [], ""
    for _ in range(6):
        shown = page(client, namespace, limit=200, cursor=cursor)
        found += [key["name"] for key in shown["keys"]]
        cursor = shown["cursor"]
    assert found == keys and cursor == ""


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "-1"}, {"limit": "x"}, {"limit": "1.5"}, {"cursor": "!"}]
)
def test_bad_query(client: Client, query: dict[str, str]) -> None:
    """A number or a cursor that is none is 400."""
    answer = client.http.get(f"{KV}/n", params=query)
    message = check_error(answer, 400, "INVALID_REQUEST")["message"]
    assert next(iter(query)) in message


def test_pages_beside_writes(client: Client, namespace: str) -> None:
    """Keys that come and go between two pages move no other."""
    keys = put_many(client, namespace, 10)
    first = page(client, namespace, limit=4)
    delete(client, namespace, keys[3])
    delete(client, namespace, keys[5])
    put(client, namespace, "a", "v").raise_for_status()
    put(client, namespace, f"{keys[4]}+", "v").raise_for_status()
    rest = listed(client, namespace, cursor=first["cursor"])
    assert rest == [keys[4], f"{keys[4]}+", *keys[6:]]


# ---------------------------------------------------------------- limits and quotas


def test_key_and_metadata_limits(client: Client, namespace: str) -> None:
    """512 bytes of a key and a KiB of metadata; more is 413 and stores nothing."""
    for key in ("k" * 512, "é" * 256, "😀" * 128):
        assert put(client, namespace, key, "v").status_code == 200
        for refused in (
            put(client, namespace, key + "k", "v"), get(client, namespace, key + "k"),
            delete(client, namespace, key + "k"),
        ):  # fmt: skip
            check_error(refused, 413, "TOO_LARGE")
    text = "m" * (1024 - len('{"a":""}'))
    assert put(client, namespace, "m", "v", metadata={"a": text}).status_code == 200
    answer = put(client, namespace, "m", "w", metadata={"a": f"{text}m"})
    check_error(answer, 413, "TOO_LARGE")
    assert get(client, namespace, "m").json() == {"value": "v", "metadata": {"a": text}}


@pytest.fixture(scope="module")
def small() -> Iterator[Client]:
    """A client of a server with small bounds."""
    flags = (
        "--max-kv-value", "1M", "--max-json-body", "256K", "--namespace-quota", "1536K",
        "--storage-quota", "2560K",
    )  # fmt: skip
    with open_client(*flags) as client:
        yield client


@pytest.mark.parametrize("character", ["a", "\x01", "é", "€", "😀"], ids=ascii)
def test_value_limit(small: Client, character: str) -> None:
    """Any value that is allowed fits, however JSON writes it; one more character is 413."""
    value = character * (4 * QUARTER // len(character.encode()))
    for escaped in (True, False):
        body = json.dumps({"value": value, "metadata": {}}, ensure_ascii=escaped).encode()
        small.http.put(f"{KV}/n/k", content=body).raise_for_status()
        assert get(small, "n", "k").json()["value"] == value
        body = json.dumps({"value": f"{value}{character}"}, ensure_ascii=escaped).encode()
        check_error(small.http.put(f"{KV}/n/k", content=body), 413, "TOO_LARGE")
    assert get(small, "n", "k").json()["value"] == value
    body = b'{"value":"x"' + b" " * 30 * QUARTER + b"}"
    check_error(small.http.put(f"{KV}/n/k", content=body), 413, "TOO_LARGE")
    delete(small, "n", "k")


def test_quotas(small: Client) -> None:
    """What would go past a quota is 413 with the figures; a deletion makes room."""
    value = "v" * 3 * QUARTER
    put(small, "a", "1", value).raise_for_status()
    shown = check_error(put(small, "a", "2", value), 413, "QUOTA_EXCEEDED")
    check(shown["details"], quota=6 * QUARTER, used=3 * QUARTER + 1, requested=3 * QUARTER + 1)
    assert "namespace_quota" in shown["message"]
    put(small, "b", "1", value).raise_for_status()
    put(small, "c", "1", value).raise_for_status()
    shown = check_error(put(small, "d", "1", value), 413, "QUOTA_EXCEEDED")
    check(shown["details"], quota=10 * QUARTER, used=9 * QUARTER + 3, requested=3 * QUARTER + 1)
    assert "storage_quota" in shown["message"]
    assert put(small, "a", "1", value).status_code == 200  # no more than before
    delete(small, "b", "1")
    put(small, "d", "1", value).raise_for_status()
    for namespace in "acd":
        delete(small, namespace, "1")
    assert small.http.get("/api/resources/stats").json()["total_size"] == 0


# ---------------------------------------------------------------- expiry and durability


def test_expiry(client: Client, namespace: str) -> None:
    """An expired key is not there from then on, nowhere, and a new one may take its place."""
    put(client, namespace, "k", "v", expiration_ttl=0.5).raise_for_status()
    put(client, namespace, "l", "v", expiration_ttl=3600).raise_for_status()
    assert listed(client, namespace) == ["k", "l"]
    time.sleep(0.55)
    check_error(get(client, namespace, "k"), 404, "KEY_NOT_FOUND")
    assert listed(client, namespace) == ["l"]
    listing = client.http.get("/api/resources/list", params={"namespace": namespace}).json()
    assert [one["key"] for one in listing["resources"]] == ["l"]
    assert listing["total"] == 1
    put(client, namespace, "k", "again").raise_for_status()
    assert get(client, namespace, "k").json()["value"] == "again"


@pytest.mark.parametrize("seconds", [1e-9, 1, 1.5, 10**9, 1e300])
def test_any_time_to_live(client: Client, namespace: str, seconds: float) -> None:
    """Any number of seconds above 0 is taken."""
    body = b'{"value":"v","expiration_ttl":%d}' % seconds if seconds > 2 else None
    answer = (
        client.http.put(f"{KV}/{namespace}/k", content=body)
        if body
        else put(client, namespace, "k", "v", expiration_ttl=seconds)
    )
    assert answer.status_code == 200, answer.text
    if seconds > 2:
        assert get(client, namespace, "k").status_code == 200
    else:
        assert wait_until(lambda: get(client, namespace, "k").status_code == 404, 5)


def test_outlives_sessions(client: Client, namespace: str) -> None:
    """Deleting every session deletes no key."""
    client.session("python")
    put(client, namespace, "k", "v").raise_for_status()
    client.http.delete("/api/sessions").raise_for_status()
    assert listed(client, namespace) == ["k"]
