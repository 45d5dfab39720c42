"""Who may come in: tokens, hosts, origins, forwarding."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from era_kernels.web.access import Access
from tests.web.serving import ServerUnderTest, run_server

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def closed() -> Iterator[ServerUnderTest]:
    """A server with a token."""
    with run_server(Access(tokens=[TOKEN], allowed_origins=["https://app.example"])) as served:
        yield served


@pytest.fixture(scope="module")
def named() -> Iterator[ServerUnderTest]:
    """A server without tokens that is known under other names."""
    access = Access(
        allowed_hosts=["era.example", "port.example:81"],
        allowed_origins=["https://App.Example/", "http://dev.example:3000"],
        public_url="https://public.example/era/",
    )
    with run_server(access) as served:
        yield served


def get(server: ServerUnderTest, path: str = "/api/sessions", **headers: str) -> httpx.Response:
    return server.http.get(path, headers={n.replace("_", "-"): v for n, v in headers.items()})


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("headers", "message", "hint"),
    [
        ({}, "This server needs an API token.", "Send it as"),
        ({"Authorization": "Bearer"}, "This server needs an API token.", "Send it as"),
        ({"Authorization": TOKEN}, "This server needs an API token.", "lacks the word"),
        ({"Authorization": f"Token {TOKEN}"}, "This server needs an API token.", "lacks the word"),
        ({"Authorization": f"Bearer {TOKEN}x"}, "This API token is not valid.", "Send it as"),
        ({"X-API-Key": "wrong"}, "This API token is not valid.", "Send it as"),
    ],
)
def test_what_is_wrong(
    closed: ServerUnderTest, headers: dict[str, str], message: str, hint: str
) -> None:
    """No token, a wrong token and a token without its scheme get different answers."""
    reported = closed.http.get("/api/sessions", headers=headers).json()
    assert reported["message"] == message
    assert hint in reported["hint"]


def test_token_in_the_query(closed: ServerUnderTest) -> None:
    """A token in an address is none: addresses are logged everywhere."""
    assert closed.http.get(f"/api/sessions?token={TOKEN}").status_code == 401


def test_options_without_token(closed: ServerUnderTest) -> None:
    """OPTIONS is answered without a token, also as a browser's preflight."""
    assert closed.http.options("/api/sessions").status_code == 204
    preflight = closed.http.options(
        "/api/sessions",
        headers={"Origin": "https://app.example", "Access-Control-Request-Method": "DELETE"},
    )
    assert preflight.status_code == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert "DELETE" in preflight.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]


def test_big_body_without_token(closed: ServerUnderTest) -> None:
    """A client without a token learns so, also when it sends much."""
    answer = closed.http.post("/api/execute", content=b"x" * 3_000_000)
    assert answer.status_code == 401


# ---------------------------------------------------------------- hosts


@pytest.mark.parametrize("host", ["[::1", "localhost:99999999", "a]b", ""])
def test_malformed_host(server: ServerUnderTest, host: str) -> None:
    """A Host that is none is refused."""
    answer = server.http.get("/api/sessions", headers={"Host": host})
    assert answer.status_code in (400, 403)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("era.example", 200),
        ("ERA.example:9999", 200),
        ("port.example:81", 200),
        ("port.example:82", 403),
        ("x.era.example", 403),
        ("localhost", 200),
    ],
)
def test_allowed_hosts(named: ServerUnderTest, host: str, status: int) -> None:
    """A named host is answered on any port, or on the one that is named."""
    assert get(named, Host=host).status_code == status


# ---------------------------------------------------------------- origins


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("localhost", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("LOCALHOST", "https://localhost:443"),
        ("[::1]:8", "http://[::1]:8"),
    ],
)
def test_own_origin(server: ServerUnderTest, host: str, origin: str) -> None:
    """Pages of the server itself may ask it."""
    assert get(server, Host=host, Origin=origin).status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://app.example", 200),
        ("https://APP.example", 200),
        ("http://dev.example:3000", 200),
        ("https://public.example", 200),
        ("http://app.example", 403),
        ("https://app.example:444", 403),
        ("http://dev.example", 403),
        ("null", 403),
    ],
)
def test_allowed_origins(named: ServerUnderTest, origin: str, status: int) -> None:
    """Origins of the setting and of the public address may ask."""
    answer = get(named, Host="localhost", Origin=origin)
    assert answer.status_code == status
    assert answer.headers["Vary"] == "Origin"


def test_cors_headers(named: ServerUnderTest) -> None:
    """A page of an allowed origin may read answers, errors too."""
    for path in ("/api/sessions", "/api/sessions/gone", "/nothing"):
        headers = get(named, path, Host="localhost", Origin="https://app.example").headers
        assert headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert "X-Execution-Id" in headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Credentials" not in headers


def test_cors_of_custom_metadata(named: ServerUnderTest) -> None:
    """A page may send custom metadata of any name, and read it; nothing else that it asks for."""
    asked = (
        "content-type, x-era-meta-author,X-Era-Meta-%54ype, x-era-meta-, x-other, x-era-meta-a b"
    )
    headers = {"Host": "localhost", "Origin": "https://app.example"}
    preflight = named.http.options(
        "/api/sessions", headers={**headers, "Access-Control-Request-Headers": asked}
    )
    assert preflight.status_code == 204
    allowed = preflight.headers["Access-Control-Allow-Headers"].split(", ")
    assert allowed[-2:] == ["x-era-meta-author", "X-Era-Meta-%54ype"]
    assert {"Content-Type", "If-Match", "Range"} <= {*allowed}
    assert not {"x-other", "x-era-meta-"} & {*allowed}
    exposed = get(named, **headers).headers["Access-Control-Expose-Headers"].split(", ")
    assert {"ETag", "Content-Range", "*"} <= {*exposed}


def test_every_origin() -> None:
    """A star lets every site in, but not `null`: that is what pages of sessions send."""
    with run_server(Access(allowed_origins=["*"])) as server:
        answer = get(server, Host="localhost", Origin="https://any.example")
        assert answer.headers["Access-Control-Allow-Origin"] == "https://any.example"
        assert get(server, Host="localhost", Origin="null").status_code == 403


def test_null_can_be_named() -> None:
    """`null` is allowed only by its name."""
    with run_server(Access(allowed_origins=["null"])) as server:
        assert get(server, Host="localhost", Origin="null").status_code == 200
