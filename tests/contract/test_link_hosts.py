"""Links to ports that have hosts of their own: a cookie of that host stands for the link."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import check_error, open_client
from tests.contract.test_links import make, secret_of
from tests.contract.test_proxy import PORT, serve
from tests.server_process import Server
from tests.waiting import wait_until

DOMAIN = "apps.example.org"
TOKEN = "a-token-for-the-hosts"
OPENS = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "cross-site"}

# Tells the cookies that it was sent, and its prefix.
COOKIES = """
import http.server, threading

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{self.headers['Cookie']} {self.headers['X-Forwarded-Prefix']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

server = http.server.ThreadingHTTPServer(("127.0.0.1", 8081), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
"""

# A server with tokens and a domain for ports.
SERVER_FLAGS = ("--api-tokens", TOKEN, "--proxy-domain", DOMAIN)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    client = Client(server.base_url, {"Authorization": f"Bearer {TOKEN}"})
    yield client
    client.close()


@pytest.fixture(scope="module")
def served(client: Client) -> Iterator[SessionClient]:
    session = client.session("python", session_id="web-1")
    serve(session)
    assert session.run(COOKIES)["exit_code"] == 0
    yield session
    session.delete()


HOST = f"{PORT}-web-1.{DOMAIN}"


def get(client: Client, path: str, host: str = HOST, **headers: str) -> httpx.Response:
    """Asks without a token for a path on a host, whose name nobody need know."""
    shown = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(f"{client.base_url}{path}", headers={"Host": host, **shown})


def opened(client: Client, path: str, **headers: str) -> httpx.Response:
    """What a browser gets that opens an address."""
    sent = {"Host": HOST, **OPENS, **headers}
    return httpx.get(f"{client.base_url}{path}", headers=sent)


def test_a_browser_opens_a_link(client: Client, served: SessionClient) -> None:
    """It gets a cookie of the host, and is sent on without the secret, to any path."""
    url = make(client, served, port=PORT, ttl=600)["url"]
    secret, place = secret_of(url), urlsplit(url)
    assert (place.hostname, place.path) == (HOST, f"/link/{secret}/")
    answer = opened(client, f"/link/{secret}/a%20b?x=1")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/a%20b?x=1")
    cookie, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert cookie == f"era_link={secret}"
    assert {"Path=/", "HttpOnly", "SameSite=Lax"} <= set(attributes)
    age = next(one for one in attributes if one.startswith("Max-Age="))
    assert 500 < int(age.partition("=")[2]) <= 600
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    check_error(get(client, "/a"), 403, "FORBIDDEN")
    page = get(client, "/a%20b?x=1", Cookie=cookie)
    assert page.text == "GET /a%20b?x=1 1"
    assert "Content-Security-Policy" not in page.headers
    plain = get(client, f"/link/{secret}", Accept="text/html,*/*")
    assert (plain.status_code, plain.headers["Location"]) == (303, "/")


@pytest.mark.parametrize("tail", ["//evil.example/", "/\\evil.example", "///evil.example"])
def test_a_link_leads_to_no_other_host(client: Client, served: SessionClient, tail: str) -> None:
    """Whatever stands behind a link, the browser stays on the host."""
    secret = secret_of(make(client, served, port=PORT)["url"])
    location = opened(client, f"/link/{secret}{tail}").headers["Location"]
    assert location.startswith("/") and location[1] not in "/\\"


def test_a_program_uses_a_link(client: Client, served: SessionClient) -> None:
    """Who keeps no cookies uses the address as it is, on either host."""
    secret = secret_of(make(client, served, port=PORT)["url"])
    answer = get(client, f"/link/{secret}/a?b")
    assert answer.text == "GET /a?b 1"
    assert "Set-Cookie" not in answer.headers
    away = get(client, f"/link/{secret}/go").headers["Location"]
    assert away == f"/link/{secret}/there?x=1"
    assert httpx.get(f"{client.base_url}/link/{secret}/a").text == "GET /a 1"


def test_secure_cookies() -> None:
    """Where callers come by https, no page of another host can set the cookie."""
    with open_client("--proxy-domain", DOMAIN, "--public-url", "https://era.example") as other:
        session = other.session("python", session_id="web-1", allowPublicAccess=False)
        url = make(other, session, port=PORT)["url"]
        assert url.startswith(f"https://{HOST}/link/")
        answer = opened(other, urlsplit(url).path)
        assert answer.headers["Set-Cookie"].startswith("__Host-era_link=p")
        assert answer.headers["Set-Cookie"].endswith("; Secure")


@pytest.mark.parametrize(
    ("headers", "is_let_in"),
    [
        ({}, True),
        ({"Origin": f"http://{HOST}"}, True),
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, True),
        ({"Origin": f"http://9-web-1.{DOMAIN}"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "websocket"}, False),
    ],
)
def test_whose_page_asks(
    client: Client, served: SessionClient, headers: dict[str, str], is_let_in: bool
) -> None:
    """The cookie counts for pages of the host itself: those of other sessions are of its site."""
    secret = secret_of(make(client, served, port=PORT)["url"])
    sent = {"Host": HOST, "Cookie": f"era_link={secret}", **headers}
    answer = httpx.get(f"{client.base_url}/a", headers=sent)
    assert (answer.status_code == 200) == is_let_in, answer.text


def test_other_hosts(client: Client, served: SessionClient) -> None:
    """A link opens nothing on the host of another port or session, or as another one's cookie."""
    other = client.session("python", session_id="web-2")
    serve(other)
    secret = secret_of(make(client, served, port=PORT)["url"])
    for host in (f"8081-web-1.{DOMAIN}", f"{PORT}-web-2.{DOMAIN}"):
        check_error(get(client, f"/link/{secret}/", host), 404, "LINK_NOT_FOUND")
        check_error(get(client, "/", host, Cookie=f"era_link={secret}"), 403, "FORBIDDEN")
        answer = httpx.get(f"{client.base_url}/link/{secret}/", headers={"Host": host, **OPENS})
        check_error(answer, 404, "LINK_NOT_FOUND")
        assert "Set-Cookie" not in answer.headers
    file = secret_of(make(client, served, path="f")["url"])
    check_error(get(client, "/", Cookie=f"era_link={file}"), 403, "FORBIDDEN")
    other.delete()


def test_cookies_of_the_program(client: Client, served: SessionClient) -> None:
    """No program is sent a link's cookie; its own come through, wherever they stand."""
    host = f"8081-web-1.{DOMAIN}"
    secret = secret_of(make(client, served, port=8081)["url"])
    link = f"era_link={secret}"
    wrong = f"era_link=p{'x' * 43}"
    for sent, seen in (
        (link, "None"), (f"a=b; {link}", "a=b"), (f"{link}; a=b; c=d", "a=b; c=d"),
        (f"a=b; {wrong}; {link}; __Host-era_link=x", "a=b"),
    ):  # fmt: skip
        assert get(client, "/", host, Cookie=sent).text == f"{seen} None"
    straight = get(client, f"/link/{secret}/", host, Cookie=f"a=b; {link}")
    assert straight.text == f"a=b /link/{secret}"
    check_error(get(client, "/", host, Cookie=f"a=b; {wrong}"), 403, "FORBIDDEN")


def test_the_end_of_a_cookie(client: Client, served: SessionClient) -> None:
    """The cookie is worth what the link is: nothing once it is revoked or has expired."""
    made = make(client, served, port=PORT)
    cookie = f"era_link={secret_of(made['url'])}"
    with httpx.stream(
        "GET", f"{client.base_url}/count", headers={"Host": HOST, "Cookie": cookie}
    ) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "data: 0"
        client.http.delete(f"{served.path}/links/{made['id']}").raise_for_status()
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in lines:
                pass
    check_error(get(client, "/", Cookie=cookie), 403, "FORBIDDEN")
    short: dict[str, Any] = make(client, served, port=PORT, ttl=0.3)
    cookie = f"era_link={secret_of(short['url'])}"
    time.sleep(0.3)  # a request that is under way at the end would get no answer
    assert wait_until(lambda: get(client, "/", Cookie=cookie).status_code == 403)


def test_no_secret_is_logged(client: Client, served: SessionClient, server: Server) -> None:
    """Requests by links are logged without the path, whatever becomes of them."""
    secret = secret_of(make(client, served, port=PORT)["url"])
    opened(client, f"/link/{secret}/")
    get(client, f"/link/{secret}/x")
    for method in ("BREW", "GET"):
        place = f"{client.base_url}/link/{secret}/"
        httpx.request(method, place, headers={"Host": HOST, "Origin": "http://evil.example"})
    httpx.get(f"{client.base_url}/link/{secret}/", headers={"Host": f"70000-a.{DOMAIN}"})
    get(client, "/the-last", Cookie=f"era_link={secret}")
    assert wait_until(lambda: server.log_text.count("/link/*") >= 5)
    assert secret[1:] not in server.log_text + client.http.get("/metrics").text
