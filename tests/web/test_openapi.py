"""The document: every route, every answer as its model says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from typing import Any, get_args

import httpx
import pytest
from pydantic import TypeAdapter

from era_kernels import __version__
from era_kernels.models import Event, StackFrame, Variable, Variables
from era_kernels.models.storage_namespaces import NAMESPACE_PATTERN
from era_kernels.storage.resource_stores import ResourceStores
from era_kernels.web.base_request_models import ID_PATTERN, RequestModel, validate
from era_kernels.web.base_response_models import ErrorAnswer
from era_kernels.web.code import PutCode
from era_kernels.web.d1 import SqlStatement
from era_kernels.web.duplicate import DuplicateSession
from era_kernels.web.execute import ExecuteRequest
from era_kernels.web.kv import PutValue
from era_kernels.web.links import CreateLink
from era_kernels.web.operations import Media, Operation, Route
from era_kernels.web.r2 import PutObject
from era_kernels.web.routes import (
    Services,
    make_resource_routes,
    make_routes,
    make_served_routes,
    make_storage_routes,
)
from era_kernels.web.runs import RunRequest
from era_kernels.web.sessions import ChangeSession, CreateSession
from tests.web.fakes import (
    LANGUAGE,
    FakeExecutionService,
    FakeFileService,
    FakeIdempotentRuns,
    FakeInspectionService,
    FakeProxies,
    FakeServerInfo,
    FakeSessionService,
    FakeStoredCodeService,
)
from tests.web.serving import ServerUnderTest
from tests.web.test_proxy import PORT, program

_SESSIONS = FakeSessionService()
ROUTES: list[Route] = make_routes(
    Services(
        sessions=_SESSIONS,  # type: ignore[arg-type]
        executions=FakeExecutionService(_SESSIONS),  # type: ignore[arg-type]
        server_info=FakeServerInfo(),  # type: ignore[arg-type]
        codes=FakeStoredCodeService(_SESSIONS),  # type: ignore[arg-type]
        files=FakeFileService(_SESSIONS),  # type: ignore[arg-type]
        idempotent_runs=FakeIdempotentRuns(_SESSIONS),  # type: ignore[arg-type]
        inspection=FakeInspectionService(_SESSIONS),  # type: ignore[arg-type]
        links=None,  # type: ignore[arg-type]
        logs=None,  # type: ignore[arg-type]
        proxies=FakeProxies(_SESSIONS),  # type: ignore[arg-type]
        stored_code_requests=FakeProxies(_SESSIONS),  # type: ignore[arg-type]
        resources=None,  # type: ignore[arg-type]
    )
)
ROUTES += make_served_routes()
ROUTES += make_resource_routes(None)  # type: ignore[arg-type]
ROUTES += make_storage_routes(ResourceStores(None, None, None, None))  # type: ignore[arg-type]
OPERATIONS: dict[tuple[str, str], Operation] = {
    (method, route.path): operation
    for route in ROUTES
    for method, operation in route.handler.operations.items()
}
SESSION = "/api/sessions/{id}"
EXEC = "/api/sessions/{id}/exec"
RUN = "/api/sessions/{id}/run"
EXECUTE = "/api/execute"
EXECUTION = "/api/sessions/{id}/executions/{execution_id}"
KV = "/api/storage/kv/{namespace}"
FILES = "/api/sessions/{id}/files"
LINKS = "/api/sessions/{id}/links"
PROXY = "/proxy/{id}/{port}/{path}"
LINK = "/link/{secret}/{path}"
D1 = "/api/storage/d1/{namespace}"
R2 = "/api/storage/r2/{namespace}"


@pytest.fixture(scope="module")
def document(server: ServerUnderTest) -> dict[str, Any]:
    answer = server.http.get("/openapi.json")
    assert answer.headers["Content-Type"].startswith("application/json")
    found: dict[str, Any] = answer.json()
    return found


# ---------------------------------------------------------------- the document


def test_head(document: dict[str, Any]) -> None:
    """The document has its own version and the server's."""
    assert document["openapi"] == "3.1.0"
    assert document["info"]["version"] == __version__


def test_every_route_is_listed(document: dict[str, Any]) -> None:
    """Every method of every path of the API is there, and nothing else."""
    listed = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert listed == set(OPERATIONS)


def test_every_declared_answer_is_listed(document: dict[str, Any]) -> None:
    """Each operation lists its statuses, the error among them, and has a name of its own."""
    names = []
    for (method, path), operation in OPERATIONS.items():
        shown = document["paths"][path][method.lower()]
        assert set(shown["responses"]) == {*map(str, operation.responses), "default"}
        assert shown["summary"] and shown["tags"]
        assert ("requestBody" in shown) == (operation.request is not None)
        names.append(shown["operationId"])
    assert len(names) == len(set(names))


def test_path_parameters(document: dict[str, Any]) -> None:
    """Each variable part of a path is a parameter with the pattern of ids, or of namespaces.

    The path of a file and a key are any text.
    """
    for path, item in document["paths"].items():
        shown = item.get("parameters", [])
        assert [one["name"] for one in shown] == re.findall(r"\{(\w+)\}", path)
        for one in shown:
            pattern = NAMESPACE_PATTERN if one["name"] == "namespace" else ID_PATTERN
            if one["name"] == "port":
                assert one["schema"] == {"type": "integer", "minimum": 1, "maximum": 65535}
            elif one["name"] not in ("path", "key"):
                assert one["schema"]["pattern"] == f"^{pattern.pattern}$"
        if path.endswith(("{path}", "{key}")):
            assert shown[-1]["schema"] == {"type": "string", "minLength": 1}


def test_query_parameters(document: dict[str, Any]) -> None:
    """Headers are listed as declared, query parameters from the models that read them."""
    for (method, path), operation in OPERATIONS.items():
        shown = document["paths"][path][method.lower()].get("parameters", [])
        expected = [("header", header.name) for header in operation.headers]
        if operation.query:
            expected += [("query", name) for name in operation.query.model_fields]
        assert [(one["in"], one["name"]) for one in shown] == expected


def references(value: Any) -> Iterator[str]:
    """Every `$ref` in it."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_references(document: dict[str, Any]) -> None:
    """Whatever is referred to is there, and whatever is there is referred to."""
    components = document["components"]
    there = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "headers")
        for name in components[kind]
    }
    assert set(references(document)) == there


def test_phrases_of_the_contract(document: dict[str, Any]) -> None:
    """Required fields, both units of the timeout and both names of an id are shown."""
    schemas = document["components"]["schemas"]
    assert schemas["ExecuteRequest"]["required"] == ["language", "code"]
    assert {"timeout", "timeout_ms", "env"} <= set(schemas["RunRequest"]["properties"])
    assert {"id", "session_id"} <= set(schemas["CreateSession"]["properties"])
    assert schemas["ErrorAnswer"]["required"] == ["error", "message", "code"]


MODELS = [
    ExecuteRequest, RunRequest, CreateSession, ChangeSession, DuplicateSession, PutCode, PutValue,
    SqlStatement, PutObject, CreateLink,
]  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_examples(document: dict[str, Any], model: type[RequestModel]) -> None:
    """The page fills its forms with an example that is a good body, not with null everywhere."""
    [example] = document["components"]["schemas"][model.__name__]["examples"]
    assert validate(model, example).model_fields_set == set(example)
    assert None not in example.values()


def test_no_titles_of_fields(document: dict[str, Any]) -> None:
    """Fields have the names that the API gives them, and no others made of those."""
    schemas = document["components"]["schemas"]
    fields = [field for one in schemas.values() for field in one.get("properties", {}).values()]
    parameters = [
        one["schema"]
        for item in document["paths"].values()
        for operation in item.values()
        if isinstance(operation, dict)
        for one in operation.get("parameters", [])
    ]
    assert fields and parameters
    assert [one for one in [*fields, *parameters] if "title" in one] == []


def test_limits_are_numbers(document: dict[str, Any]) -> None:
    """Whatever the limits are called, each is a number or null."""
    kinds = document["components"]["schemas"]["LimitsAnswer"]["additionalProperties"]["anyOf"]
    assert kinds == [{"type": "number"}, {"type": "null"}]


@pytest.mark.parametrize("path", ["/api/sessions/{id}/stream", f"{EXECUTION}/stream"])
def test_every_event_is_described(document: dict[str, Any], path: str) -> None:
    """The descriptions of both streams list the types of events and the codes of errors."""
    [operation] = [one for one in document["paths"][path].values() if isinstance(one, dict)]
    named = set(re.findall(r"\w+", operation["description"]))
    assert named >= {kind.type for kind in get_args(Event)}


# ---------------------------------------------------------------- the answers


Ask = Callable[[ServerUnderTest], httpx.Response]


def asking(method: str, path: str, body: Any = None) -> Ask:
    """A request to a path of session s1 and its execution exec-1."""

    def ask(server: ServerUnderTest) -> httpx.Response:
        place = path.format(id="s1", execution_id="exec-1", path="made", namespace="n1", key="made")
        return server.http.request(method, place, json=body)

    return ask


def answered(server: ServerUnderTest) -> httpx.Response:
    """A line for a program that waits for one."""
    session = "/api/sessions/s1"
    with server.http.stream("POST", f"{session}/stream", json={"code": "ask ?"}) as live:
        next(live.iter_lines())
        place = f"{session}/executions/{live.headers['X-Execution-Id']}/input"
        return server.http.post(place, json={"value": "a"})


def unhealthy(path: str) -> Ask:
    """A request while a part is down."""

    def ask(server: ServerUnderTest) -> httpx.Response:
        server.server_info.failed_parts = {"store": "The disk is gone."}
        try:
            return server.http.get(path)
        finally:
            server.server_info.failed_parts = {}

    return ask


def case(
    method: str, path: str, status: int, body: Any = None, name: str = "", query: str = ""
) -> Any:
    ask = asking(method, path + query, body)
    return pytest.param(method, path, status, ask, id=f"{method} {path} {status} {name}".strip())


CREATE: dict[str, Any] = {
    "language": LANGUAGE, "session_id": "s2", "default_timeout": 1.5, "ttl": 60
}  # fmt: skip
OBJECT: dict[str, Any] = {
    "content": "aGVsbG8K", "metadata": {"a": "b"}, "httpMetadata": {"contentType": "image/png"}
}  # fmt: skip
PROGRAM: dict[str, Any] = {"language": LANGUAGE, "code": "out a\nshow b\nfail E\ntruncate"}


def interrupting(server: ServerUnderTest) -> httpx.Response:
    """Only what runs can be interrupted."""
    body = {"code": "sleep 60", "background": True}
    started = server.http.post(RUN.format(id="s1"), json=body).json()
    path = EXECUTION.format(id="s1", execution_id=started["execution_id"])
    return server.http.post(f"{path}/interrupt")


def interrupting_session(server: ServerUnderTest) -> httpx.Response:
    """So can whatever run is on the kernel."""
    server.http.post(RUN.format(id="s1"), json={"code": "sleep 60", "background": True})
    return server.http.post("/api/sessions/s1/interrupt")


def linking(method: str) -> Ask:
    """A request by a link to a file."""

    def ask(server: ServerUnderTest) -> httpx.Response:
        made = server.http.post(LINKS.format(id="s1"), json={"path": "made", "method": method})
        return server.http.request(method, made.json()["url"], content=b"bytes")

    return ask


def reaching(server: ServerUnderTest) -> httpx.Response:
    """A request to what listens on a port."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nok"
    with program(server, answer):
        return server.http.get(PROXY.format(id="s1", port=PORT, path="a"))


def revoking(server: ServerUnderTest) -> httpx.Response:
    """Only what is there can be revoked."""
    made = server.http.post(LINKS.format(id="s1"), json={"port": 8000}).json()
    return server.http.delete(f"{LINKS.format(id='s1')}/{made['id']}")


def listing(server: ServerUnderTest) -> httpx.Response:
    """A list of links of both kinds."""
    for target in ({"port": 8000}, {"path": "made"}):
        server.http.post(LINKS.format(id="s1"), json=target)
    return server.http.get(LINKS.format(id="s1"))


CASES = [
    case("POST", EXECUTE, 200, PROGRAM),
    case("POST", EXECUTE, 200, {**PROGRAM, "code": "die 9"}, "death"),
    case("POST", EXECUTE, 408, {**PROGRAM, "code": "timeout"}),
    case("GET", "/api/sessions", 200),
    case("POST", "/api/sessions", 201, CREATE),
    case("POST", "/api/sessions", 200, {**CREATE, "session_id": "s1", "exist_ok": True}),
    case("DELETE", "/api/sessions", 200),
    case("GET", "/api/sessions/{id}", 200),
    case("PATCH", "/api/sessions/{id}", 200, {"default_timeout": 3}),
    case("DELETE", "/api/sessions/{id}", 200),
    case("POST", "/api/sessions/{id}/restart", 200),
    case("POST", "/api/sessions/{id}/duplicate", 201, {"new_id": "s3"}),
    case("PUT", "/api/sessions/{id}/code", 200, {"code": "out a", "description": "b"}),
    case("GET", "/api/sessions/{id}/code", 200),
    case("POST", RUN, 200, {"code": PROGRAM["code"]}),
    case("POST", RUN, 200, {"code": "die 9"}, "death"),
    case("POST", RUN, 202, {"code": "out a", "background": True}),
    case("POST", RUN, 408, {"code": "timeout\ntruncate"}),
    case("POST", EXEC, 200, {"command": "out a\ntruncate"}),
    case("POST", EXEC, 200, {"argv": ["die", "9"]}, "death"),
    case("POST", EXEC, 202, {"command": "out a", "background": True}),
    case("POST", EXEC, 408, {"command": "timeout"}),
    case("POST", f"{EXEC}/stream", 200, {"command": "out a"}),
    pytest.param("POST", f"{SESSION}/interrupt", 200, interrupting_session, id="session interrupt"),
    case("POST", "/api/sessions/{id}/stream", 200, PROGRAM),
    case("GET", "/api/sessions/{id}/executions", 200),
    case("GET", EXECUTION, 200),
    case("GET", f"{EXECUTION}/stream", 200),
    case("GET", f"{EXECUTION}/stream", 204, query="?last_event_id=99"),
    pytest.param("POST", f"{EXECUTION}/interrupt", 200, interrupting, id="interrupt"),
    case("GET", f"{EXECUTION}/stdout", 200),
    case("GET", f"{EXECUTION}/stderr", 200),
    pytest.param("POST", f"{EXECUTION}/input", 200, answered, id="input 200"),
    case("GET", f"{EXECUTION}/stack", 200),
    case("GET", "/api/sessions/{id}/variables", 200),
    case("GET", "/api/sessions/{id}/log", 200),
    case("GET", "/api/sessions/{id}/host", 200, query="?port=8000"),
    case("GET", "/api/sessions/{id}/ports", 200),
    case("POST", LINKS, 201, {"path": "made", "method": "GET", "ttl": 5}),
    pytest.param("GET", LINKS, 200, listing, id="links 200"),
    pytest.param("DELETE", f"{LINKS}/{{link_id}}", 200, revoking, id="revoke 200"),
    pytest.param("GET", LINK, 200, linking("GET"), id="GET link 200"),
    pytest.param("PUT", LINK, 200, linking("PUT"), id="PUT link 200"),
    pytest.param("GET", PROXY, 200, reaching, id="GET proxy 200"),
    case("GET", FILES, 200),
    case("GET", f"{FILES}/{{path}}", 200),
    case("PUT", f"{FILES}/{{path}}", 200, {"any": "body"}),
    case("DELETE", f"{FILES}/{{path}}", 200),
    case("GET", KV, 200),
    case("GET", KV, 200, None, "by query", query="?key=made"),
    case("PUT", KV, 200, {"value": "v"}, query="?key=made"),
    case("DELETE", KV, 200, query="?key=made"),
    case("GET", f"{KV}/{{key}}", 200),
    case("PUT", f"{KV}/{{key}}", 200, {"value": "v", "metadata": {"a": 1}}),
    case("DELETE", f"{KV}/{{key}}", 200),
    case("GET", "/api/resources/list", 200),
    case("GET", "/api/resources/stats", 200),
    case("POST", f"{D1}/query", 200, {"sql": "SELECT 1 AS a, NULL AS b, x'00' AS c"}),
    case("POST", f"{D1}/exec", 200, {"sql": "CREATE TABLE IF NOT EXISTS t (a)"}),
    case("POST", f"{D1}/exec", 200, {"sql": "SELECT ?", "params": [1]}, "rows"),
    case("POST", f"{D1}/batch", 200, [{"sql": "SELECT :a", "params": {"a": 1.5}}]),
    case("PUT", f"{R2}/{{key}}", 200, OBJECT),
    case("GET", f"{R2}/{{key}}", 200),
    case("GET", R2, 200),
    case("DELETE", f"{R2}/{{key}}", 200),
    pytest.param("PUT", R2, 200, asking("PUT", f"{R2}?key=b", OBJECT), id="PUT ?key="),
    pytest.param("DELETE", R2, 200, asking("DELETE", f"{R2}?key=b"), id="DELETE ?key="),
    case("GET", "/health", 200),
    case("GET", "/api/health", 200),
    pytest.param("GET", "/health", 503, unhealthy("/health"), id="/health 503"),
    pytest.param("GET", "/api/health", 503, unhealthy("/api/health"), id="/api/health 503"),
    case("GET", "/api/languages", 200),
    case("GET", "/api/limits", 200),
    case("GET", "/metrics", 200),
]


@pytest.mark.parametrize(("method", "path", "status", "ask"), CASES)
def test_answer_is_as_declared(
    server: ServerUnderTest, session: str, method: str, path: str, status: int, ask: Ask
) -> None:
    """Each answer is what its operation declares: all fields, no others, exact types."""
    server.http.put(f"{session}/code", json={"code": "out a"})
    server.http.post(f"{session}/run", json={"code": "out a\nshow b\nfail E\ntruncate"})
    server.files.add("made", b"bytes", "application/octet-stream")
    server.http.put(KV.format(namespace="n1"), params={"key": "made"}, json={"value": "v"})
    server.inspection.frames = [StackFrame("f", 1, "g", "s")]
    server.inspection.visible = Variables(
        (
            Variable("a", "int", value=1),
            Variable("b", "t", shape=(2, 3)),
            Variable("c", "s", size=9),
        )
    )
    answer = ask(server)
    assert answer.status_code == status, answer.text
    declared = OPERATIONS[method, path].responses[status]
    if declared is None:
        assert answer.content == b""
    elif isinstance(declared, Media):
        assert fnmatch(answer.headers["Content-Type"].partition(";")[0], declared.type)
    else:
        TypeAdapter(declared).validate_json(answer.content)


def test_every_declared_answer_is_tried() -> None:
    """The table above leaves out nothing that is declared but parts of a text."""
    tried = {(param.values[0], param.values[1], param.values[2]) for param in CASES}
    declared = {
        (method, path, status)
        for (method, path), operation in OPERATIONS.items()
        for status in operation.responses
        if status != 206
    }
    assert tried == declared


def test_running_answer_is_as_declared(server: ServerUnderTest, session: str) -> None:
    """An execution that has not ended is what its operation declares, too."""
    with server.http.stream("POST", f"{session}/stream", json={"code": "out a\nsleep 60"}) as live:
        next(live.iter_lines())
        answer = server.http.get(f"{session}/executions/exec-1")
        listed = server.http.get(f"{session}/executions")
    for found, path in ((answer, EXECUTION), (listed, "/api/sessions/{id}/executions")):
        declared = OPERATIONS["GET", path].responses[200]
        TypeAdapter(declared).validate_json(found.content)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/nothing", None),
        ("PUT", "/health", None),
        ("POST", "/api/sessions", {}),
        ("POST", "/api/sessions", {"language": "latin"}),
        ("POST", "/api/sessions", {"language": LANGUAGE, "id": "s1"}),
        ("GET", "/api/sessions/gone", None),
        ("GET", "/api/sessions/s1/executions/gone", None),
        ("GET", "/api/sessions/bug", None),
        ("POST", RUN.format(id="s1"), {"code": "refuse"}),
    ],
)
def test_error_is_as_declared(
    server: ServerUnderTest, session: str, method: str, path: str, body: dict[str, Any] | None
) -> None:
    """Every error has the one shape of errors."""
    answer = server.http.request(method, path, json=body)
    assert answer.status_code >= 400
    TypeAdapter(ErrorAnswer).validate_json(answer.content)
