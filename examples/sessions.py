#!/usr/bin/env python3
"""Sessions: make one, show it, change it, list it, delete it. Needs httpx."""

from __future__ import annotations

import os

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        made = http.post(
            "/api/sessions",
            json={"language": "python", "data": {"user": "ada"}, "metadata": {"team": "blue"}},
        )
        made.raise_for_status()
        path = f"/api/sessions/{made.json()['id']}"
        print(f"made {made.json()['id']}, status {made.json()['status']}")
        try:
            use(http, path)
        finally:
            http.delete(path).raise_for_status()
        missing = http.get(path)
        print(f"deleted: {missing.status_code} {missing.json()['code']}")
        assert missing.status_code == 404


def use(http: httpx.Client, path: str) -> None:
    """Does everything with a session but running code."""
    change = {"default_timeout": 120, "metadata": {"team": "green"}}
    changed = http.patch(path, json=change).raise_for_status().json()["metadata"]
    print(f"changed: timeout {changed['default_timeout']} s, labels {changed['metadata']}")
    assert (changed["default_timeout"], changed["data"]) == (120, {"user": "ada"})

    run = http.post(f"{path}/run", json={"code": "open('notes.txt', 'w').write('hi')"})
    assert run.raise_for_status().json()["files_modified"] == 1
    shown = http.get(path).raise_for_status().json()
    print(f"files: {[(file['path'], file['size']) for file in shown['files']]}")
    assert shown["file_count"] == 1

    restarted = http.post(f"{path}/restart").raise_for_status().json()
    print(f"restarted: kernel generation {restarted['kernel_generation']}")
    assert http.get(path).json()["file_count"] == 1

    listed = http.get("/api/sessions", params={"language": "python"}).raise_for_status().json()
    print(f"listed: {shown['id'] in [one['id'] for one in listed['sessions']]}")
    assert any(one["id"] == shown["id"] for one in listed["sessions"])


if __name__ == "__main__":
    main()
