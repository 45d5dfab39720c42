"""Servers that are written in each language, in a session of it, are reached from outside."""

from __future__ import annotations

import hashlib

import httpx
import pytest
from tornado.websocket import websocket_connect

from tests.client import Client
from tests.waiting import wait_until

PORT = 8080

# Each tells of the request, and gives its body back; `/wait` says "first" and then waits for `/go`.
SERVERS = {
    "node": """
const http = require("http");
let waiting;
http.createServer((request, response) => {
  if (request.url === "/wait") {
    response.write("first");
    waiting = response;
  } else if (request.url === "/go") {
    waiting.end("second");
    response.end();
  } else {
    response.writeHead(201, {"X-Told": `${request.method} ${request.url}`});
    request.pipe(response);
  }
}).listen(8080, "127.0.0.1");
""",
    "deno": """
let waiting: ReadableStreamDefaultController<Uint8Array>;
const bytes = (text: string) => new TextEncoder().encode(text);
Deno.serve({port: 8080, hostname: "127.0.0.1", onListen: () => {}}, (request: Request) => {
  const {pathname, search} = new URL(request.url);
  if (pathname === "/ws") {
    const {socket, response} = Deno.upgradeWebSocket(request);
    socket.onmessage = ({data}) => socket.send(data);
    return response;
  }
  if (pathname === "/wait") {
    const start = (controller: ReadableStreamDefaultController<Uint8Array>) => {
      controller.enqueue(bytes("first"));
      waiting = controller;
    };
    return new Response(new ReadableStream({start}));
  }
  if (pathname === "/go") {
    waiting.enqueue(bytes("second"));
    waiting.close();
    return new Response("");
  }
  const headers = {"X-Told": `${request.method} ${pathname}${search}`};
  return new Response(request.body, {status: 201, headers});
});
""",
    "go": """
import ("io"; "net/http")

waiting := make(chan bool)
http.HandleFunc("/wait", func(response http.ResponseWriter, request *http.Request) {
	io.WriteString(response, "first")
	response.(http.Flusher).Flush()
	<-waiting
	io.WriteString(response, "second")
})
http.HandleFunc("/go", func(response http.ResponseWriter, request *http.Request) {
	waiting <- true
})
http.HandleFunc("/", func(response http.ResponseWriter, request *http.Request) {
	body, _ := io.ReadAll(request.Body)
	response.Header().Set("X-Told", request.Method+" "+request.RequestURI)
	response.WriteHeader(201)
	response.Write(body)
})
http.ListenAndServe("127.0.0.1:8080", nil)
""",
}
ENDS_WITH_ITS_RUN = {"go"}  # the others' event loops serve when the run has ended


@pytest.mark.parametrize("language", SERVERS)
async def test_servers(client: Client, language: str) -> None:
    """Requests, bodies and streams reach a server of the language, and a WebSocket Deno's own."""
    if not client.http.get("/health").json()["languages"][language]:
        pytest.skip(f"{language} is not installed")
    session = client.session(language)
    body = {"code": SERVERS[language], "background": True}
    started = client.http.post(f"{session.path}/run", json=body).raise_for_status().json()
    place = f"{client.base_url}/proxy/{session.id}/{PORT}"
    assert wait_until(lambda: httpx.get(f"{place}/").status_code == 201, 60)
    execution = f"{session.path}/executions/{started['execution_id']}"
    expected = "running" if language in ENDS_WITH_ITS_RUN else "finished"
    assert wait_until(lambda: client.http.get(execution).json()["status"] == expected)
    data = bytes(range(256)) * 8000
    answer = httpx.request("PUT", f"{place}/a%20b?x=1", content=iter([data, data]), timeout=60)
    assert (answer.status_code, answer.headers["X-Told"]) == (201, "PUT /a%20b?x=1")
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(data * 2).digest()
    with httpx.stream("GET", f"{place}/wait", timeout=60) as stream:
        parts = stream.iter_raw()
        assert next(parts) == b"first"
        httpx.get(f"{place}/go").raise_for_status()
        assert b"".join(parts) == b"second"
    if language == "deno":
        connection = await websocket_connect(f"{place}/ws".replace("http", "ws", 1))
        await connection.write_message(data, binary=True)
        assert await connection.read_message() == data
        connection.close()
    session.delete()
