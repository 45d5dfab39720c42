#!/usr/bin/env python3
"""D1: a guest book in a SQL database that lives longer than any session. Needs httpx."""

from __future__ import annotations

import os
from typing import Any

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
SCHEMA = """
    DROP TABLE IF EXISTS entries;
    DROP TABLE IF EXISTS guests;
    CREATE TABLE guests (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL);
    CREATE TABLE entries (
        guest INTEGER NOT NULL REFERENCES guests (id), text TEXT NOT NULL, photo BLOB
    );
"""


def main() -> None:
    path = "/api/storage/d1/guestbook"
    with httpx.Client(base_url=f"{URL}{path}", timeout=60) as http:
        post(http, "exec", {"sql": SCHEMA})
        try:
            use(http)
        finally:
            post(http, "exec", {"sql": "DROP TABLE entries; DROP TABLE guests"})


def post(http: httpx.Client, way: str, body: Any) -> Any:
    """Posts to the database; returns the answer."""
    return http.post(f"/{way}", json=body).raise_for_status().json()


def use(http: httpx.Client) -> None:
    """Adds guests and entries, reads them, and shows what a mistake looks like."""
    for name in ("Ada", "Grace"):
        add = {"sql": "INSERT INTO guests (name) VALUES (?)", "params": [name]}
        print(f"{name} is guest {post(http, 'exec', add)['meta']['last_row_id']}")

    sign = "INSERT INTO entries VALUES (:guest, :text, :photo) RETURNING rowid"
    signed = post(
        http,
        "batch",
        [
            {"sql": sign, "params": {"guest": 1, "text": "Lovely!", "photo": {"base64": "AP8="}}},
            {"sql": sign, "params": {"guest": 2, "text": "Precise.", "photo": None}},
        ],
    )
    print(f"entries: {[one['results'] for one in signed['results']]}")

    read = "SELECT name, text, length(photo) AS bytes FROM entries JOIN guests ON guest = id"
    for row in post(http, "query", {"sql": read})["results"]:
        print(f"{row['name']}: {row['text']} ({row['bytes'] or 0} bytes of photo)")

    nobody = http.post("/exec", json={"sql": "INSERT INTO entries VALUES (9, '?', NULL)"})
    print(f"{nobody.status_code} {nobody.json()['code']}: {nobody.json()['details']}")
    assert nobody.json()["details"] == "FOREIGN KEY constraint failed"
    write = http.post("/query", json={"sql": "DELETE FROM entries"})
    print(f"{write.status_code} {write.json()['code']}: {write.json()['message']}")
    assert write.json()["code"] == "SQL_READ_ONLY"


if __name__ == "__main__":
    main()
