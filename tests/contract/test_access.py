"""Access: tokens, and without tokens only this machine and its own pages."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.client import Client
from tests.contract.checks import check, check_error, open_client
from tests.server_process import Launcher, Server, temporary_launcher
from tests.waiting import wait_until

TOKEN = "a-token-of-the-environment"
IN_FILE = "a-token-of-the-file"
LATER = "a-token-that-comes-later"
PUBLIC = "https://public.example/era"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a token."""
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(f"# people\n{IN_FILE}\n")
    return file


@pytest.fixture(scope="module")
def closed_server(token_file: Path) -> Iterator[Server]:
    """A server with tokens, on every address, with a public one."""
    flags = ["--host", "0.0.0.0", "--public-url", f"{PUBLIC}/", "--api-token-file", str(token_file)]
    with temporary_launcher() as launcher:
        yield launcher.start(*flags, env={"ERA_API_TOKENS": TOKEN})


@pytest.fixture(scope="module")
def closed(closed_server: Server) -> Iterator[Client]:
    """A client that shows no token by itself."""
    with closing(Client(closed_server.base_url)) as client:
        yield client


@pytest.fixture(scope="module")
def named() -> Iterator[Client]:
    """A server that is known under other names, behind a proxy that is trusted."""
    flags = ("--allowed-hosts", "era.example,other.example", "--trust-forwarded")
    with open_client(*flags, "--allowed-origins", "https://app.example") as client:
        yield client


def refused(launcher: Launcher, *flags: str, env: dict[str, str] | None = None) -> str:
    """What a server says that does not start."""
    with pytest.raises(RuntimeError) as ended:
        launcher.start(*flags, env=env)
    said = str(ended.value)
    # Nothing was printed; the log has one line before the reason.
    assert said.startswith("the server did not start: ")
    assert len(said.partition("Error: ")[0].splitlines()) <= 2
    assert "Traceback" not in said
    return said


# ---------------------------------------------------------------- start


def test_default_address(server: Server) -> None:
    """The server listens on loopback and needs no token."""
    assert server.base_url.startswith("http://127.0.0.1:")


def test_open_address_without_token(launcher: Launcher) -> None:
    """Any other address without a token is refused at start, with what to do."""
    said = refused(launcher, "--host", "0.0.0.0")
    assert "token" in said
    assert "ERA_API_TOKENS" in said or "--api-token" in said


def test_open_address_with_token(closed_server: Server) -> None:
    """With a token any address will do."""
    assert "0.0.0.0" in closed_server.base_url


@pytest.mark.command
def test_short_token(launcher: Launcher) -> None:
    """A token that can be guessed is refused at start, and not repeated; the exit code tells it."""
    said = refused(launcher, env={"ERA_API_TOKENS": "tomato"})
    assert "16" in said
    assert "tomato" not in said


# ---------------------------------------------------------------- tokens

PROTECTED = [
    ("GET", "/api/sessions"),
    ("POST", "/api/sessions"),
    ("DELETE", "/api/sessions"),
    ("GET", "/api/sessions/any"),
    ("POST", "/api/sessions/any/run"),
    ("POST", "/api/sessions/any/stream"),
    ("POST", "/api/execute"),
    ("GET", "/api/limits"),
    ("GET", "/api/languages"),
    ("GET", "/api/nothing"),
    ("GET", "/api/sessions/%2e%2e"),
    ("GET", "/metrics"),
    ("POST", "/mcp"),
    ("GET", "/jupyter/api"),
]
NOT_A_TOKEN: list[dict[str, str]] = [
    {},
    {"Authorization": "Bearer"},
    {"Authorization": f"Bearer {TOKEN}x"},
    {"Authorization": f"Bearer {TOKEN[:-1]}"},
    {"Authorization": f"Basic {TOKEN}"},
    {"Authorization": TOKEN},
    {"Authorization": ""},
    {"Authorization": "Bearer \xe9"},
    {"X-API-Key": ""},
    {"X-API-Key": TOKEN.upper()},
    {"Cookie": f"token={TOKEN}"},
]


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_without_token(closed: Client, method: str, path: str) -> None:
    """Without a valid token everything of the API is 401, whatever else is wrong with it."""
    for shown in NOT_A_TOKEN:
        headers = {name: value.encode("latin1") for name, value in shown.items()}
        answer = closed.http.request(method, path, content=b"{", headers=headers)
        assert "Bearer" in check_error(answer, 401, "UNAUTHORIZED")["hint"]
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    "headers",
    [BEARER, {"authorization": f"bearer  {TOKEN}"}, {"X-API-Key": TOKEN},
     {"X-API-Key": TOKEN, "Authorization": "Basic abc"}],
)  # fmt: skip
def test_with_token(closed: Client, headers: dict[str, str]) -> None:
    """The token is taken as a bearer and as a key."""
    assert closed.http.get("/api/sessions", headers=headers).status_code == 200
    answer = closed.http.post(
        "/api/execute", json={"language": "python", "code": "print(1)"}, headers=headers
    )
    check(answer.json(), stdout="1\n")


@pytest.mark.parametrize("path", ["/health", "/api/health", "/docs", "/openapi.json"])
def test_open_paths(closed: Client, path: str) -> None:
    """Load balancers have no token, and the document of the API needs none."""
    assert closed.http.get(path).status_code == 200


def test_options_without_token(closed: Client) -> None:
    """OPTIONS is answered without a token: browsers ask that way."""
    answer = closed.http.options("/api/sessions")
    assert (answer.status_code, answer.headers["Allow"]) == (
        204,
        "GET, HEAD, POST, DELETE, OPTIONS",
    )


def test_public_default_with_tokens(closed: Client) -> None:
    """On a server with tokens sessions are not public unless that is said."""
    for given, expected in ((None, False), (True, True), (False, False)):
        answer = closed.http.post(
            "/api/sessions",
            json={"language": "python", "allowPublicAccess": given},
            headers=BEARER,
        )
        check(answer.json(), allowPublicAccess=expected, allowInternetAccess=False)


def test_foreign_host_with_token(closed: Client) -> None:
    """Where there are tokens, they are the proof: any Host and Origin may come in."""
    headers = {**BEARER, "Host": "era.example", "Origin": "https://era.example"}
    answer = closed.http.get("/api/sessions", headers=headers)
    assert answer.status_code == 200
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_token_is_nowhere(closed_server: Server, closed: Client) -> None:
    """Tokens stand neither in the log nor in what code sees."""
    code = "import os; print(os.environ); print(open('/proc/self/environ').read())"
    body = {"language": "python", "code": code}
    answer = closed.http.post("/api/execute", json=body, headers=BEARER).json()
    assert answer["exit_code"] == 0
    assert TOKEN not in answer["stdout"]
    closed.http.get("/api/sessions", headers={"Authorization": "Bearer a-wrong-secret-token"})
    assert TOKEN not in closed_server.log_text + closed_server.ready_line
    assert "a-wrong-secret-token" not in closed_server.log_text


def test_token_file(closed: Client, token_file: Path) -> None:
    """A token file is read again when it changes: old tokens end, new ones work."""

    def statuses() -> list[int]:
        return [
            closed.http.get("/api/sessions", headers={"X-API-Key": token}).status_code
            for token in (TOKEN, IN_FILE, LATER)
        ]

    assert statuses() == [200, 200, 401]
    token_file.write_text(f"{LATER}\n")
    assert wait_until(lambda: statuses() == [200, 401, 200])


NAMES = {"ann": "a-token-of-ann-0123456789", "ben": "a-token-of-ben-0123456789"}


@pytest.fixture(scope="module")
def named_tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose tokens have names, but for one; it tells of what its language lacks."""
    directory = tmp_path_factory.mktemp("names")
    file = directory / "tokens"
    file.write_text("".join(f"{name}:{token}\n" for name, token in NAMES.items()) + f"{IN_FILE}\n")
    (directory / "specs" / "lingo").mkdir(parents=True)
    (directory / "specs" / "lingo" / "kernel.json").write_text(
        '{"argv": ["/nowhere/lingo", "{connection_file}"], "display_name": "L", "language": "l"}'
    )
    flags = ["--api-token-file", str(file), "--kernelspec-dirs", str(directory / "specs")]
    flags += ["--log-format", "json", "--trust-forwarded", "--public-url", PUBLIC]
    with temporary_launcher() as launcher:
        yield launcher.start(*flags)


def test_names_of_tokens(named_tokens: Server) -> None:
    """The log tells the name of the token and the address of the caller, and no token."""
    with httpx.Client(base_url=named_tokens.base_url) as http:
        for request_id, token, forwarded in (
            ("by-ann", NAMES["ann"], ""),
            ("by-ben", NAMES["ben"], "203.0.113.9, 198.51.100.7"),
            ("by-nameless", IN_FILE, "nonsense"),
            ("by-nobody", "a-token-of-nobody-012345", ""),
            ("by-whole-line", f"ann:{NAMES['ann']}", ""),
        ):
            headers = {"X-Request-Id": request_id, "X-API-Key": token}
            http.get("/api/limits", headers={**headers, "X-Forwarded-For": forwarded})

    def logged() -> dict[str, tuple[object, object, object]]:
        lines = [json.loads(one) for one in named_tokens.log_text.splitlines() if "by-" in one]
        return {
            one["request_id"]: (one["status"], one.get("token_name"), one.get("client"))
            for one in lines
        }

    assert wait_until(lambda: len(logged()) == 5)
    assert logged() == {
        "by-ann": (200, "ann", "127.0.0.1"),
        "by-ben": (200, "ben", "198.51.100.7"),
        "by-nameless": (200, None, "127.0.0.1"),
        "by-nobody": (401, None, "127.0.0.1"),
        "by-whole-line": (401, None, "127.0.0.1"),
    }
    for token in (*NAMES.values(), IN_FILE, "a-token-of-nobody"):
        assert token not in named_tokens.log_text


OPEN_PATHS = ["/health", "/api/health", "/", "/docs", "/openapi.json", "/nothing", "/api/nothing"]


def test_what_strangers_are_told(named_tokens: Server) -> None:
    """Who has no token learns no path of the host and no sentence about its walls."""
    with httpx.Client(base_url=named_tokens.base_url) as http:
        known = http.get("/health", headers={"X-API-Key": NAMES["ann"]}).json()
        for headers in ({}, {"X-API-Key": "a-wrong-token-0123456789"}):
            shown = http.get("/health", headers=headers)
            assert shown.status_code == 200
            assert set(shown.json()) == set(known)
            isolation, full = shown.json()["isolation"], known["isolation"]
            assert isolation["tier"] == full["tier"]
            assert len("".join(isolation["missing"])) < 40
            assert bool(isolation["missing"]) == bool(full["missing"])
            assert not set(isolation["missing"]) & set(full["missing"])
        for path in OPEN_PATHS:
            text = http.get(path).text
            places = ("/nowhere", "/tmp", "/root", "/home/", "/sys/", "/proc/")
            for secret in (*places, *known["isolation"]["missing"]):
                assert secret not in text, (path, secret)
        assert "/nowhere" in http.get("/api/languages", headers={"X-API-Key": IN_FILE}).text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"ann:{IN_FILE}\n# and\nann:{LATER}\n", "line 3 has the same name as line 1"),
        (f"{IN_FILE}\nben:tomato\n", "line 2 has a token that is too short"),
        (f"be n:{IN_FILE}\n", "line 1"),
    ],
)
def test_mistakes_in_a_token_file(
    launcher: Launcher, tmp_path: Path, content: str, said: str
) -> None:
    """A mistake in a token file is refused at start by its line, without a secret."""
    file = tmp_path / "tokens"
    file.write_text(content)
    printed = refused(launcher, "--api-token-file", str(file))
    assert said in printed
    assert not [one for one in (IN_FILE, LATER, "tomato") if one in printed]


class Rotated:
    """A server whose only token stands in a file, and a client that shows it."""

    def __init__(self, server: Server, file: Path) -> None:
        self.file = file
        self.http = httpx.Client(base_url=server.base_url, headers={"X-API-Key": IN_FILE})
        self._server = server
        self._log_start = 0

    def reset(self) -> None:
        """Makes the token the only one again; the log begins here."""
        self.file.write_text(f"{IN_FILE}\n")
        assert wait_until(lambda: self.status() == 200 and self.status(LATER) == 401)
        self._log_start = len(self._server.log_text)

    @property
    def log_text(self) -> str:
        return self._server.log_text[self._log_start :]

    def status(self, token: str = IN_FILE) -> int:
        return self.http.get("/api/sessions", headers={"X-API-Key": token}).status_code

    def wait_for_log(self, words: str) -> None:
        """Waits until the log says so; the token is valid all the time."""

        def is_said() -> bool:
            assert self.status() == 200
            return words in self.log_text

        assert wait_until(is_said)


@pytest.fixture(scope="module")
def rotated_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotated]:
    file = tmp_path_factory.mktemp("rotated") / "tokens"
    file.write_text(f"{IN_FILE}\n")
    with temporary_launcher() as launcher:
        rotated = Rotated(launcher.start("--api-token-file", str(file)), file)
        with rotated.http:
            yield rotated


@pytest.fixture
def rotated(rotated_server: Rotated) -> Rotated:
    rotated_server.reset()
    return rotated_server


def test_many_requests_after_a_change(rotated: Rotated) -> None:
    """Fifteen requests at once after a change of the file all count by the new one."""
    with ThreadPoolExecutor(15) as pool:
        for token in (LATER, IN_FILE, LATER):
            rotated.file.write_text(f"{token}\n")
            time.sleep(1.2)

            def ask(number: int, token: str = token) -> int:
                return rotated.status(
                    token if number % 3 else {LATER: IN_FILE, IN_FILE: LATER}[token]
                )

            expected = [200 if number % 3 else 401 for number in range(15)]
            assert list(pool.map(ask, range(15))) == expected


def test_emptied_token_file(rotated: Rotated) -> None:
    """Blank is no statement, and the tokens stay; a file with a comment alone lets nobody in."""
    rotated.file.write_text("\n")
    rotated.wait_for_log("is blank")
    rotated.file.write_text("# nobody\n")
    assert wait_until(lambda: rotated.status() == 401)
    assert rotated.status("") == 401
    assert rotated.http.get("/metrics").status_code == 401
    assert rotated.http.get("/health").status_code == 200
    rotated.file.write_text(f"{LATER}\n")
    assert wait_until(lambda: rotated.status(LATER) == 200)


@pytest.mark.parametrize("way", ["gone", "a directory", "no text"])
def test_unreadable_token_file(rotated: Rotated, way: str) -> None:
    """A token file that cannot be read changes nothing but the log, until it can be again."""
    file = rotated.file
    file.unlink()
    if way == "a directory":
        file.mkdir()
    elif way == "no text":
        file.write_bytes(b"\xff" * 20)
    rotated.wait_for_log("cannot be read")
    assert rotated.status(LATER) == 401
    file.rmdir() if way == "a directory" else file.unlink(missing_ok=True)
    file.write_text(f"{LATER}\n")
    assert wait_until(lambda: rotated.status() == 401)


def test_weak_token_that_comes_later(rotated: Rotated) -> None:
    """A file with a token that can be guessed is refused whole; the log names the line."""
    rotated.file.write_text(f"# people\n{LATER}\nben:tomato\n")
    rotated.wait_for_log("line 3 has a token that is too short")
    for token in ("tomato", "ben:tomato", LATER):
        assert rotated.status(token) == 401
    assert rotated.status() == 200
    assert "tomato" not in rotated.log_text
    assert LATER not in rotated.log_text


@pytest.mark.parametrize("content", ["", "# only a comment\n", "tomato\n", None], ids=range(4))
def test_useless_token_file(launcher: Launcher, tmp_path: Path, content: str | None) -> None:
    """A token file that lets nobody in, or that is not there, is refused at start."""
    file = tmp_path / "tokens"
    if content is not None:
        file.write_text(content)
    said = refused(launcher, "--api-token-file", str(file))
    assert "token" in said
    assert "tomato" not in said


# ---------------------------------------------------------------- hosts and origins


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1", "127.1.2.3:1", "[::1]",
                                  "[::1]:8787", "era.localhost:3", "localhost."])  # fmt: skip
def test_loopback(client: Client, host: str) -> None:
    """Without tokens, names of this machine are answered."""
    assert client.http.get("/api/sessions", headers={"Host": host}).status_code == 200


FOREIGN_HOSTS = [
    "evil.example", "evil.example:8787", "10.0.0.1", "0.0.0.0", "127.0.0.1.evil.example",
    "localhost.evil.example", "[::2]", "2130706433", "era.example", "xlocalhost",
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/sessions"), ("POST", "/api/execute"), ("GET", "/health"),
                         ("DELETE", "/api/sessions"), ("GET", "/docs"),
                         ("OPTIONS", "/api/sessions")],
)  # fmt: skip
def test_rebinding(client: Client, method: str, path: str) -> None:
    """Without tokens, a foreign name is refused: a page could have bound it to this machine."""
    for host in FOREIGN_HOSTS:
        answer = client.http.request(method, path, headers={"Host": host})
        assert "allowed_hosts" in check_error(answer, 403, "FORBIDDEN")["hint"], host


def test_own_origin(client: Client) -> None:
    """Pages of the server itself may ask it."""
    answer = client.http.get("/api/sessions", headers={"Origin": client.base_url})
    assert answer.status_code == 200
    assert "Access-Control-Allow-Origin" not in answer.headers


FOREIGN_ORIGINS = [
    "null", "https://evil.example", "http://localhost", "http://127.0.0.1", "http://127.0.0.1:1",
    "file://", "{url}.evil.example", "{url}@evil.example", "http://localhost:{port}", "", "http://",
    "x", "http://[::1",
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE", "OPTIONS"])
def test_foreign_origin(client: Client, method: str) -> None:
    """Without tokens, pages of anybody else may not, not even of another port; `null` neither."""
    port = client.base_url.rpartition(":")[2]
    for origin in FOREIGN_ORIGINS:
        headers = {"Origin": origin.format(url=client.base_url, port=port)}
        answer = client.http.request(method, "/api/sessions", headers=headers)
        check_error(answer, 403, "FORBIDDEN")
        assert "Access-Control-Allow-Origin" not in answer.headers, origin


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "era.example"}, 200),
        ({"Host": "Other.Example:1234"}, 200),
        ({"Host": "x.era.example"}, 403),
        ({"Origin": "https://app.example"}, 200),
        ({"Origin": "http://app.example"}, 403),
        ({"Origin": "https://app.example:444"}, 403),
        ({"Origin": "null"}, 403),
        ({"X-Forwarded-Host": "era.example"}, 200),
        ({"X-Forwarded-Host": "evil.example"}, 403),
        ({"Host": "evil.example", "X-Forwarded-Host": "era.example"}, 403),
        ({"X-Forwarded-Host": "era.example", "Origin": "https://era.example"}, 200),
        ({"X-Forwarded-Host": "era.example", "Origin": "https://x.example"}, 403),
    ],
)
def test_allowed_names(named: Client, headers: dict[str, str], status: int) -> None:
    """The settings name the hosts and origins that are let in in addition to the server's own."""
    assert named.http.get("/api/sessions", headers=headers).status_code == status


def test_cors(named: Client) -> None:
    """CORS headers follow the setting, on errors too, and let no cookies in."""
    for path in ("/api/sessions", "/api/sessions/gone"):
        headers = named.http.get(path, headers={"Origin": "https://app.example"}).headers
        assert headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert "Access-Control-Allow-Credentials" not in headers
        assert "Origin" in headers["Vary"]
    preflight = named.http.options(
        "/api/sessions",
        headers={"Origin": "https://app.example", "Access-Control-Request-Method": "POST"},
    )
    assert preflight.status_code == 204
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert "Content-Type" in preflight.headers["Access-Control-Allow-Headers"]


@pytest.mark.parametrize("header", ["Idempotency-Key", "Last-Event-ID"])
def test_preflight_of_a_header(named: Client, header: str) -> None:
    """A page may send the headers that make a run safe to repeat and a stream resumable."""
    preflight = named.http.options(
        "/api/sessions/s1/stream",
        headers={
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": header.lower(),
        },
    )
    assert preflight.status_code == 204
    allowed = preflight.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert header.lower() in allowed


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_foreign_preflight(named: Client, method: str) -> None:
    """A browser that asks for a foreign page gets no header that would let it go on."""
    answer = named.http.options(
        "/api/sessions/s1",
        headers={"Origin": "https://evil.example", "Access-Control-Request-Method": method},
    )
    check_error(answer, 403, "FORBIDDEN")
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_preflight_of_a_file(named: Client) -> None:
    """A page may send what files take, and see what they answer."""
    answer = named.http.options(
        "/api/sessions/s1/files/a",
        headers={"Origin": "https://app.example", "Access-Control-Request-Method": "PUT"},
    )
    assert "PUT" in answer.headers["Access-Control-Allow-Methods"]
    assert "If-Match" in answer.headers["Access-Control-Allow-Headers"]
    assert "ETag" in answer.headers["Access-Control-Expose-Headers"]


# ---------------------------------------------------------------- the address that code sees


def seen_address(client: Client, headers: dict[str, str], session: str = "seen") -> str:
    """The server's address as code sees it in `execute` and in a session."""
    body = {"language": "python", "code": "import os; print(os.environ['ERA_BASE_URL'], end='')"}
    place = {"language": "python", "session_id": session, "exist_ok": True}
    client.http.post("/api/sessions", json=place, headers=headers).raise_for_status()
    paths = ("/api/execute", f"/api/sessions/{session}/run")
    seen = [client.http.post(path, json=body, headers=headers) for path in paths]
    first, second = (str(one.raise_for_status().json()["stdout"]) for one in seen)
    assert first == second
    return first


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({"X-Forwarded-Host": "era.example", "X-Forwarded-Proto": "https"}, "https://era.example"),
        ({"X-Forwarded-Host": "era.example:8443", "X-Forwarded-Proto": "HTTPS"},
         "https://era.example:8443"),
        ({"X-Forwarded-Host": "evil.example, era.example", "X-Forwarded-Proto": "http,https"},
         "https://era.example"),
        ({"X-Forwarded-Proto": "https", "Host": "other.example"}, "https://other.example"),
        ({"X-Forwarded-Proto": "javascript", "Host": "era.example"}, "http://era.example"),
        ({"X-Forwarded-Host": "a b'c", "Host": "era.example"}, "http://era.example"),
        ({"X-Forwarded-Host": "localhost/path?x", "Host": "era.example"}, "http://era.example"),
        ({"Host": "era.example"}, "http://era.example"),
    ],
    ids=range(8),
)  # fmt: skip
def test_forwarded_address(named: Client, headers: dict[str, str], address: str) -> None:
    """Where a proxy is trusted, code sees the address under which the caller came, if it is one."""
    assert seen_address(named, headers) == address


def test_forwarding_is_not_trusted(client: Client) -> None:
    """Where no proxy is trusted, anybody could say anything: code sees the Host."""
    headers = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    assert seen_address(client, headers) == client.base_url


@pytest.mark.parametrize("forwarded", [{}, {"X-Forwarded-Host": "era.example"}])
def test_public_url(closed: Client, forwarded: dict[str, str]) -> None:
    """`public_url` is what code sees as the server's address, without a slash at the end."""
    assert seen_address(closed, {**BEARER, **forwarded}) == PUBLIC


def test_public_url_wins(named_tokens: Server) -> None:
    """A public address is the address, whatever a trusted proxy says."""
    headers = {"X-Forwarded-Host": "localhost", "X-Forwarded-Proto": "https"}
    with closing(Client(named_tokens.base_url, {"X-API-Key": IN_FILE})) as client:
        assert seen_address(client, headers) == PUBLIC
