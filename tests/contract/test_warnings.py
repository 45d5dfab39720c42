"""Warnings: what nobody knows is ignored, and named in `warnings` and in `X-Warnings`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from tests.client import Client, SessionClient

UNKNOWN = "zzz_nobody_knows"
NAMES = {
    "id": "warned",
    "namespace": "warned",
    "path": "warned.txt",
    "key": "warned",
    "link_id": "warned",
    "secret": "warned",
}
# What programs of sessions take is theirs to know.
PASSED_ON = "/proxy/"
# Deletes every session of the server, which other operations need.
LEFT_FOR_LAST = ("delete", "/api/sessions")


def in_header(answer: httpx.Response) -> list[str]:
    """The warnings of the header, which is ASCII."""
    header = answer.headers.get("X-Warnings", "")
    assert header.isascii()
    return [unquote(text) for text in header.split(", ")] if header else []


def told(answer: httpx.Response) -> list[str]:
    """The warnings of an answer: the same ones in the object and in the header."""
    assert answer.headers["Content-Type"].startswith("application/json"), answer.text
    warnings: list[str] = answer.json().get("warnings", [])
    assert in_header(answer) == warnings
    assert "warnings" not in answer.json() or warnings
    return warnings


# ---------------------------------------------------------------- every operation


class Places:
    """A session with an execution, a file and values, there again when a request took them."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self.execution_id = ""

    def ensure(self) -> None:
        session = f"/api/sessions/{NAMES['id']}"
        body = {"language": "python", "id": NAMES["id"]}
        if self._http.post("/api/sessions", json=body).status_code == 201:
            body = {"code": "print(1)", "timeout": 120}  # seconds: the host may be busy
            run = self._http.post(f"{session}/run", json=body)
            self.execution_id = run.raise_for_status().json()["execution_id"]
        self._http.put(f"{session}/files/{NAMES['path']}", content=b"abc").raise_for_status()
        self._http.put(f"{session}/code", json={"code": "1"}).raise_for_status()
        kv, r2 = "/api/storage/kv/warned/warned", "/api/storage/r2/warned/warned"
        self._http.put(kv, json={"value": "v"}).raise_for_status()
        self._http.put(r2, json={"content": ""}).raise_for_status()

    def fill(self, path: str) -> str:
        return path.format(**NAMES, execution_id=self.execution_id)


@pytest.fixture(scope="module")
def document(client: Client) -> dict[str, Any]:
    shown: dict[str, Any] = client.http.get("/openapi.json").json()
    return shown


@pytest.fixture(scope="module")
def places(client: Client) -> Places:
    return Places(client.http)


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    found = [
        (method, path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "parameters" and not path.startswith(PASSED_ON)
    ]
    found.sort(key=lambda one: one[:2] == LEFT_FOR_LAST)
    assert len(found) > 40
    return found


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The object schema that a schema means, also where it may be null; empty when it is none."""
    for one in [schema, *schema.get("anyOf", ())]:
        if "$ref" in one:
            found: dict[str, Any] = document["components"]["schemas"][one["$ref"].split("/")[-1]]
            return found
    return schema


def bodies(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """Bodies with an unknown field at each place where a model is, and what is named then."""
    schema = resolve(document, schema)
    example = (schema.get("examples") or [{}])[0]
    if schema.get("type") == "array":
        for body, named in bodies(document, schema["items"]):
            yield [*example, body], f"[{len(example)}].{named}"
        return
    yield {**example, UNKNOWN: 1}, UNKNOWN
    for name, field in schema.get("properties", {}).items():
        inner = resolve(document, field)
        if inner is not field and "properties" in inner:
            for body, named in bodies(document, inner):
                yield {**example, name: body}, f"{name}.{named}"


def check(answer: httpx.Response, named: str, where: str) -> None:
    expected = f"{named} is not known"
    assert expected in [text[: len(expected)] for text in in_header(answer)], where
    if answer.headers["Content-Type"].startswith("application/json"):
        assert told(answer), where


def test_every_query(client: Client, document: dict[str, Any], places: Places) -> None:
    """Every operation names a query parameter that it does not know, whatever it answers."""
    for method, path, operation in operations(document):
        places.ensure()
        parameters = operation.get("parameters", [])
        known = [one["name"] for one in parameters if one["in"] == "query"]
        url = places.fill(path)
        with client.http.stream(method, url, params={UNKNOWN: "1"}) as answer:
            answer.read()
        check(answer, UNKNOWN, f"{method} {path}")
        for name in known:
            raw = {"raw": "true"} if "raw" in known else {}  # the others count beside it
            with client.http.stream(method, url, params={**raw, name: "1"}) as answer:
                answer.read()
            assert not [text for text in in_header(answer) if text.startswith(f"{name} ")], url


def test_every_body(client: Client, document: dict[str, Any], places: Places) -> None:
    """Every body names a field that its model does not know, at each place where a model is."""
    tried = []
    for method, path, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {})
        if "application/json" not in content:
            continue
        for body, named in bodies(document, content["application/json"]["schema"]):
            places.ensure()
            answer = client.http.request(method, places.fill(path), json=body)
            check(answer, named, f"{method} {path} {body}")
            tried.append(named)
    assert len(tried) > 14
    assert f"limits.{UNKNOWN}" in tried
    assert any(named.startswith("[") for named in tried)


def test_operations_without_a_body(
    client: Client, document: dict[str, Any], places: Places
) -> None:
    """Where no body is taken every field of one is unknown."""
    for method, path, operation in operations(document):
        if "requestBody" in operation or method == "get":
            continue
        places.ensure()
        answer = client.http.request(method, places.fill(path), json={UNKNOWN: 1})
        check(answer, UNKNOWN, f"{method} {path}")


def test_described(document: dict[str, Any]) -> None:
    """Every answer in JSON may have `warnings`, and every answer the header."""
    schemas = document["components"]["schemas"]
    for _, path, operation in operations(document):
        for status, response in operation["responses"].items():
            assert "X-Warnings" in response["headers"], (path, status)
            schema = response["content"].get("application/json", {}).get("schema")
            forms = [resolve(document, schema)] if schema else []
            for form in [one for whole in forms for one in whole.get("anyOf", [whole])]:
                shown = schemas[form["$ref"].split("/")[-1]] if "$ref" in form else form
                assert shown["properties"]["warnings"]["type"] == "array", (path, status)


# ---------------------------------------------------------------- what is named


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"timeout": 5}, ["timeout is not known; did you mean default_timeout?"]),
        ({"Default_Timeout": 5}, ["Default_Timeout is not known; did you mean default_timeout?"]),
        ({"defaultTimeout": 5}, ["defaultTimeout is not known; did you mean default_timeout?"]),
        ({"qqqq": 5, "metadata": {}}, ["qqqq is not known"]),
        ({"qqqq": None}, ["qqqq is not known"]),
        ({"metadata": {"a": 1}, "data": {"ttl": 1}}, []),
        ({"": 1}, [" is not known"]),
        ({}, []),
    ],
)
def test_change(shared: SessionClient, body: dict[str, Any], expected: list[str]) -> None:
    """A field that is not known is named, with the one that may be meant; nothing changes by it."""
    answer = shared.http.patch(shared.path, json=body)
    assert answer.status_code == 200
    assert told(answer) == expected
    assert "default_timeout" not in answer.json()["metadata"]


def test_nested(client: Client) -> None:
    """A field of a nested model is named with its place."""
    body = {"language": "python", "limits": {"memory": 512, "memory_mb": 256}}
    answer = client.http.post("/api/sessions", json=body)
    assert answer.status_code == 201
    assert told(answer) == ["limits.memory is not known; did you mean memory_mb?"]
    client.http.delete(f"/api/sessions/{answer.json()['id']}")


def test_items_of_an_array(client: Client) -> None:
    """Fields in a batch are named with the number of their statement."""
    batch = [{"sql": "SELECT :a AS a", "params": {"a": 1}}, {"sql": "SELECT 2", "sqll": "x"}]
    answer = client.http.post("/api/storage/d1/warned/batch", json=batch)
    assert answer.status_code == 200
    assert told(answer) == ["[1].sqll is not known; did you mean sql?"]


def test_what_is_the_callers(client: Client, shared: SessionClient) -> None:
    """Nothing is looked for inside what callers name as they like."""
    http, free = client.http, {"memory": 1, "timeoutt": {"code": 2}}
    texts = {"memory": "a", "timeoutt": "b"}
    for answer in (
        shared.http.patch(shared.path, json={"data": free, "metadata": free}),
        http.post(f"{shared.path}/run", json={"code": "", "update_data": free, "env": texts}),
        http.post("/api/execute", json={"language": "python", "code": "", "files": texts}),
        http.put("/api/storage/kv/warned/a", json={"value": "", "metadata": free}),
        http.put("/api/storage/r2/warned/a", json={"content": "", "metadata": texts}),
        http.post("/api/storage/d1/warned/query", json={"sql": "SELECT :memory, :timeoutt",
                                                        "params": texts}),
    ):  # fmt: skip
        assert answer.status_code == 200, answer.text
        assert told(answer) == []


def test_query(client: Client, shared: SessionClient) -> None:
    """A query parameter is named; those of a list and of a single key are told apart."""
    kv, r2 = "/api/storage/kv/warned", "/api/storage/r2/warned"
    client.http.put(f"{kv}/a", json={"value": ""})
    for path, expected in (
        ("/api/sessions?limitt=1", ["limitt is not known; did you mean limit?"]),
        ("/api/sessions?limit=1&offset=0&language=go", []),
        ("/health?verbose=", ["verbose is not known"]),
        (f"{shared.path}/files?limit=3", ["limit is not known"]),
        (f"{kv}?prefix=a&limit=1&cursor=", []),
        (f"{kv}/?prefix=a&limit=1&cursor=", []),
        (f"{r2}/?prefix=a&limit=1&cursor=", []),
        (f"{kv}/?key=a", []),
        (f"{kv}/a?prefix=a", ["prefix is not known"]),
        ("/health?n%C3%A9=1&%00=2&b%0Ac=3", ["né is not known", "\\x00 is not known",
                                             "b\\nc is not known"]),
    ):  # fmt: skip
        answer = client.http.get(path)
        assert answer.status_code == 200, path
        assert told(answer) == expected, path


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\r\nX-Evil: 1", "a\\r\\nX-Evil: 1"),
        ("\x1b[31m\u202e\u2028\x7f", "\\x1b[31m\\u202e\\u2028\\x7f"),
        ("é☃, b%", "é☃, b%"),
        ("x" * 5000, "x" * 64 + "…"),
        ("\0" * 5000, None),
    ],
)
def test_names_are_harmless(shared: SessionClient, name: str, shown: str | None) -> None:
    """Names are escaped and cut: neither a header, a terminal nor a page is disturbed."""
    answer = shared.http.patch(shared.path, json={name: 1})
    assert answer.status_code == 200
    [text] = told(answer)
    assert len(text) <= 200
    assert text.isprintable()
    assert shown is None or text.startswith(f"{shown} is not known")
    assert "X-Evil" not in answer.headers


def test_few(shared: SessionClient) -> None:
    """However much is unknown, eight warnings are given, those of the query first."""
    body = {f"n{number}é": number for number in range(10_000)}
    answer = shared.http.patch(shared.path, params={"q": 1}, json=body)
    assert answer.status_code == 200
    assert told(answer)[:2] == ["q is not known", "n0é is not known"]
    assert len(told(answer)) == 8


# ---------------------------------------------------------------- where they are


def test_errors_tell_them_too(client: Client, shared: SessionClient) -> None:
    """An error for a body or a query that nobody understands says what nobody knows."""
    answer = client.http.post("/api/sessions", json={"langauge": "python"})
    assert answer.status_code == 400
    assert told(answer) == ["langauge is not known; did you mean language?"]
    answer = client.http.get("/api/sessions?limit=x&ofset=1")
    assert answer.status_code == 400
    assert told(answer) == ["ofset is not known; did you mean offset?"]
    answer = client.http.get("/api/sessions/nobody?a=1")
    assert (answer.status_code, told(answer)) == (404, ["a is not known"])
    assert told(client.http.get("/nothing?a=1")) == []


def test_header_alone(client: Client, shared: SessionClient) -> None:
    """Streams, files, texts, documents and answers without a body have the header alone."""
    path, expected = shared.path, ["a is not known"]
    client.http.put(f"{path}/files/a.json", content=b"{}")
    stream = client.http.post(f"{path}/stream", json={"code": "1", "a": 1})
    assert stream.headers["Content-Type"].startswith("text/event-stream")
    assert in_header(stream) == expected
    assert "not known" not in stream.text
    execution = f"{path}/executions/{stream.headers['X-Execution-Id']}"
    for other in (f"{path}/files/a.json", f"{execution}/stream", f"{execution}/stdout", "/metrics"):
        answer = client.http.get(other, params={"a": 1})
        assert (answer.status_code, in_header(answer)) == (200, expected), other
        assert "not known" not in answer.text
    head = client.http.head("/health?a=1")
    assert (head.content, in_header(head)) == (b"", expected)
    document = client.http.get("/openapi.json?a=1")
    assert in_header(document) == expected
    assert "warnings" not in document.json()


def test_of_a_streamed_object(client: Client) -> None:
    """An object that is streamed as JSON has them, too, and its length is told right."""
    path = "/api/storage/r2/warned/streamed"
    client.http.put(path, json={"content": "aGVsbG8K"})
    answer = client.http.get(path, params={"prefix": "a"})
    assert told(answer) == ["prefix is not known"]
    assert answer.json()["content"] == "aGVsbG8K"
    assert answer.content.endswith(b"}\n")
    assert int(answer.headers["Content-Length"]) == len(answer.content)


def test_timeouts_and_background(shared: SessionClient) -> None:
    """Whatever status a run is answered with, it tells them."""
    for status, body in (
        (408, {"code": "while True: pass", "timeout": 0.2}),
        (202, {"code": "1", "background": True}),
        (200, {"code": "1"}),
    ):
        answer = shared.http.post(f"{shared.path}/run", json={**body, "tiemout_ms": 1})
        assert answer.status_code == status
        assert told(answer) == ["tiemout_ms is not known; did you mean timeout_ms?"]


def test_repeated_request(shared: SessionClient) -> None:
    """A request that is repeated under its key gets the same warnings, and runs once."""
    headers, body = {"Idempotency-Key": "warned-1"}, {"code": "print(1)", "cod": 1}
    answers = [shared.http.post(f"{shared.path}/run", json=body, headers=headers) for _ in range(2)]
    assert [told(one) for one in answers] == [["cod is not known; did you mean code?"]] * 2
    assert answers[0].headers["X-Execution-Id"] == answers[1].headers["X-Execution-Id"]


def test_absent(client: Client, shared: SessionClient) -> None:
    """Where everything is known there is neither the field nor the header."""
    for answer in (client.http.get("/health"), shared.http.post(f"{shared.path}/run", json={})):
        assert "warnings" not in answer.json()
        assert "X-Warnings" not in answer.headers


def test_body_that_is_taken_as_text(client: Client) -> None:
    """The type that a body claims changes nothing about its warnings."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    body = json.dumps({"language": "python", "code": "", "filez": {}})
    answer = client.http.post("/api/execute", content=body, headers=headers)
    assert told(answer) == ["filez is not known; did you mean files?"]


def test_key_that_is_not_honoured(client: Client, shared: SessionClient) -> None:
    """A request that would be done again says so to a caller that counts on its key."""
    headers, expected = {"Idempotency-Key": "warned-2"}, ["Idempotency-Key is honoured by run"]
    file, sql = {"path": "a"}, {"sql": "SELECT 1"}
    for path, body, texts in (
        (f"{shared.path}/exec", {"argv": ["true"]}, expected),
        ("/api/execute", {"language": "python", "code": ""}, expected),
        ("/api/sessions", {"language": "python"}, expected),
        (f"{shared.path}/duplicate", {}, expected),
        (f"{shared.path}/links", file, expected),
        ("/api/storage/d1/warned/exec", sql, expected),
        (f"{shared.path}/run", {"code": ""}, []),
        (f"{shared.path}/stream", {"code": ""}, []),
    ):
        answer = client.http.post(path, json=body, headers=headers)
        assert [one.partition(" and stream")[0] for one in in_header(answer)] == texts, path
    for method in ("GET", "PATCH"):  # which is as often as you like
        assert told(client.http.request(method, shared.path, headers=headers)) == []


def test_conditions_that_are_not_honoured(client: Client, shared: SessionClient) -> None:
    """A change that is made whatever the present state is says so; those of bytes look at it."""
    honoured, told_of = "is honoured by files and objects of R2 alone", ["If-None-Match"]
    headers = {"If-None-Match": "*"}
    for method, path, body, names in (
        ("PUT", "/api/storage/kv/warned/new", {"value": ""}, told_of),
        ("DELETE", "/api/storage/kv/warned/new", None, told_of),
        ("PUT", f"{shared.path}/code", {"code": ""}, told_of),
        ("PATCH", shared.path, {}, told_of),
        ("GET", shared.path, None, []),
        ("PUT", f"{shared.path}/files/new.json", {}, []),
        ("PUT", "/api/storage/r2/warned/new", {"content": ""}, []),
    ):
        answer = client.http.request(method, path, json=body, headers=headers)
        assert answer.status_code == 200, (method, path)
        assert [text.partition(f" {honoured}")[0] for text in told(answer)] == names, path
    again = {"Last-Event-ID": "7"}
    answer = client.http.post(f"{shared.path}/stream", json={"code": ""}, headers=again)
    (text,) = in_header(answer)
    assert "request of its own" in text


def test_two_ids(client: Client, shared: SessionClient) -> None:
    """An id that another field wins over is told; the same one twice is not."""
    for path, name, fields in (
        ("/api/sessions", "session_id", {"language": "python"}),
        (f"{shared.path}/duplicate", "new_id", {}),
    ):
        told_of_two = [f"id is not used beside {name}, which is another"]
        for other, expected in (("two", told_of_two), ("one", [])):
            answer = client.http.post(path, json={**fields, name: "one", "id": other})
            assert (answer.json()["id"], told(answer)) == ("one", expected)
            client.http.delete("/api/sessions/one").raise_for_status()


def test_variables_of_the_server(client: Client, shared: SessionClient) -> None:
    """A variable that the server sets is told, wherever code is run; others are not."""
    env = {"ERA_SESSION_ID": "x", "ERA_BASE_URL": 1, "ERA_STORAGE_URL": "x", "ERA_MINE": "x"}
    expected = [
        f"env.{name} is set by the server: this value is not used"
        for name in ("ERA_BASE_URL", "ERA_SESSION_ID")
    ]
    for path, body in (
        ("/api/execute", {"language": "python", "code": ""}),
        (f"{shared.path}/run", {"code": ""}),
        (f"{shared.path}/exec", {"argv": ["true"]}),
    ):
        answer = client.http.post(path, json={**body, "env": env})
        assert (answer.status_code, told(answer)) == (200, expected), path


def test_hosts_without_internet_access(client: Client) -> None:
    """Hosts that a session may reach are told to open nothing until it has internet access."""
    hosts = {"allow_hosts": ["example.org"]}
    answer = client.http.post("/api/sessions", json={"language": "python", **hosts})
    path = f"/api/sessions/{answer.json()['id']}"
    expected = ["allow_hosts opens nothing while allowInternetAccess is false"]
    assert told(answer) == told(client.http.patch(path, json=hosts)) == expected
    assert told(client.http.patch(path, json={"allow_hosts": None})) == []
    client.http.delete(path)
    asked = {"language": "python", "allowInternetAccess": True, **hosts}
    answer = client.http.post("/api/sessions", json=asked)
    assert answer.status_code == 409 or told(answer) == []  # a host whose walls have no such door
