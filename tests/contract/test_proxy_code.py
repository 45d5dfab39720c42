"""Where nothing listens, the stored code of the session answers."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import httpx
import pytest

from tests.client import Client, SessionClient
from tests.contract.checks import check_error

TELL = """
import json, os
names = ("REQUEST_MODE", "HTTP_METHOD", "HTTP_PATH", "HTTP_QUERY", "HTTP_BODY", "HTTP_PORT")
told = {name: os.environ["ERA_" + name] for name in names}
told |= {"headers_seen": json.loads(os.environ["ERA_HTTP_HEADERS"]), "cwd": os.getcwd()}
print(json.dumps({"told": told, "session": os.environ["ERA_SESSION_ID"]}))
"""


def store(session: SessionClient, code: str) -> str:
    """Stores code; returns where it answers."""
    session.http.put(f"{session.path}/code", json={"code": code}).raise_for_status()
    return f"/proxy/{session.id}/8080"


def test_the_request(client: Client, session: SessionClient) -> None:
    """The code is told of the request, and runs in the session's directory; no kernel starts."""
    place = store(session, TELL)
    answer = client.http.post(f"{place}/a%20b?x=1", content="né\0", headers={"X-Own": "1"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (
        200, "application/json; charset=utf-8",
    )  # fmt: skip
    told: dict[str, Any] = answer.json()["told"]
    seen = told.pop("headers_seen")
    assert told.pop("cwd")
    assert told == {
        "REQUEST_MODE": "proxy", "HTTP_METHOD": "POST", "HTTP_PATH": "/a%20b",
        "HTTP_QUERY": "?x=1", "HTTP_BODY": "né\ufffd", "HTTP_PORT": "8080",
    }  # fmt: skip
    assert answer.json()["session"] == session.id
    assert seen["x-own"] == "1" and seen["x-forwarded-prefix"] == place
    told = client.http.get(place).json()["told"]
    assert (told["HTTP_QUERY"], told["HTTP_BODY"], told["HTTP_PATH"]) == ("", "", "/")
    assert session.get()["status"] == "stopped"


@pytest.mark.parametrize("code", ["", " \n"])
def test_nothing_in_it(client: Client, session: SessionClient, code: str) -> None:
    """Empty code is none: it answers no request."""
    check_error(client.http.get(store(session, code)), 502, "NOTHING_LISTENING")


def test_waiting_requests_run_the_newest_code(client: Client, session: SessionClient) -> None:
    """A request reads the code when it is its turn, not before: what waits runs what came since."""
    place = store(session, "import time\ntime.sleep(3)\nprint('old')\n" + "#" * 16_000_000)
    answers: list[str] = []

    def ask() -> None:
        with httpx.Client(base_url=client.http.base_url, timeout=60) as http:
            answers.append(http.get(place).text)

    asking = [threading.Thread(target=ask) for _ in range(6)]
    asking[0].start()
    time.sleep(1)
    for one in asking[1:]:
        one.start()
    time.sleep(0.5)
    store(session, "print('new')")
    for one in asking:
        one.join()
    assert answers == ["old\n"] + ["new\n"] * 5


def test_large_answers(client: Client, session: SessionClient) -> None:
    """A large answer is whole, and is sent as fast as it is read."""
    place = store(session, "print('x' * 5_000_000, end='')")
    assert client.http.get(place).text == "x" * 5_000_000
    assert client.http.head(place).headers["Content-Length"] == "5000000"
    with client.http.stream("GET", place) as answer:
        time.sleep(1)
        assert sum(map(len, answer.iter_bytes(4096))) == 5_000_000


def test_answers(client: Client, session: SessionClient) -> None:
    """What the code prints is the answer; what it says of the status and the type is followed."""
    answer = client.http.get(
        store(
            session,
            """print('{"status": 404, "contentType": "text/html", "headers": {"X-A": "b"}}')""",
        )
    )
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "text/html")
    assert answer.headers["X-A"] == "b" and json.loads(answer.text)["status"] == 404
    assert "Content-Security-Policy" in answer.headers
    answer = client.http.get(store(session, "print('<p>'); 1/0"))
    assert (answer.status_code, answer.text) == (500, "<p>\n")
    place = f"{session.path}/executions/{answer.headers['X-Execution-Id']}"
    assert "ZeroDivisionError" in client.http.get(place).json()["stderr"]
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    answer = client.http.get(store(session, """print('{"status": 204}')"""))
    assert (answer.status_code, answer.content) == (204, b"")
    answer = client.http.head(store(session, "print('abc')"))
    assert (answer.content, answer.headers["Content-Length"]) == (b"", "4")


def test_beside_the_kernel(client: Client, session: SessionClient) -> None:
    """The code runs while a run is busy, and sees none of its variables; then a listener wins."""
    place = store(session, "print('code', 'x' in globals())")
    with session.open_stream("x = 1\nprint(x, flush=True)\nimport time\ntime.sleep(3)") as events:
        assert next(events).event == "stdout"
        assert client.http.get(place).text == "code False\n"
        assert session.get()["status"] == "busy"
    session.run(
        "import http.server, threading\n"
        "handler = http.server.SimpleHTTPRequestHandler\n"
        "s = http.server.ThreadingHTTPServer(('127.0.0.1', 8080), handler)\n"
        "threading.Thread(target=s.serve_forever, daemon=True).start()"
    )
    assert "Directory listing" in client.http.get(f"{place}/").text


def test_one_at_a_time(client: Client, session: SessionClient) -> None:
    """Requests to the code of one session wait for each other."""
    place = store(
        session,
        "import os, time\nos.mkdir('busy')\ntime.sleep(0.2)\nos.rmdir('busy')\nprint('ok')",
    )
    texts: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: texts.append(httpx.get(f"{client.base_url}{place}", timeout=60).text)
        )
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["ok\n"] * 5


def test_too_slow_or_too_large(client: Client, session: SessionClient) -> None:
    """Code that does not end in time is 504; a body beyond what a variable takes is 413."""
    client.http.patch(session.path, json={"default_timeout": 0.5})
    place = store(session, "import time\ntime.sleep(60)")
    started = time.monotonic()
    answer = client.http.get(place)
    told = check_error(answer, 504, "GATEWAY_TIMEOUT")
    assert told["id"] == answer.headers["X-Execution-Id"]
    assert time.monotonic() - started < 20
    check_error(client.http.post(place, content=b"x" * 100_000), 413, "TOO_LARGE")
    chunks = iter([b"x" * 60_000] * 2)
    check_error(client.http.post(place, content=chunks), 413, "TOO_LARGE")
    place = store(session, "import os\nprint(len(os.environ['ERA_HTTP_BODY']))")
    client.http.patch(session.path, json={"default_timeout": 20})
    assert client.http.post(place, content=b"x" * 90_000).text == "90000\n"


def test_what_is_no_whole_answer(client: Client, session: SessionClient) -> None:
    """Code that prints more than an answer holds is 502: a part of it would look like all."""
    place = store(session, "import os\nprint('x' * int(os.environ['ERA_HTTP_PATH'][1:]))")
    assert client.http.get(f"{place}/9000000").text == "x" * 9_000_000 + "\n"
    check_error(client.http.get(f"{place}/11000000"), 502, "BAD_GATEWAY")


# Programs that answer `?large` with so many lines, else with a JSON object of what they were told.
LARGE_LINE, LARGE_LINES = "x" * 99, 20_000
PROGRAMS = {
    "python": """
import json, os, sys
if os.environ["ERA_HTTP_QUERY"] == "?large":
    for _ in range(20000):
        print("x" * 99)
    sys.exit(0)
told = {name: text for name, text in os.environ.items() if name.startswith("ERA_HTTP_")}
told["ERA_HTTP_HEADERS"] = json.loads(told["ERA_HTTP_HEADERS"])["x-own"]
print(json.dumps({"told": told, "mode": os.environ["ERA_REQUEST_MODE"], "status": 203,
                  "contentType": "application/x-own", "headers": {"X-Made": "1"}}))
""",
    "node": """
const large = process.env.ERA_HTTP_QUERY === "?large", told = {};
for (const name in process.env) {
  if (name.startsWith("ERA_HTTP_")) told[name] = process.env[name];
}
told.ERA_HTTP_HEADERS = JSON.parse(told.ERA_HTTP_HEADERS)["x-own"];
console.log(large ? ("x".repeat(99) + "\\n").repeat(20000).slice(0, -1) : JSON.stringify({told,
  mode: process.env.ERA_REQUEST_MODE, status: 203, contentType: "application/x-own",
  headers: {"X-Made": "1"}}));
""",
    "deno": """
const told: Record<string, string> = {};
for (const [name, text] of Object.entries(Deno.env.toObject())) {
  if (name.startsWith("ERA_HTTP_")) told[name] = text;
}
told.ERA_HTTP_HEADERS = JSON.parse(told.ERA_HTTP_HEADERS)["x-own"];
if (told.ERA_HTTP_QUERY === "?large") {
  for (let n = 0; n < 20000; n++) console.log("x".repeat(99));
} else {
  console.log(JSON.stringify({told, mode: Deno.env.get("ERA_REQUEST_MODE"), status: 203,
    contentType: "application/x-own", headers: {"X-Made": "1"}}));
}
""",
    "go": """package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

func main() {
	told := map[string]string{}
	for _, line := range os.Environ() {
		name, text, _ := strings.Cut(line, "=")
		if strings.HasPrefix(name, "ERA_HTTP_") {
			told[name] = text
		}
	}
	var headers map[string]string
	json.Unmarshal([]byte(told["ERA_HTTP_HEADERS"]), &headers)
	told["ERA_HTTP_HEADERS"] = headers["x-own"]
	if told["ERA_HTTP_QUERY"] == "?large" {
		fmt.Print(strings.Repeat(strings.Repeat("x", 99)+"\\n", 20000))
		return
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{"told": told, "status": 203,
		"mode": os.Getenv("ERA_REQUEST_MODE"), "contentType": "application/x-own",
		"headers": map[string]string{"X-Made": "1"}})
}
""",
}
PROGRAMS["typescript"] = PROGRAMS["node"].replace("told = {}", "told: Record<string, any> = {}")


@pytest.mark.parametrize("language", PROGRAMS)
def test_languages(client: Client, language: str) -> None:
    """Code of every language is told of the whole request, and says the whole answer."""
    if not client.http.get("/health").json()["languages"][language]:
        pytest.skip(f"{language} is not installed")
    session = client.session(language)
    place = store(session, PROGRAMS[language])
    content = "né ☃ \"'$(x)\n\0".encode() + b"\xff"
    answer = client.http.request(
        "PATCH", f"{place}/a%20b", content=content, headers={b"X-Own": b"\xe9"}
    )
    assert answer.status_code == 203, answer.text
    assert (answer.headers["Content-Type"], answer.headers["X-Made"]) == ("application/x-own", "1")
    assert answer.json() == {
        "told": {
            "ERA_HTTP_METHOD": "PATCH", "ERA_HTTP_PATH": "/a%20b", "ERA_HTTP_QUERY": "",
            "ERA_HTTP_HEADERS": "é", "ERA_HTTP_PORT": "8080",
            "ERA_HTTP_BODY": "né ☃ \"'$(x)\n\ufffd\ufffd",
        },
        "mode": "proxy", "status": 203, "contentType": "application/x-own",
        "headers": {"X-Made": "1"},
    }  # fmt: skip
    assert client.http.get(f"{place}/?large").text == f"{LARGE_LINE}\n" * LARGE_LINES
    session.delete()
