#!/usr/bin/env python3
"""TypeScript: cells of a notebook, whose types are erased and not checked. Needs httpx."""

from __future__ import annotations

import os
from typing import Any

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
CELLS = (
    "interface Item { name: string; price: number }\nenum Tax { Low = 7, High = 19 }",
    "const items: Item[] = [{ name: 'tea', price: 3 }, { name: 'pot', price: 20 }]\nitems.length",
    (
        "const taxed = <T extends Item>(item: T, tax: Tax) => item.price * (1 + tax / 100)\n"
        "for (const item of items) console.log(item.name, taxed(item, Tax.High).toFixed(2))"
    ),
    "class Shop { constructor(readonly items: Item[]) {} }\nnew Shop(items)",
)


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        answer = http.post("/api/sessions", json={"language": "typescript"})
        if answer.status_code == 503:  # it is not installed, or not yet
            print(answer.json()["message"])
            return
        path = f"/api/sessions/{answer.raise_for_status().json()['id']}"
        try:
            results = [run(http, path, code) for code in CELLS]
            assert results[2]["stdout"] == "tea 3.57\npot 23.80\n"
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
