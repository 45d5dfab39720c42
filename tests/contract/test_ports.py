"""Where a session's ports are served, and what listens on them."""

from __future__ import annotations

import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import check_error

LISTEN = """
import socket
ends = [socket.create_server(("127.0.0.1", 0)), socket.create_server(("0.0.0.0", 0))]
try:
    ends.append(socket.create_server(("::1", 0), family=socket.AF_INET6))
except OSError:
    pass
[[end.getsockname()[1], end.getsockname()[0]] for end in ends]
"""


@pytest.mark.parametrize("port", [1, 8080, 65535])
def test_host(client: Client, shared: SessionClient, port: int) -> None:
    """The address of a port begins as that of the server does."""
    answer = client.http.get(f"{shared.path}/host", params={"port": port})
    url = f"{client.base_url}/proxy/{shared.id}/{port}"
    assert answer.status_code == 200
    assert answer.json() == {
        "url": url, "base_url": url, "session_id": shared.id, "port": port
    }  # fmt: skip


@pytest.mark.parametrize("port", ["0", "65536", "-1", "x", "80.5", ""])
def test_host_of_no_port(client: Client, shared: SessionClient, port: str) -> None:
    """A port is a number from 1 to 65535."""
    shown = check_error(client.http.get(f"{shared.path}/host?port={port}"), 400, "INVALID_REQUEST")
    assert "port" in shown["message"]
    check_error(client.http.get(f"{shared.path}/host"), 400, "INVALID_REQUEST")


def test_unknown_session(client: Client) -> None:
    """Both calls need a session."""
    for path in ("host?port=80", "ports"):
        answer = client.http.get(f"/api/sessions/none/{path}")
        check_error(answer, 404, "SESSION_NOT_FOUND")


def test_nothing_listens(client: Client, session: SessionClient) -> None:
    """The server's own ports in a session are not listed: neither without a kernel nor with one."""
    assert client.http.get(f"{session.path}/ports").json() == {"ports": []}
    session.run("pass")
    assert client.http.get(f"{session.path}/ports").json() == {"ports": []}


def test_ports(client: Client, session: SessionClient) -> None:
    """What listens is listed by port, with its address and its process; others' is not."""
    result = session.run(LISTEN)["results"][0]["data"]["text/plain"]
    expected = sorted((port, address) for port, address in eval(result))
    ports = client.http.get(f"{session.path}/ports").json()["ports"]
    assert [(one["port"], one["address"]) for one in ports] == expected
    assert all(one["process"] for one in ports)
    assert client.http.get(f"{client.session('python').path}/ports").json() == {"ports": []}


def test_ports_of_programs(client: Client, session: SessionClient) -> None:
    """A program beside the kernel is listed under its name, also where no kernel runs."""
    command = "exec python3 -c \"import http.server as h; h.test(port=8123, bind='127.0.0.1')\""
    body = {"command": command, "background": True}
    assert client.http.post(f"{session.path}/exec", json=body).status_code == 202
    while not (ports := client.http.get(f"{session.path}/ports").json()["ports"]):
        pass
    assert ports == [{"port": 8123, "address": "127.0.0.1", "process": "python3"}]
