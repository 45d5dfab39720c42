#!/usr/bin/env python3
"""A small app in a session: rows in D1, a data frame in one line, images in R2. Needs httpx."""

from __future__ import annotations

import os

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
STORE = """
from era_storage import d1, kv, r2

d1.exec("shop", "CREATE TABLE IF NOT EXISTS sales (day TEXT, item TEXT, price REAL)")
for row in [("mon", "tea", 2.5), ("mon", "cake", 4.0), ("tue", "tea", 2.5)]:
    d1.exec("shop", "INSERT INTO sales VALUES (?, ?, ?)", list(row))
"""
REPORT = """
import pandas

frame = pandas.DataFrame(d1.query("shop", "SELECT * FROM sales"))  # rows to a data frame
totals = frame.groupby("day")["price"].sum()
print(totals.to_dict())

kv.set("shop", "report:total", str(totals.sum()), {"rows": len(frame)})  # a cache of the result
bars = "".join(
    f'<rect x="{20 * number}" width="15" height="{10 * value}"/>'
    for number, value in enumerate(totals)
)
image = f'<svg xmlns="http://www.w3.org/2000/svg">{bars}</svg>'
r2.put("shop", "report.svg", image.encode(), {"days": str(len(totals))})
"""
CLEAN_UP = """
d1.exec("shop", "DROP TABLE sales")
kv.delete("shop", "report:total")
r2.delete("shop", "report.svg")
"""


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        made = http.post("/api/sessions", json={"language": "python"}).raise_for_status().json()
        path = f"/api/sessions/{made['id']}"
        try:
            run(http, path, STORE)
            print(f"sales by day: {run(http, path, REPORT)}")
            total = http.get("/api/storage/kv/shop/report:total").raise_for_status().json()
            print(f"cached total: {total['value']}, of {total['metadata']['rows']} rows")
            answer = http.get(
                "/api/storage/r2/shop/report.svg", headers={"Accept": "application/octet-stream"}
            ).raise_for_status()
            print(f"image: {len(answer.content)} bytes of {answer.headers['X-Era-Meta-days']} days")
            body = {"sql": "SELECT item, count(*) AS sold FROM sales GROUP BY item ORDER BY item"}
            sold = http.post("/api/storage/d1/shop/query", json=body).raise_for_status().json()
            print(f"sold: {sold['results']}")
            assert sold["results"] == [{"item": "cake", "sold": 1}, {"item": "tea", "sold": 2}]
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
