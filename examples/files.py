#!/usr/bin/env python3
"""Files: bring data in, let code work on it, take the result out. Needs httpx."""

from __future__ import annotations

import os

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
CODE = """
import csv
rows = list(csv.DictReader(open("data/in.csv")))
with open("total.txt", "w") as out:
    out.write(str(sum(int(row["price"]) for row in rows)))
"""


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        created = http.post("/api/sessions", json={"language": "python"}).raise_for_status()
        session = f"/api/sessions/{created.json()['id']}"
        try:
            work(http, session)
        finally:
            http.delete(session).raise_for_status()


def work(http: httpx.Client, session: str) -> None:
    table = "name,price\npen,3\nbook,12\n"
    put = http.put(f"{session}/files/data/in.csv", content=table).raise_for_status()
    print("put:", put.json())

    ran = http.post(f"{session}/run", json={"code": CODE}).raise_for_status().json()
    print("files that the run changed:", ran["files_modified"])

    listed = http.get(f"{session}/files").raise_for_status().json()
    print("files:", [file["path"] for file in listed["files"]])

    got = http.get(f"{session}/files/total.txt").raise_for_status()
    print("total:", got.text)
    assert got.text == "15"

    again = http.get(f"{session}/files/total.txt", headers={"If-None-Match": got.headers["ETag"]})
    print("asked again with its ETag:", again.status_code)
    assert again.status_code == 304

    once = {"If-None-Match": "*"}
    refused = http.put(f"{session}/files/total.txt", content="0", headers=once)
    print("put only where there is none:", refused.status_code, refused.json()["code"])
    assert refused.status_code == 412

    http.delete(f"{session}/files/data/in.csv").raise_for_status()
    print("left:", http.get(f"{session}/files").json()["total_count"])


if __name__ == "__main__":
    main()
