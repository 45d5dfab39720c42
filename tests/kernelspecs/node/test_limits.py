"""What Node and TypeScript need at least, and what they do with the memory that a session has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from era_kernels.kernels.kernelspecs import builtin_dir
from tests.client import Client
from tests.kernelspecs.node.toolchain import requires_node
from tests.languages.conformance import open_sessions

pytestmark = requires_node

MODEST = {
    "node": (
        "const { execFileSync } = require('child_process')\n"
        "const packed = require('zlib').gzipSync(Buffer.alloc(1_000_000))\n"
        "const seen = new Map()\n"
        "for (let n = 0; n < 100_000; n++) seen.set(`key ${n}`, { n })\n"
        "const write = (n) => require('fs').promises.writeFile(`file${n}`, packed)\n"
        "await Promise.all(Array.from({ length: 20 }, (_, n) => write(n)))\n"
        "console.log(seen.size, String(execFileSync('echo', ['child'])).trim())"
    ),
    # Decorators load the compiler, which is the most that a program can need by itself.
    "typescript": (
        "import { execFileSync } from 'child_process'\n"
        "function kept(value: any, context: any) { return value }\n"
        "@kept class Seen { constructor(public readonly n: number) {} }\n"
        "const seen = new Map<string, Seen>()\n"
        "for (let n = 0; n < 100_000; n++) seen.set(`key ${n}`, new Seen(n))\n"
        "console.log(seen.size, String(execFileSync('echo', ['child'])).trim())"
    ),
}
GARBAGE = {
    "objects": (
        "let kept = []\n"
        "for (let n = 0; n < 1500; n++) {\n"
        "  const made = Array.from({ length: 2000 }, (_, k) => ({ k, text: `${k}`, at: [k] }))\n"
        "  if (n % 4 === 0) kept.push(made)\n"
        "  if (kept.length > 60) kept = kept.slice(30)\n"
        "}"
    ),
    "texts": (
        "let kept = []\n"
        "for (let n = 0; n < 500; n++) {\n"
        "  kept.push(JSON.stringify(Array.from({ length: 2000 }, (_, k) => ({ k, n }))))\n"
        "  if (kept.length > 100) kept = kept.slice(50)\n"
        "}"
    ),
    "arrays": "for (let n = 0; n < 80; n++) Array.from({ length: 500_000 }, (_, k) => k * 1.5)",
    "numbers": "for (let n = 0; n < 300; n++) new Float64Array(1_000_000).fill(n)",
    "buffers": "for (let n = 0; n < 300; n++) Buffer.alloc(5_000_000, n & 255)",
}


@pytest.fixture(scope="module", params=["1", "3"], ids=lambda tier: f"tier {tier}")
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of a server with these walls, or the next weaker ones that the host has."""
    with open_sessions([], "--strongest-tier", request.param, "--min-tier", "3") as sessions:
        yield sessions.client


def run(client: Client, language: str, limits: dict[str, Any], *codes: str) -> list[Any]:
    """Returns exit code, stdout and stderr of each run in a session with these limits."""
    enforced = client.http.get("/health").json()["isolation"]
    if any("share of processors" in one for one in enforced["missing"]):
        limits = {name: value for name, value in limits.items() if name != "cpu"}
    session = client.session(language, limits=limits)
    try:
        done = [session.run(code, timeout=120) for code in codes]
    finally:
        session.delete()
    return [(one["exit_code"], one["stdout"], one["stderr"]) for one in done]


@pytest.mark.parametrize("language", ["node", "typescript"])
def test_the_minimums_are_enough(client: Client, language: str) -> None:
    """A session at exactly the minimums says hello, and runs a modest program with a child."""
    kernel_json = json.loads((builtin_dir() / language / "kernel.json").read_text())
    minimums = kernel_json["metadata"]["era_kernels"]["minimums"]
    limits = {name: value for name, value in minimums.items() if name != "reserved_mb"}
    done = run(client, language, limits, "console.log('hello')", MODEST[language])
    assert done == [(0, "hello\n", ""), (0, "100000 child\n", "")]


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_collected_before_the_memory_is_used_up(client: Client, kind: str) -> None:
    """A program that allocates quickly and keeps little stays within the limit of its session."""
    code = f"{GARBAGE[kind]}\nconsole.log('done')"
    assert run(client, "node", {"memory_mb": 256}, code) == [(0, "done\n", "")]
