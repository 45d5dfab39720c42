"""What Node and TypeScript need at least, and what they do with the memory that a session has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def open_session(
    client: Client, language: str, limits: dict[str, Any]
) -> Iterator[Callable[[str], tuple[int, str, str]]]:
    """Opens a session; yields what gives exit code, stdout and stderr of a run in it."""
    enforced = client.http.get("/health").json()["isolation"]
    if any("share of processors" in one for one in enforced["missing"]):
        limits = {name: value for name, value in limits.items() if name != "cpu"}
    session = client.session(language, limits=limits)

    def run(code: str) -> tuple[int, str, str]:
        done = session.run(code, timeout=120)
        return done["exit_code"], done["stdout"], done["stderr"]

    yield run
    session.delete()


@pytest.mark.parametrize("language", ["node", "typescript"])
def test_the_minimums_are_enough(client: Client, language: str) -> None:
    """A session at exactly the minimums says hello, and runs a modest program with a child."""
    kernel_json = json.loads((builtin_dir() / language / "kernel.json").read_text())
    minimums = kernel_json["metadata"]["era_kernels"]["minimums"]
    limits = {name: value for name, value in minimums.items() if name != "reserved_mb"}
    with open_session(client, language, limits) as run:
        assert run("console.log('hello')") == (0, "hello\n", "")
        assert run(MODEST[language]) == (0, "100000 child\n", "")


@pytest.fixture(scope="module")
def run_in_256_mb(client: Client) -> Iterator[Callable[[str], tuple[int, str, str]]]:
    with open_session(client, "node", {"memory_mb": 256}) as run:
        yield run


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_collected_before_the_memory_is_used_up(
    run_in_256_mb: Callable[[str], tuple[int, str, str]], kind: str
) -> None:
    """A program that allocates quickly and keeps little stays within the limit of its session."""
    assert run_in_256_mb(f"{GARBAGE[kind]}\nconsole.log('done')") == (0, "done\n", "")
