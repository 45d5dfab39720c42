#!/usr/bin/env python3
"""What code in a session may use of the storage: its address and its scope. Needs httpx."""

from __future__ import annotations

import os

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
USE = """
import era_storage
try:
    era_storage.kv.get("app", "greeting")
except era_storage.StorageError as error:
    print(error.code, error)
"""


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        body = {"language": "python", "storage": ["other", "tmp-*"]}
        made = http.post("/api/sessions", json=body).raise_for_status().json()
        path = f"/api/sessions/{made['id']}"
        print(f"its code may use {made['storage']}")
        try:
            code = "import os; print(os.environ['ERA_STORAGE_URL'])"
            print(f"at {run(http, path, code)}")
            told = run(http, path, USE)
            print(f"refused: {told}")
            assert told.startswith("STORAGE_SCOPE KV get failed: ")

            http.patch(path, json={"storage": ["app"]}).raise_for_status()
            told = run(http, path, USE)
            print(f"after a change: {told or 'allowed'}")
            assert not told.startswith("STORAGE_SCOPE")
        finally:
            http.delete(path).raise_for_status()


def run(http: httpx.Client, path: str, code: str) -> str:
    """Runs code in the session, and returns what it printed."""
    answer = http.post(f"{path}/run", json={"code": code}).raise_for_status().json()
    assert answer["exit_code"] == 0, answer["stderr"]
    return str(answer["stdout"]).strip()


if __name__ == "__main__":
    main()
