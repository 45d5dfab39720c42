"""Serves a page from inside a session, looks at it from outside, and lets stored code answer."""

import os
import time

import httpx

SERVE = """
import http.server, threading

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(f"<p>{greeting} from {self.path}".encode())

greeting = "hello"
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Page)
threading.Thread(target=server.serve_forever, daemon=True).start()
"""
ANSWER = "import json, os; print(json.dumps({'path': os.environ['ERA_HTTP_PATH'], 'status': 201}))"

with httpx.Client(base_url=os.environ.get("ERA_URL", "http://127.0.0.1:8787"), timeout=60) as http:
    session = http.post("/api/sessions", json={"language": "python"}).json()["id"]
    path = f"/api/sessions/{session}"
    http.post(f"{path}/run", json={"code": SERVE}).raise_for_status()
    print(http.get(f"{path}/ports").json()["ports"])

    url = http.get(f"{path}/host", params={"port": 8000}).json()["base_url"]
    print(httpx.get(f"{url}/page").text)

    # The server goes on while a run is busy, and sees the values of the session.
    busy = {"code": "greeting = 'still here'\nimport time\ntime.sleep(1)", "background": True}
    http.post(f"{path}/run", json=busy).raise_for_status()
    time.sleep(0.5)
    print(httpx.get(f"{url}/page").text)

    # Nothing listens on port 9000: the stored code answers.
    http.put(f"{path}/code", json={"code": ANSWER}).raise_for_status()
    answer = http.get(f"/proxy/{session}/9000/anything")
    print(answer.status_code, answer.json())
    http.delete(path).raise_for_status()
