#!/usr/bin/env python3
"""The storage as code in TypeScript uses it, beside that of another language. Needs httpx."""

from __future__ import annotations

import os

import httpx

URL = os.environ.get("ERA_URL", "http://127.0.0.1:8787")
STORE = """
import { kv, d1, r2 } from "era_storage";

await kv.set("example-ts", "greeting", "hello", { lang: "en" });
await d1.exec("example-ts", "CREATE TABLE IF NOT EXISTS visit (n INTEGER, data BLOB)");
await d1.exec("example-ts", "INSERT INTO visit VALUES (?, ?)", [2n ** 60n, Buffer.from([0, 1])]);

async function* pieces(): AsyncGenerator<Uint8Array> {
    for (let n = 0; n < 3; n++) yield Buffer.from(`piece ${n}\\n`);
}
await r2.put("example-ts", "pieces.txt", pieces(), { kind: "text" });
"""
READ = """
interface Visit { n: bigint; data: Buffer }
const text: string | null = await kv.get("example-ts", "greeting");
console.log("kv:", text, await kv.list("example-ts"));
console.log("d1:", await d1.query<Visit>("example-ts", "SELECT * FROM visit"));
console.log("r2:", String(await r2.get("example-ts", "pieces.txt")).split("\\n"));
await kv.get("no namespace", "k").catch((error) => console.log("error:", error.code));
"""
CLEAN_UP = """
await kv.delete("example-ts", "greeting");
await d1.exec("example-ts", "DROP TABLE visit");
await r2.delete("example-ts", "pieces.txt");
"""
PYTHON = "from era_storage import kv\nprint('Python reads', kv.get('example-ts', 'greeting'))"


def main() -> None:
    with httpx.Client(base_url=URL, timeout=60) as http:
        made = http.post("/api/sessions", json={"language": "typescript"})
        path = f"/api/sessions/{made.raise_for_status().json()['id']}"
        try:
            run(http, f"{path}/run", {"code": STORE})
            print(run(http, f"{path}/run", {"code": READ}))
            print(run(http, "/api/execute", {"language": "python", "code": PYTHON}))
            run(http, f"{path}/run", {"code": CLEAN_UP})
        finally:
            http.delete(path).raise_for_status()


def run(http: httpx.Client, path: str, body: dict[str, str]) -> str:
    """Runs code, and returns what it printed."""
    answer = http.post(path, json=body).raise_for_status().json()
    assert answer["exit_code"] == 0, answer["stderr"]
    return str(answer["stdout"]).strip()


if __name__ == "__main__":
    main()
