#!/usr/bin/env python3
"""Go: fragments of code, whose variables, types and functions stay. Needs httpx."""

from __future__ import annotations

import os
from typing import Any

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
CELLS = (
    'import ("fmt"; "os"; "strings")\nos.WriteFile("names.txt", []byte("tea pot"), 0o644)',
    'content, _ := os.ReadFile("names.txt")\nnames := strings.Fields(string(content))',
    (
        "type Price struct {\n\tName string\n\tValue int\n}\n"
        "func (p Price) Taxed() int { return p.Value * 119 / 100 }\n"
        "for n, name := range names {\n\tfmt.Println(name, Price{name, 100 * (n + 1)}.Taxed())\n}"
    ),
    'display.HTML("<b>" + strings.Join(names, ", ") + "</b>")\nlen(names)',
)


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        answer = http.post("/api/sessions", json={"language": "go"})
        if answer.status_code == 503:  # it is not installed, or not yet
            print(answer.json()["message"])
            return
        path = f"/api/sessions/{answer.raise_for_status().json()['id']}"
        try:
            results = [run(http, path, code) for code in CELLS]
            assert results[2]["stdout"] == "tea 119\npot 238\n"
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
