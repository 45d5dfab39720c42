#!/usr/bin/env python3
"""Languages: which the server has, what their kernels can do, and how a session chooses one.

Needs httpx.
"""

from __future__ import annotations

import os

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        languages = http.get("/api/languages").raise_for_status().json()["languages"]
        for language in languages:
            about = language["reason"] if "reason" in language else language["version"] or "there"
            print(f"{language['name']} ({', '.join(language['aliases'])}): {about}")
            print(f"  kernels: {', '.join(language['kernels'])}")
            print(f"  capabilities: {', '.join(language['capabilities'])}")
        choose(http, next(one for one in languages if one["available"]))


def choose(http: httpx.Client, language: dict[str, list[str]]) -> None:
    """Creates a session on one of the language's kernels; without `kernel` it is the first."""
    body = {"language": language["name"], "kernel": language["kernels"][0]}
    session = http.post("/api/sessions", json=body).raise_for_status().json()
    try:
        print(f"a session of {session['language']} on the kernel {session['kernel']}")
        assert session["kernel"] == language["kernels"][0]
        answer = http.post("/api/sessions", json={**body, "kernel": "none-such"})
        print(f"of another kernel: {answer.status_code}, {answer.json()['message']}")
        assert answer.status_code == 400
    finally:
        http.delete(f"/api/sessions/{session['id']}").raise_for_status()


if __name__ == "__main__":
    main()
