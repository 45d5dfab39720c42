#!/usr/bin/env python3
"""Switches the internet access of a session while it lives; bounds it to hosts. Needs httpx."""

from __future__ import annotations

import os

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
CODE = """
import urllib.error, urllib.request
try:
    with urllib.request.urlopen("http://example.org/", timeout=20) as answer:
        print(answer.status)
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        made = http.post("/api/sessions", json={"language": "python"}).raise_for_status().json()
        path = f"/api/sessions/{made['id']}"
        try:
            if made["isolation"]["tier"] > 2:
                print("sessions have no network of their own on this host")
                return
            told = run(http, path)
            print(f"without access: {told}")
            assert told.startswith("403 ")

            http.patch(path, json={"allowInternetAccess": True}).raise_for_status()
            print(f"with access: {run(http, path)}")  # 200, or 502 on a host without internet

            http.patch(path, json={"allow_hosts": ["*.example.net"]}).raise_for_status()
            told = run(http, path)
            print(f"to other hosts alone: {told}")
            assert told.startswith("403 ")

            http.patch(path, json={"allowInternetAccess": False}).raise_for_status()
            told = run(http, path)
            print(f"without access again: {told}")
            assert told.startswith("403 ")
        finally:
            http.delete(path).raise_for_status()


def run(http: httpx.Client, path: str) -> str:
    """Runs the code in the session, and returns what it printed."""
    answer = http.post(f"{path}/run", json={"code": CODE}).raise_for_status().json()
    assert answer["exit_code"] == 0, answer["stderr"]
    return str(answer["stdout"]).strip()


if __name__ == "__main__":
    main()
