"""The storage SDK of Node and TypeScript: plain programs, cells of kernels, real sessions."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from era_kernels.kernels.kernelspecs import builtin_dir
from era_kernels.models import StorageScope
from tests.kernels.conftest import io_loop
from tests.kernelspecs.node.storage_programs import ADDRESSES, FORMS, PATCHES, PROGRAMS, REPLIES
from tests.kernelspecs.node.storage_types import CHECKER, RIGHT, WRONG
from tests.kernelspecs.node.test_plain_node import ProgramResult, execute
from tests.kernelspecs.node.toolchain import (
    MODULES,
    NODE,
    has_in_module,
    in_typescript,
    jupyter_kernelspec,
    requires_node,
)
from tests.kernelspecs.python.sdk_server import SdkServer, server
from tests.kernelspecs.python.test_era_storage import answer_once
from tests.languages.jupyter_checks import JupyterKernel, open_kernel
from tests.sdk_host import SdkHost, run, sdk_host_in
from tests.sdk_host import execute as execute_beside

__all__ = ["io_loop", "server"]

pytestmark = requires_node
SDK = builtin_dir() / "node" / "sdk"
requires_hooks = pytest.mark.skipif(
    not has_in_module("registerHooks"), reason="this Node has no hooks for modules"
)


@pytest.fixture(params=["tcp", "unix"])
def url(request: pytest.FixtureRequest, server: SdkServer) -> str:
    """The address of the server, which has nothing stored."""
    server.clear()
    chosen: str = getattr(server, f"{request.param}_url")
    return chosen


def run_node(
    directory: Path, program: str, url: str | None, name: str = "main.cjs", **env: str
) -> ProgramResult:
    """Returns what a program in plain Node prints, in the environment that children have."""
    (directory / name).write_text(program, encoding="utf-8")
    environment = {"PATH": os.environ["PATH"], "NODE_PATH": str(SDK), **env}
    environment["NODE_OPTIONS"] = f'--require "{SDK}/era_storage/find.js"'
    if url is not None:
        environment["ERA_STORAGE_URL"] = url
    done = subprocess.run(
        [str(NODE), name],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout, done.stderr, done.returncode


# ---------------------------------------------------------------- calls

NAMES = "kv, d1, r2, KVStorage, D1Storage, R2Storage, StorageError"


def with_storage(program: str) -> str:
    """Returns a module of CommonJS that has all of the package."""
    return f'const {{ {NAMES} }} = require("era_storage");\n(async () => {{\n{program}\n}})();'


@pytest.mark.parametrize("name", PROGRAMS)
def test_calls(tmp_path: Path, url: str, server: SdkServer, name: str) -> None:
    """Each program prints what it should, over TCP and over a unix socket, and ends by itself."""
    program, expected = PROGRAMS[name]
    if name == "errors":
        server.scope = StorageScope.parse(["app"])
    assert run_node(tmp_path, with_storage(program), url) == (expected, "", 0)


@pytest.mark.parametrize(("url", "text"), ADDRESSES)
def test_wrong_addresses(tmp_path: Path, url: str | None, text: str) -> None:
    """A wrong address is a StorageError that says so."""
    program = (
        'kv.get("app", "k").catch((e) => console.log(e instanceof StorageError, e.code, e.status,'
        " e.message))"
    )
    stdout, stderr, code = run_node(tmp_path, with_storage(program), url)
    assert stdout.startswith("true null null KV get failed: "), stderr
    assert text in stdout
    assert (stderr, code) == ("", 0)


@pytest.mark.parametrize("reply", REPLIES, ids=str)
def test_strange_answers(tmp_path: Path, reply: bytes) -> None:
    """Whatever comes back that is no answer of the server is a StorageError."""
    program = 'kv.get("app", "k").catch((e) => console.log(e.name, e.message))'
    stdout, stderr, _ = run_node(tmp_path, with_storage(program), answer_once(reply, reply))
    assert stdout.startswith("StorageError KV get failed: "), stderr


@pytest.mark.parametrize("reply", FORMS.values(), ids=FORMS.keys())
def test_forms_of_answers(tmp_path: Path, reply: bytes) -> None:
    """An answer is read in each form that HTTP has, by itself and byte for byte."""
    program = 'kv.get("app", "k").then(console.log)'
    assert run_node(tmp_path, with_storage(program), answer_once(reply)) == ("abc\n", "", 0)
    reader = (
        f"const {{ AnswerReader }} = require({str(SDK / 'era_storage' / 'answer_reader.js')!r});\n"
        "const reader = new AnswerReader(); let done = false;\n"
        f"for (const byte of {list(reply)}) done = reader.feed(Buffer.from([byte]));\n"
        "done ||= reader.end(); console.log(done, reader.answer.body.toString())"
    )
    assert run_node(tmp_path, reader, None)[0] == 'true {"value":"abc"}\n'


def test_tokens(tmp_path: Path, url: str, server: SdkServer) -> None:
    """Outside of sessions a token is sent; the one for storage wins."""
    program = (
        'await kv.list("app"); process.env.ERA_API_TOKEN = "general"; await kv.list("app");'
        'process.env.ERA_STORAGE_TOKEN = "special"; await kv.list("app")'
    )
    assert run_node(tmp_path, with_storage(program), url) == ("", "", 0)
    sent = [headers.get("Authorization") for headers in server.memory.headers]
    assert sent == [None, "Bearer general", "Bearer special"]


def test_a_server_that_closed_is_asked_again(tmp_path: Path, url: str, server: SdkServer) -> None:
    """An idle connection that the server closed is no error, for any call, also without a pause."""
    program = (
        'const calls = [() => kv.set("app", "k", "v"), () => d1.exec("app", "x"),'
        ' () => d1.batch("app", ["x"]), () => r2.put("app", "k", [Buffer.from("x")])];\n'
        "for (const call of calls) {\n"
        '  await kv.list("app"); require("fs").writeFileSync("ready", "");\n'
        '  while (require("fs").existsSync("ready"));\n'
        "  await call(); console.log(1);\n}"
    )

    def close_each() -> None:
        for _ in range(4):
            while not (tmp_path / "ready").exists():
                pass
            server.close_connections()
            (tmp_path / "ready").unlink()

    closing = Timer(0, close_each)
    closing.start()
    assert run_node(tmp_path, with_storage(program), url) == ("1\n" * 4, "", 0)
    closing.join()


def test_a_pending_call_holds_the_program(tmp_path: Path, url: str, server: SdkServer) -> None:
    """A program waits for its calls, and ends at once when they have ended."""
    server.memory.seconds = 0.5
    program = 'kv.list("app").then(() => console.log("listed", Date.now() - begin < 5000))'
    program = f"const begin = Date.now(); {program}"
    assert run_node(tmp_path, with_storage(program), url) == ("listed true\n", "", 0)


# ---------------------------------------------------------------- how it is found

OWN = 'console.log(require("./era_storage.js").mine)'
WAYS = {
    "require": ("a.cjs", 'const s = require("era_storage")'),
    "require a file": ("a.cjs", 'const s = require("./era_storage.js")'),
    "import": ("a.mjs", 'import * as s from "era_storage"'),
    "import a file": ("a.mjs", 'import * as s from "./era_storage.js"'),
    "import the default": ("a.mjs", 'import s from "era_storage"'),
    "import names": ("a.mjs", 'import { kv, d1, r2 } from "era_storage"; const s = { kv, d1, r2 }'),
    "import in CommonJS": ("a.cjs", '(async () => { const s = await import("era_storage")'),
}


@requires_hooks
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_worker", [False, True], ids=["program", "worker"])
def test_children(tmp_path: Path, way: str, is_worker: bool) -> None:
    """Programs and workers find the package in every way in which Node loads modules."""
    name, load = WAYS[way]
    end = " })()" if "async" in load else ""
    program = f'{load}; console.log(typeof s.kv.set, typeof s["d1"].query, typeof s.r2.put){end}'
    if is_worker:
        (tmp_path / name).write_text(program, encoding="utf-8")
        name, program = "w.cjs", f'new (require("worker_threads").Worker)("./{name}")'
    expected = ("function function function\n", "", 0)
    assert run_node(tmp_path, program, None, name) == expected


@requires_hooks
def test_what_a_program_has_itself_wins(tmp_path: Path) -> None:
    """A file or a package of the same name is found first; what is missing stays missing."""
    (tmp_path / "era_storage.js").write_text("exports.mine = 'file'", encoding="utf-8")
    package = tmp_path / "node_modules" / "era_storage"
    package.mkdir(parents=True)
    (package / "index.js").write_text("exports.mine = 'package'", encoding="utf-8")
    program = (
        'import a from "./era_storage.js"; import b from "era_storage"\n'
        'import { createRequire } from "module"; const require = createRequire(import.meta.url)\n'
        'console.log(a.mine, b.mine, require("./era_storage.js").mine,'
        ' require("era_storage").mine);\n'
        'try { require("./era_storages.js") } catch (e) { console.log(e.code) }\n'
        'try { await import("era_storages") } catch (e) { console.log(e.code) }'
    )
    expected = "file package file package\nMODULE_NOT_FOUND\nERR_MODULE_NOT_FOUND\n"
    assert run_node(tmp_path, program, None, "main.mjs") == (expected, "", 0)


# ---------------------------------------------------------------- cells of a kernel


def cell(kernel: JupyterKernel, code: str, url: str) -> ProgramResult:
    return execute(kernel, code, env={"ERA_STORAGE_URL": url})[0]


# Of tests in which nothing but Node's own sockets or its transformation of the code differs.
each_once = pytest.mark.parametrize(
    ("language", "url"), [("node", "unix"), ("typescript", "tcp")], indirect=True
)
LOADS = {
    "require": "var s1 = require('era_storage')",
    "require a file": "var s1 = require('./era_storage.js')",
    "import": "import * as s1 from 'era_storage'",
    "import a file": "import * as s1 from './era_storage.js'",
    "import names": "import { kv, d1, r2 } from 'era_storage'; var s1 = { kv, d1, r2 }",
    "import later": "var s1 = await import('era_storage')",
    "import a file later": "var s1 = await import('./era_storage.js')",
}


@pytest.mark.parametrize("name", LOADS)
def test_cells(kernel: JupyterKernel, url: str, name: str) -> None:
    """Every way of loading gives the same package, whose calls hold a run until they end."""
    assert cell(kernel, LOADS[name], url) == ("", "", 0)
    code = (
        "console.log(s1.kv === require('era_storage').KVStorage)\n"
        "s1.kv.set('app', 'k', 'v').then(() => s1.kv.get('app', 'k')).then(console.log); null"
    )
    assert cell(kernel, code, url) == ("true\nv\n", "", 0)


@requires_hooks
def test_modules_of_the_workspace(kernel: JupyterKernel, url: str) -> None:
    """Files that a cell loads find the package, in folders as well; a file of that name wins."""
    write = "require('fs').writeFileSync"
    code = (
        "require('fs').mkdirSync('lib', { recursive: true })\n"
        f"{write}('lib/a.mjs', 'export * from \"../era_storage.js\"')\n"
        f"{write}('lib/b.cjs', 'module.exports = require(\"era_storage\")')\n"
        "console.log((await import('./lib/a.mjs')).kv === require('./lib/b.cjs').kv)"
    )
    assert cell(kernel, code, url) == ("true\n", "", 0)
    own = (
        f"{write}('era_storage.js', 'exports.mine = 1'); null\n"
        "console.log(require('./era_storage.js').mine, typeof require('era_storage').kv)\n"
        "require('fs').unlinkSync('era_storage.js')"
    )
    assert cell(kernel, own, url) == ("1 function\n", "", 0)
    assert (
        cell(kernel, "console.log(typeof require('./era_storage.js').kv)", url)[0] == "function\n"
    )


@requires_hooks
@in_typescript
def test_a_typed_file_wins(kernel: JupyterKernel, url: str) -> None:
    """In TypeScript a file `era_storage.ts` is what `./era_storage` means."""
    code = (
        "require('fs').writeFileSync('era_storage.ts', 'export const mine: number = 2')\n"
        "console.log((await import('./era_storage')).mine)\n"
        "require('fs').unlinkSync('era_storage.ts')"
    )
    assert cell(kernel, code, url) == ("2\n", "", 0)


INTERRUPTED = {
    "awaited": "await kv.list('app')",
    "all at once": "await Promise.all(Array.from({ length: 300 }, () => kv.list('app')))",
    "retried for ever": "for (;;) { try { await kv.list('app') } catch {} }",
    "in a callback": "kv.list('app').then(() => kv.list('app')).then(() => console.log('never'))",
    "while it computes": "kv.list('app'); for (;;);",
    "a stream": "await r2.put('app', 'o', (async function* () { for (;;) { yield Buffer.alloc(9);"
    " await new Promise((r) => setTimeout(r, 20)) } })())",
}


@each_once
@pytest.mark.parametrize("name", INTERRUPTED)
def test_interrupts(kernel: JupyterKernel, url: str, server: SdkServer, name: str) -> None:
    """An interrupt in the middle of calls ends them all; nothing of them is sent afterwards."""
    assert cell(kernel, "var { kv, r2 } = require('era_storage')", url)[2] == 0
    server.memory.seconds = 0.6
    timer = Timer(0.3, lambda: kernel.send("control", "interrupt_request", {}))
    timer.start()
    stdout, _, code = cell(kernel, INTERRUPTED[name], url)
    timer.join()
    assert (stdout, code) == ("", 130)
    server.memory.seconds = 0.0
    time.sleep(0.2)  # for what was sent before
    begun = server.memory.begun
    pause = (
        "await new Promise((r) => setTimeout(r, 700)); console.log(await kv.set('app', 'k', 'v'))"
    )
    assert cell(kernel, pause, url) == ("true\n", "", 0)
    assert server.memory.begun - begun == 0, "it went on"
    assert cell(kernel, "console.log(await kv.get('app', 'k'))", url) == ("v\n", "", 0)


@pytest.mark.parametrize("patch", PATCHES)
def test_patched_programs(tmp_path: Path, server: SdkServer, patch: str) -> None:
    """What a program puts in the place of Node's own functions does not reach the package."""
    code = f"{PATCHES[patch]}\nvar {{ kv, d1, r2 }} = require('era_storage'); null"
    calls = (
        "kv.set('app', 'k', 'v').then(() => kv.get('app', 'k')).then((v) => r2.put('app', 'o',"
        " new Uint8Array([1]))).then(() => d1.query('app', 's', [1])).then((rows) =>"
        " process.stdout.write(rows[0].c0 + '\\n')); null"
    )
    directory = jupyter_kernelspec("node", tmp_path)
    with open_kernel(directory, tmp_path, "ipc") as kernel:
        assert cell(kernel, code, server.tcp_url) == ("", "", 0)
        assert cell(kernel, calls, server.tcp_url) == ("1\n", "", 0)


@each_once
def test_ten_thousand_calls(kernel: JupyterKernel, url: str, server: SdkServer) -> None:
    """Many calls, in turn and at once, use few connections and leave no memory behind."""
    measure = (
        "require('v8').setFlagsFromString('--expose-gc'); require('vm').runInNewContext('gc')()\n"
        "console.log(process.memoryUsage().heapUsed)"
    )

    def used() -> int:
        stdout, _, _ = cell(kernel, measure, url)
        return int(stdout)

    code = (
        "var { kv } = require('era_storage')\n"
        "for (let n = 0; n < 50; n++)\n"
        "  await Promise.all(Array.from({ length: 50 }, (_, i) => kv.set('app', `k${i}`, 'v')))"
    )
    assert cell(kernel, code, url) == ("", "", 0)
    before = used()
    for _ in range(3):
        assert cell(kernel, code, url) == ("", "", 0)
    assert used() < before * 1.1
    assert server.connection_count <= 16


# ---------------------------------------------------------------- types


def test_types(tmp_path: Path) -> None:
    """TypeScript takes every right use in its strict mode, and finds the mistake in every wrong."""
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "era_storage").symlink_to(SDK / "era_storage")
    programs = RIGHT | {name: program for name, (program, _) in WRONG.items()}
    done = subprocess.run(
        [str(NODE), "-e", CHECKER],
        input=json.dumps(programs),
        env={"NODE_PATH": str(MODULES)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    answers: dict[str, list[Any]] = json.loads(done.stdout)
    assert answers.keys() >= programs.keys() and answers["the types themselves"]
    for name, ways in answers.items():
        for errors in ways:
            expected = [WRONG[name][1]] if name in WRONG else []
            assert [number for number, _ in errors] == expected, (name, errors)


# ---------------------------------------------------------------- real sessions


@pytest.fixture(scope="module", params=[1, 3], ids=lambda tier: f"tier {tier}")
def host(request: pytest.FixtureRequest, io_loop: IOLoop) -> Iterator[SdkHost]:
    """A host of one tier."""
    with sdk_host_in(io_loop, request.param) as host:
        yield host


ALL = """
import { kv, d1, r2 } from "era_storage";
console.log(await kv.set("app", "k", "", { a: 1 }), await kv.get("app", "k"), await kv.list("app"));
console.log(await d1.query("app", "SELECT ?", [2n ** 60n]), (await d1.exec("app", "x")).success);
console.log(await r2.put("app", "o", new Uint8Array([0])), await r2.get("app", "o"));
console.log(await kv.delete("app", "k"), await r2.delete("app", "o"), await kv.get("app", "k"));
"""
ALL_PRINTED = (
    "true  [ { name: 'k', metadata: { a: 1 } } ]\n[ { c0: 1152921504606846976n } ] true\n"
    "true <Buffer 00>\ntrue true null\n"
)


@pytest.mark.parametrize("language", ["node", "typescript"])
async def test_sessions(host: SdkHost, language: str) -> None:
    """Cells, children, workers and programs beside the kernel have all of it without set-up."""
    machine = await host.open(language)
    try:
        assert await run(machine, ALL) == ALL_PRINTED
        made = f"require('fs').writeFileSync('a.cjs', {with_storage(_common(ALL))!r}); null"
        assert await run(machine, made) == ""
        child = "require('child_process').spawnSync('node', ['{0}'], {{ stdio: 'inherit' }}); null"
        assert await run(machine, child.format("a.cjs")) == ALL_PRINTED
        assert await execute_beside(machine, "node", "a.cjs") == ALL_PRINTED
        worker = "new (require('worker_threads').Worker)('./a.cjs'); null"
        assert await run(machine, worker) == ALL_PRINTED
        if has_in_module("registerHooks"):
            made = f"require('fs').writeFileSync('a.mjs', {ALL!r}); null"
            assert await run(machine, made) == ""
            assert await run(machine, child.format("a.mjs")) == ALL_PRINTED
            assert await execute_beside(machine, "node", "a.mjs") == ALL_PRINTED
            assert await run(machine, worker.replace("cjs", "mjs")) == ALL_PRINTED
    finally:
        await machine.aclose()


def _common(program: str) -> str:
    """Returns a program without its `import`, for a module of CommonJS."""
    return "\n".join(line for line in program.splitlines() if not line.startswith("import"))


async def test_the_scope_is_enforced(host: SdkHost) -> None:
    """A namespace outside the scope rejects with the server's sentence, from the next call on."""
    machine = await host.open("node")
    code = "await require('era_storage').kv.set('app', 'k', 'v').catch((e) => console.log(`${e}`))"
    try:
        assert await run(machine, f"{code}; null") == ""
        host.scope = StorageScope.parse(["other"])
        out = await run(machine, f"{code}; null")
        assert out.startswith(
            "StorageError: KV set failed: Outside the storage scope: This session"
        )
    finally:
        host.scope = StorageScope("all")
        await machine.aclose()


async def test_while_a_run_is_busy(host: SdkHost) -> None:
    """Programs beside the kernel use it while a run computes and while a run waits."""
    machine = await host.open("node")
    host.memory.seconds = 1.0
    try:
        busy = asyncio.create_task(
            run(machine, "await require('era_storage').kv.list('app'); console.log(1)")
        )
        await asyncio.sleep(0.2)
        program = "require('era_storage').kv.set('app', 'b', 'x').then(console.log)"
        assert (
            await asyncio.wait_for(execute_beside(machine, "node", "-e", program), 30) == "true\n"
        )
        assert await busy == "1\n"
    finally:
        host.memory.seconds = 0.0
        await machine.aclose()
