#!/usr/bin/env python3
"""Duplicate: a session with its files, data and code, made again. Needs httpx."""

from __future__ import annotations

import os

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
WRITE = "open('notes.txt', 'w').write({text!r})"
READ = "print(open('notes.txt').read())"


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        made = http.post("/api/sessions", json={"language": "python", "data": {"user": "ada"}})
        made.raise_for_status()
        path = f"/api/sessions/{made.json()['id']}"
        try:
            copies = use(http, path)
        finally:
            http.delete(path).raise_for_status()
        for copy in copies:
            print(f"the original is gone, the copy says: {run(http, copy, READ)}")
            http.delete(copy).raise_for_status()


def run(http: httpx.Client, path: str, code: str) -> str:
    answer = http.post(f"{path}/run", json={"code": code}).raise_for_status().json()
    assert answer["exit_code"] == 0, answer["stderr"]
    return str(answer["stdout"]).strip()


def use(http: httpx.Client, path: str) -> list[str]:
    """Makes two duplicates: one that waits in the queue, one made at once with its own data."""
    run(http, path, WRITE.format(text="first"))
    copy = http.post(f"{path}/duplicate").raise_for_status().json()
    print(f"copied: {copy['file_count']} file, data {copy['data']}, mode {copy['copy']['mode']}")
    assert copy["data"] == {"user": "ada"}

    body = {"data": {"user": "bob"}, "variables": False}
    other = http.post(f"{path}/duplicate", json=body).raise_for_status().json()
    print(f"copied at once, with data {other['data']}")

    run(http, path, WRITE.format(text="second"))
    copies = [f"/api/sessions/{one['id']}" for one in (copy, other)]
    print(f"the original says: {run(http, path, READ)}")
    assert [run(http, one, READ) for one in copies] == ["first", "first"]
    return copies


if __name__ == "__main__":
    main()
