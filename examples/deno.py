#!/usr/bin/env python3
"""Deno: cells of a notebook in TypeScript, with Deno's own functions. Needs httpx."""

from __future__ import annotations

import os
from typing import Any

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
CELLS = (
    "interface Price { name: string; value: number }\nawait Deno.mkdir('prices')",
    (
        "const prices: Price[] = [{ name: 'tea', value: 3 }, { name: 'pot', value: 20 }]\n"
        "await Deno.writeTextFile('prices/all.json', JSON.stringify(prices))"
    ),
    (
        "const stored: Price[] = JSON.parse(await Deno.readTextFile('prices/all.json'))\n"
        "for (const { name, value } of stored) console.log(name, value)"
    ),
    (
        "const total = stored.reduce((sum, price) => sum + price.value, 0)\n"
        "await Deno.jupyter.display(Deno.jupyter.html`<b>${total}</b>`)\ntotal"
    ),
)


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        answer = http.post("/api/sessions", json={"language": "deno"})
        if answer.status_code == 503:  # it is not installed, or not yet
            print(answer.json()["message"])
            return
        path = f"/api/sessions/{answer.raise_for_status().json()['id']}"
        try:
            results = [run(http, path, code) for code in CELLS]
            assert results[2]["stdout"] == "tea 3\npot 20\n"
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
