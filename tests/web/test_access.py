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


@pytest.fixture(scope="module")
def behind() -> Iterator[ServerUnderTest]:
    """A server behind a proxy that is trusted."""
    access = Access(allowed_hosts=["era.example"], trust_forwarded=True)
    with run_server(access) as served:
        yield served


def get(server: ServerUnderTest, path: str = "/api/sessions", **headers: str) -> httpx.Response:
    return server.http.get(path, headers={n.replace("_", "-"): v for n, v in headers.items()})


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": "Bearer é"},
        {"X-API-Key": ""},
        {"X-API-Key": "wrong"},
        {"Cookie": f"token={TOKEN}"},
    ],
)
@pytest.mark.parametrize("path", ["/api/sessions", "/api/nothing", "/metrics", "/api/limits"])
def test_without_token(closed: ServerUnderTest, headers: dict[str, str], path: str) -> None:
    """Without a valid token protected paths are a 401 that says how."""
    encoded = {name: value.encode("latin1") for name, value in headers.items()}
    answer = closed.http.get(path, headers=encoded)
    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHORIZED")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "Bearer" in answer.json()["hint"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer  {TOKEN}"},
        {"X-API-Key": TOKEN},
        {"X-API-Key": TOKEN, "Authorization": "Basic abc"},
    ],
)
def test_with_token(closed: ServerUnderTest, headers: dict[str, str]) -> None:
    """A token is taken as a bearer and as a key."""
    assert closed.http.get("/api/sessions", headers=headers).status_code == 200


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


@pytest.mark.parametrize("path", ["/health", "/api/health", "/docs", "/openapi.json"])
def test_open_paths(closed: ServerUnderTest, path: str) -> None:
    """Health and the document of the API need no token."""
    assert closed.http.get(path).status_code == 200


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


def test_token_before_everything_else(closed: ServerUnderTest) -> None:
    """Who has no token learns nothing of ids, bodies or methods."""
    for method, path in [("GET", "/api/sessions/.."), ("BREW", "/api/x"), ("PUT", "/api/sessions")]:
        answer = closed.http.request(method, path.replace("..", "%2e%2e"), content=b"{")
        assert answer.status_code in (401, 404 if method == "BREW" else 401)


def test_hosts_with_tokens(closed: ServerUnderTest) -> None:
    """With a token every host and origin may come in: the token is the proof."""
    answer = get(closed, Host="evil.example", Origin="https://evil.example", X_API_Key=TOKEN)
    assert answer.status_code == 200
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_big_body_without_token(closed: ServerUnderTest) -> None:
    """A client without a token learns so, also when it sends much."""
    answer = closed.http.post("/api/execute", content=b"x" * 3_000_000)
    assert answer.status_code == 401


# ---------------------------------------------------------------- hosts


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.8.7:80", "[::1]", "[::1]:8000",
             "a.localhost:3", "localhost."],
)  # fmt: skip
def test_loopback(server: ServerUnderTest, host: str) -> None:
    """Names of this machine are answered."""
    assert get(server, Host=host).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example",
             "10.0.0.1", "0.0.0.0", "[::2]", "2130706433", "era.example", "xlocalhost"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_rebinding(server: ServerUnderTest, host: str, method: str) -> None:
    """A foreign name is refused: a page could have bound it to this machine."""
    answer = server.http.request(method, "/api/sessions", headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")
    assert "allowed_hosts" in answer.json()["hint"]


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
    "origin",
    ["null", "http://evil.example", "http://localhost:8001", "https://localhost:8000.evil.example",
     "http://127.0.0.1:8000", "http://localhost", "file://", "", "http://", "x", "http://[::1",
     "http://localhost:8000@evil.example"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_foreign_origin(server: ServerUnderTest, origin: str, method: str) -> None:
    """Pages of anybody else may not, whatever the method; `null` neither."""
    headers = {"Host": "localhost:8000", "Origin": origin}
    answer = server.http.request(method, "/api/sessions", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")
    assert "Access-Control-Allow-Origin" not in answer.headers


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


# ---------------------------------------------------------------- addresses


def base_url(server: ServerUnderTest, **headers: str) -> str:
    """The address that a restart hands on."""
    server.sessions.calls.clear()
    names = {n.replace("_", "-"): v for n, v in headers.items()}
    server.http.post("/api/sessions/gone/restart", headers=names)
    found: str = server.sessions.calls[-1][2]
    return found


def test_base_url(server: ServerUnderTest, named: ServerUnderTest) -> None:
    """The address is the public one, else that of the request."""
    assert base_url(server) == server.url
    assert base_url(server, Host="localhost:77") == "http://localhost:77"
    assert base_url(named) == "https://public.example/era"


def test_forwarded_address(server: ServerUnderTest, behind: ServerUnderTest) -> None:
    """Only where proxies are trusted do they decide host and scheme."""
    reported = {"X_Forwarded_Host": "era.example", "X_Forwarded_Proto": "https"}
    assert base_url(server, **reported) == server.url
    assert base_url(behind, **reported) == "https://era.example"
    twice = {"X_Forwarded_Host": "x, era.example", "X_Forwarded_Proto": "http,https"}
    assert base_url(behind, **twice) == "https://era.example"
    assert base_url(behind, X_Forwarded_Proto="gopher") == behind.url


def test_forwarded_host_is_checked(behind: ServerUnderTest) -> None:
    """Neither the real nor the forwarded host may be foreign: a page can forge the latter."""
    assert get(behind, X_Forwarded_Host="era.example").status_code == 200
    assert get(behind, X_Forwarded_Host="evil.example").status_code == 403
    forged = get(behind, Host="evil.example", X_Forwarded_Host="era.example")
    assert forged.status_code == 403


def test_origin_behind_a_proxy(behind: ServerUnderTest) -> None:
    """Pages that came through the proxy have its origin."""
    good = get(behind, X_Forwarded_Host="era.example", Origin="https://era.example")
    assert good.status_code == 200
    bad = get(behind, X_Forwarded_Host="era.example", Origin="https://x.example")
    assert bad.status_code == 403
