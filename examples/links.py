"""Gives a file, a place for a file and a page to somebody who has no token, for a while."""

import os

import httpx

SERVE = """
import http.server, threading

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"a page of the session")

server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Page)
threading.Thread(target=server.serve_forever, daemon=True).start()
"""

with httpx.Client(base_url=os.environ.get("ERA_URL", "http://127.0.0.1:8787"), timeout=60) as http:
    session = http.post("/api/sessions", json={"language": "python"}).json()["id"]
    path = f"/api/sessions/{session}"

    # Somebody sends data: the link takes this one file, and nothing else.
    link = http.post(f"{path}/links", json={"path": "in.csv", "method": "PUT", "ttl": 600}).json()
    print(httpx.put(link["url"], content=b"a,b\n1,2\n").json())

    # The session makes a report of it, and somebody reads that.
    http.post(f"{path}/run", json={"code": "open('out.txt', 'w').write(open('in.csv').read()[:3])"})
    report = http.post(f"{path}/links", json={"path": "out.txt"}).json()
    print(httpx.get(report["url"]).text)
    print(httpx.put(report["url"], content=b"x").json()["code"])

    # Somebody looks at what a port serves.
    http.post(f"{path}/run", json={"code": SERVE}).raise_for_status()
    page = http.post(f"{path}/links", json={"port": 8000}).json()
    print(httpx.get(page["url"]).text)

    # A link that is revoked opens nothing any more.
    print([one["id"] for one in http.get(f"{path}/links").json()["links"]])
    http.delete(f"{path}/links/{page['id']}").raise_for_status()
    print(httpx.get(page["url"]).status_code)
    http.delete(path).raise_for_status()
