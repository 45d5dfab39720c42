#!/usr/bin/env python3
"""Stored code: kept with its session, and run by requests without `code`. Needs httpx."""

from __future__ import annotations

import os

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
PROGRAM = """
import json
name = json.load(open(".session_data.json"))["name"]
print(f"Hello, {name}!")
"""


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        made = http.post("/api/sessions", json={"language": "python"}).raise_for_status()
        path = f"/api/sessions/{made.json()['id']}"
        try:
            use(http, path)
        finally:
            http.delete(path).raise_for_status()


def use(http: httpx.Client, path: str) -> None:
    """Stores a program, shows it, and runs it with data of two people."""
    missing = http.get(f"{path}/code")
    print(f"at first: {missing.status_code}, {missing.json()['hint']}")
    assert missing.status_code == 404

    body = {"code": PROGRAM, "description": "Says hello."}
    stored = http.put(f"{path}/code", json=body).raise_for_status().json()
    print(f"stored: {stored['code_length']} characters at {stored['updated_at']}")
    shown = http.get(f"{path}/code").raise_for_status().json()
    print(f"shown: {shown['description']}")
    assert shown["code"] == PROGRAM

    for name in ("Ada", "Bob"):
        run = http.post(f"{path}/run", json={"update_data": {"name": name}}).raise_for_status()
        print(f"ran: {run.json()['stdout'].strip()}")
        assert run.json()["stdout"] == f"Hello, {name}!\n"


if __name__ == "__main__":
    main()
