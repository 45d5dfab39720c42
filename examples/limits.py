#!/usr/bin/env python3
"""A session with limits of its own: what is refused, and what happens past them. Needs httpx."""

from __future__ import annotations

import os

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        body = {"language": "python", "limits": {"memory_mb": 10**9}}
        refused = http.post("/api/sessions", json=body)
        print(f"refused: {refused.status_code} {refused.json()['message']}")
        assert refused.status_code == 400

        body["limits"] = {"memory_mb": 128, "workspace_mb": 2}
        made = http.post("/api/sessions", json=body).raise_for_status().json()
        print(f"made with {made['limits']}")
        path = f"/api/sessions/{made['id']}"
        try:
            use(http, path, is_isolated=made["isolation"]["tier"] < 4)
        finally:
            http.delete(path).raise_for_status()


def use(http: httpx.Client, path: str, *, is_isolated: bool) -> None:
    """Uploads too much; where there is a sandbox, takes too much memory, too."""
    upload = http.put(f"{path}/files/large", content=bytes(3 * 1024 * 1024))
    print(f"3 MB uploaded: {upload.status_code} {upload.json()['code']}")
    assert upload.status_code == 413
    if is_isolated:
        run = http.post(f"{path}/run", json={"code": "x = bytearray(200 * 1024 * 1024)"}).json()
        # Where no control groups count memory, Python is refused it, and goes on.
        what = run.get("cause") or run["exception"]["name"]
        print(f"200 MB of memory: {what}, state {run['state']}")
        assert (what, run["state"]) in (
            ("out of memory at 128 MB", "lost"),
            ("MemoryError", "preserved"),
        )
        told = run["stderr"].splitlines()[-1]
        print(told)
        assert told.startswith("[era] out of memory: the session's limit is 128 MiB")


if __name__ == "__main__":
    main()
