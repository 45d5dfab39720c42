#!/usr/bin/env python3
"""The storage as code in a session uses it: no set-up, no token, no network. Needs httpx."""

from __future__ import annotations

import os

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
PROGRAM = """
from era_storage import kv, d1, r2

kv.set("example", "greeting", "hello", {"lang": "en"})
print("kv:", kv.get("example", "greeting"), kv.list("example"))

d1.exec("example", "CREATE TABLE IF NOT EXISTS visit (at TEXT, data BLOB)")
d1.exec("example", "INSERT INTO visit VALUES (?, ?)", ["today", b"\\x00\\x01"])
print("d1:", d1.query("example", "SELECT at, data FROM visit"))

r2.put("example", "photo.bin", b"some bytes", {"kind": "photo"})
print("r2:", r2.get("example", "photo.bin"), r2.get("example", "none"))
"""
CLEAN_UP = """
kv.delete("example", "greeting")
d1.exec("example", "DROP TABLE visit")
r2.delete("example", "photo.bin")
"""


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        made = http.post("/api/sessions", json={"language": "python"}).raise_for_status().json()
        path = f"/api/sessions/{made['id']}"
        try:
            print(run(http, path, PROGRAM))
            answer = http.get("/api/storage/kv/example", params={"key": "greeting"})
            print(f"callers of the API see {answer.raise_for_status().json()['value']}, too")
            run(http, path, CLEAN_UP)
        finally:
            http.delete(path).raise_for_status()


def run(http: httpx.Client, path: str, code: str) -> str:
    """Runs code in the session, and returns what it printed."""
    answer = http.post(f"{path}/run", json={"code": code}).raise_for_status().json()
    assert answer["exit_code"] == 0, answer["stderr"]
    return str(answer["stdout"]).strip()


if __name__ == "__main__":
    main()
