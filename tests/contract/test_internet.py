"""Internet access: switched while code runs, bounded by hosts, never to what is near."""

from __future__ import annotations

import http.server
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import check, check_error, open_client
from tests.contract.test_metrics import Scrape

# The world of these tests: the server may reach it because its setting says so.
WORLD = "127.77.0.1"
SERVER_FLAGS = ("--egress-allow-cidrs", WORLD)

ASK = """
import os, socket, time, urllib.error, urllib.request
def ask(url):
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
def tunnel(target):
    proxy = os.environ["HTTPS_PROXY"].removeprefix("http://").split(":")
    end = socket.create_connection((proxy[0], int(proxy[1])), timeout=20)
    end.sendall(f"CONNECT {target} HTTP/1.1\\r\\nHost: {target}\\r\\n\\r\\n".encode())
    head = b""
    while b"\\r\\n\\r\\n" not in head and (data := end.recv(1)):
        head += data
    return int(head.split()[1]), end
"""


class _Pages(http.server.BaseHTTPRequestHandler):
    """Serves a short page, and one without an end."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            if self.path != "/endless":
                self.wfile.write(b"world")
                return
            while True:
                self.wfile.write(bytes(65536))
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        """Prints nothing."""


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@contextmanager
def serve_world() -> Iterator[str]:
    """Serves the pages of the world; gives the address, `host:port`."""
    with _Server((WORLD, 0), _Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"{WORLD}:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def world() -> Iterator[str]:
    with serve_world() as address:
        yield address


@pytest.fixture
def outward(client: Client) -> Iterator[Client]:
    """A client of the server, whose sessions may reach the world of these tests."""
    skip_without_network(client)
    yield client
    client.http.delete("/api/sessions")


def skip_without_network(client: Client) -> None:
    if client.http.get("/health").json()["isolation"]["tier"] > 2:
        pytest.skip("sessions have no network of their own on this host")


def patch(session: SessionClient, **changes: Any) -> dict[str, Any]:
    answer = session.http.patch(session.path, json=changes)
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()["metadata"]
    return shown


def lines(result: dict[str, Any]) -> list[str]:
    assert result["exit_code"] == 0, result
    return str(result["stdout"]).splitlines()


def test_switched_both_ways(outward: Client, world: str) -> None:
    """The same kernel reaches the world after a PATCH, and no more after another one."""
    session = outward.session("python")
    before = Scrape(outward)
    code = f"{ASK}\nprint(*ask('http://{world}/'))"
    status, *words = lines(session.run(code))[0].split()
    assert status == "403" and "allowInternetAccess" in " ".join(words)
    for allowed, expected in ((True, "200 world"), (False, "403"), (True, "200 world")):
        check(patch(session, allowInternetAccess=allowed), allowInternetAccess=allowed)
        assert lines(session.run(f"print(*ask('http://{world}/'))"))[0].startswith(expected)
    assert session.get()["kernel_generation"] == 1
    counted = Scrape(outward).since(before)
    for outcome in ("connected", "off"):
        assert counted["era_internet_requests_total", f"outcome={outcome}"] == 2


def test_tunnels(outward: Client, world: str) -> None:
    """HTTPS goes by CONNECT."""
    session = outward.session("python", allowInternetAccess=True)
    code = f"{ASK}\nstatus, end = tunnel('{world}')\nend.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')\n"
    out = lines(session.run(f"{code}print(status, end.makefile().read()[-5:])"))
    assert out == ["200 world"]


def test_programs_know_the_proxy(outward: Client) -> None:
    """The variables are there from the start, for programs beside the kernel, too."""
    session = outward.session("python")
    names = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    names += tuple(name.lower() for name in names)
    shown = session.http.post(f"{session.path}/exec", json={"command": "env"}).json()["stdout"]
    variables = dict(line.split("=", 1) for line in shown.splitlines())
    assert {variables[name] for name in names if "NO" not in name.upper().split("_")} == {
        "http://127.0.0.1:61788"
    }
    assert "127.0.0.1" in variables["NO_PROXY"] == variables["no_proxy"]


def test_cut_off_while_busy(outward: Client, world: str) -> None:
    """A download in the middle of a run breaks when access ends; the run goes on and sees it."""
    session = outward.session("python", allowInternetAccess=True)
    code = f"""{ASK}
answer = urllib.request.urlopen('http://{world}/endless')
count, ended = 0, "regular"
print("begun", flush=True)
try:
    while data := answer.read(65536):
        count += len(data)
except OSError as error:
    ended = type(error).__name__
print(ended, time.time(), count > 0)
"""
    with session.open_stream(code) as events:
        for event in events:
            if "begun" in str(event.data):
                break
        time.sleep(0.3)
        patch(session, allowInternetAccess=False)
        answered_at = time.time()
        text = "".join(one.data["content"] for one in events if one.event == "stdout")
    ended, at, has_read = text.split()
    assert (ended, has_read) == ("ConnectionResetError", "True")
    assert float(at) - answered_at < 5


def test_hosts_of_a_session(outward: Client, world: str) -> None:
    """A list bounds what is reached; null takes the bound away, an empty list allows nothing."""
    session = outward.session("python", allowInternetAccess=True)
    assert "allow_hosts" not in session.get()
    session.run(ASK)
    for hosts, expected in (
        (["*.example.org"], "403"), ([WORLD], "200"), ([], "403"), (None, "200"),
    ):  # fmt: skip
        shown = patch(session, allow_hosts=hosts)
        assert shown.get("allow_hosts") == hosts
        assert lines(session.run(f"print(*ask('http://{world}/'))"))[0].split()[0] == expected


def test_hosts_of_the_server(world: str) -> None:
    """The server's list bounds all sessions, whatever theirs says."""
    with open_client(*SERVER_FLAGS, "--allow-hosts", "*.example.org") as client:
        skip_without_network(client)
        session = client.session("python", allowInternetAccess=True, allow_hosts=[WORLD])
        assert lines(session.run(f"{ASK}\nprint(*ask('http://{world}/'))"))[0].startswith("403")
        assert 'era_internet_requests_total{outcome="host"} 1.0' in client.http.get("/metrics").text


@pytest.mark.parametrize(
    "hosts",
    ["a.org", 1, {}, [1], [""], ["*"], ["a b"], ["http://a"], ["a:1"], ["*.*.a"], ["a"] * 257],
    ids=lambda hosts: repr(hosts)[:20],
)  # fmt: skip
def test_what_is_no_list_of_hosts(client: Client, session: SessionClient, hosts: Any) -> None:
    """Anything else is 400 naming the field, and changes nothing."""
    body = {"language": "python", "allow_hosts": hosts}
    for answer in (
        client.http.post("/api/sessions", json=body),
        client.http.patch(session.path, json={"allow_hosts": hosts}),
    ):
        check_error(answer, 400, "INVALID_REQUEST")
        assert "`allow_hosts`" in answer.json()["message"]


NEAR = [
    "127.0.0.1:{port}", "localhost:{port}", "127.1:{port}", "2130706433:{port}",
    "0x7f000001:{port}", "0177.0.0.1:{port}", "[::1]:{port}", "[::ffff:127.0.0.1]:{port}",
    "[::ffff:7f00:1]:{port}", "[::127.0.0.1]:{port}", "[64:ff9b::7f00:1]:{port}",
    "[2002:7f00:1::]:{port}", "0.0.0.0:{port}", "[::]:{port}", "{own}:{port}", "{own}:22",
    "10.0.0.1:80", "192.168.0.1:80", "172.16.0.1:80", "100.64.0.1:80", "169.254.169.254:80",
    "168.63.129.16:80", "[fd00:ec2::254]:80", "[fe80::1]:80", "224.0.0.1:80",
    "255.255.255.255:80", "0:{port}", "127.0.0.1.:{port}",
]  # fmt: skip


def test_near_addresses(outward: Client) -> None:
    """No notation leads to the server's own port, the host, its network or a cloud's metadata."""
    session = outward.session("python", allowInternetAccess=True)
    port = outward.base_url.rpartition(":")[2]
    targets = [one.format(port=port, own=own_address()) for one in NEAR]
    code = f"{ASK}\nfor target in {targets!r}:\n    print(tunnel(target)[0], target)"
    assert lines(session.run(code)) == [f"403 {target}" for target in targets]


def own_address() -> str:
    """The address of an interface of this host, where it has one."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("1.1.1.1", 9))
        except OSError:
            return "127.0.0.2"
        return str(probe.getsockname()[0])


def test_another_sessions_proxy(outward: Client, world: str) -> None:
    """The proxy of a session that has access is out of the reach of one that has none."""
    outward.session("python", allowInternetAccess=True).run("pass")
    session = outward.session("python")
    assert lines(session.run(f"{ASK}\nprint(tunnel('{world}')[0])")) == ["403"]


def test_flood(outward: Client, world: str) -> None:
    """A session that opens connections without end keeps neither others nor itself for long."""
    flood = outward.session("python", allowInternetAccess=True)
    other = outward.session("python", allowInternetAccess=True)
    other.run(ASK)
    code = f"""{ASK}
ends = []
for number in range(300):
    end = socket.create_connection(("127.0.0.1", 61788), timeout=5)
    end.sendall(b"CONNECT {world} HTTP/1.1\\r\\nX: ")  # and no more of the head
    ends.append(end)
print(len(ends))
"""
    assert lines(flood.run(code)) == ["300"]
    assert lines(other.run(f"print(*ask('http://{world}/'))")) == ["200 world"]
    assert lines(flood.run(f"del ends, end\nprint(*ask('http://{world}/'))")) == ["200 world"]


def test_where_it_cannot_be_enforced() -> None:
    """Without a network of the session's own, 409 tells what would make it possible."""
    with open_client(*SERVER_FLAGS, "--strongest-tier", "3", "--min-tier", "3") as client:
        answer = client.http.post(
            "/api/sessions", json={"language": "python", "allowInternetAccess": True}
        )
        check_error(answer, 409, "NOT_ENFORCEABLE")
        assert "tier 1 or 2" in answer.json()["hint"]
        session = client.session("python", allowInternetAccess=False)
        for change in ({"allowInternetAccess": True}, {"allow_hosts": ["example.org"]}):
            answer = client.http.patch(session.path, json=change)
            check_error(answer, 409, "NOT_ENFORCEABLE")
        check(session.get(), allowInternetAccess=False)
        assert "HTTP_PROXY" not in lines(session.run("import os; print(*os.environ)"))[0]
