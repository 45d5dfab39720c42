#!/usr/bin/env python3
"""Node: cells of a notebook in JavaScript, whose names, results and modules stay. Needs httpx."""

from __future__ import annotations

import os
from typing import Any

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
CELLS = (
    "const fs = require('node:fs')\nfs.writeFileSync('prices.json', '[3, 4, 5]')",
    "const prices = JSON.parse(fs.readFileSync('prices.json', 'utf8'))\nprices.length",
    (
        "const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))\n"
        "for (const price of prices) { console.log('price', price); await wait(10) }"
    ),
    (
        "const total = prices.reduce((sum, price) => sum + price, 0)\n"
        "display.html(`<b>${total}</b>`)\ntotal"
    ),
)


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        answer = http.post("/api/sessions", json={"language": "node"})
        if answer.status_code == 503:  # it is not installed, or not yet
            print(answer.json()["message"])
            return
        path = f"/api/sessions/{answer.raise_for_status().json()['id']}"
        try:
            results = [run(http, path, code) for code in CELLS]
            assert results[2]["stdout"] == "price 3\nprice 4\nprice 5\n"
            assert results[3]["exit_code"] == 0
        finally:
            http.delete(path).raise_for_status()


def run(http: httpx.Client, path: str, code: str) -> dict[str, Any]:
    """Runs one cell; shows what it printed and its results."""
    result: dict[str, Any] = http.post(f"{path}/run", json={"code": code}).raise_for_status().json()
    print(f">>> {code.splitlines()[-1]}\n{result['stdout']}{result['stderr']}", end="")
    for one in result["results"]:
        print(one)
    return result


if __name__ == "__main__":
    main()
