"""What a session adds to plain Node: state from run to run, interrupts, input, rich results."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from tests.kernelspecs.node.test_plain_node import ProgramResult, execute
from tests.kernelspecs.node.toolchain import has_in_module, requires_node
from tests.languages.jupyter_checks import JupyterKernel
from tests.languages.rows.javascript import DECLARATIONS
from tests.waiting import wait_until

pytestmark = requires_node


def run(kernel: JupyterKernel, code: str, **options: Any) -> ProgramResult:
    return execute(kernel, code, **options)[0]


def results(kernel: JupyterKernel, code: str) -> list[dict[str, Any]]:
    """Returns the MIME bundles that a run has for results and displays, without its fence."""
    _, published = execute(kernel, code)
    kinds = ("execute_result", "display_data", "update_display_data")
    bundles = [one.content["data"] for one in published if one.kind in kinds]
    return [bundle for bundle in bundles if "application/vnd.era.fence+json" not in bundle]


# ---------------------------------------------------------------- names


FILLED = "for (let n = 0; n < 200_000; n++) made.set(`key ${n}`, { n })"


@pytest.mark.parametrize(
    "code",
    [
        f"const made = new Map()\n{FILLED}\nawait null",
        f"function fill() {{ {FILLED} }}\nconst made = new Map()\nfill()\nawait fill()",
        f"await null\nconst made = new Map()\n{FILLED}",
        f"import * as fs from 'fs'\nconst made = new Map()\n{FILLED}\nawait 0; fs.statSync('.')",
        f"const made = new Map()\n{FILLED}",
    ],
)
def test_garbage_is_collected_in_a_cell(kernel: JupyterKernel, code: str) -> None:
    """What a cell leaves to the inspector outlives all garbage that is collected meanwhile."""
    assert run(kernel, f"{code}\nconsole.log(made.size)") == ("200000\n", "", 0)


@pytest.mark.parametrize(
    "code",
    [
        "function first() { return 1 }\nawait null\nconsole.log(first())",
        "function first() { return 1 }; await null; console.log(first())",
        "await null\nfunction first() { return 1 }console.log(first())",
        "async function first() { return 1 }console.log(await first())",
        "export function first() { return 1 }\nconsole.log(await first())",
    ],
)
def test_functions_of_a_cell_with_await(kernel: JupyterKernel, code: str) -> None:
    """A function may stand at either end of a cell, and beside another statement."""
    assert run(kernel, code) == ("1\n", "", 0)


@pytest.mark.parametrize("first", DECLARATIONS)
def test_declared_again_in_a_cell_with_await(kernel: JupyterKernel, first: str) -> None:
    """The same holds for cells with a top-level await."""
    name = f"awaited_{first}".replace(" ", "_")
    once = DECLARATIONS[first].format(name=name, value=1)
    assert run(kernel, f"await null\n{once}") == ("", "", 0)
    assert run(kernel, f"await null\nlet {name} = await 5") == ("", "", 0)
    assert run(kernel, f"const {name} = 6; console.log({name})") == ("6\n", "", 0)


def test_constants_stay_constant(kernel: JupyterKernel) -> None:
    """An assignment to a constant of an earlier run fails, and a new declaration does not."""
    run(kernel, "const fixed = 1")
    stdout, stderr, code = run(kernel, "\nfixed = 2")
    assert (stdout, code) == ("", 1)
    assert "<cell-1>:2" in stderr
    assert "TypeError: Assignment to constant variable." in stderr
    assert run(kernel, "console.log(fixed); let fixedToo = fixed") == ("1\n", "", 0)
    assert run(kernel, "let fixed = 3; fixed++; console.log(fixed)") == ("4\n", "", 0)


def test_environment(kernel: JupyterKernel) -> None:
    """Variables of a run are seen by code and children, and have their old values afterwards."""
    code = (
        "console.log(process.env.FLAVOUR, require('child_process')"
        ".execSync('echo $FLAVOUR').toString().trim())"
    )
    assert run(kernel, code, env={"FLAVOUR": "lemon"})[0] == "lemon lemon\n"
    assert run(kernel, code)[0] == "undefined \n"


def test_modules(kernel: JupyterKernel) -> None:
    """Modules of the workspace are imported in all forms, and anew when their files change."""
    if not has_in_module("registerHooks"):
        pytest.skip("this Node has no hooks, by which modules of ECMAScript are read anew")
    write = "require('fs').writeFileSync"
    files = f"{write}('c.cjs', 'exports.v = V'); {write}('m.mjs', 'export const v = V')"
    nested = f"{write}('n.mjs', 'import {{ v }} from \"./m.mjs\"; export const w = v * 10')"
    for value in ("1", "2", "3"):
        made = f"{files}; {nested}".replace("V'", f"{value}'")
        assert run(kernel, made)[2] == 0
        read = (
            "import { v } from './m.mjs'; import { w } from './n.mjs'\n"
            "console.log(v, w, require('./c.cjs').v, (await import('./m.mjs')).v)"
        )
        assert run(kernel, read)[:2] == (f"{value} {value}0 {value} {value}\n", "")


# ---------------------------------------------------------------- ends

ENDLESS = {
    "loop": "for (;;);",
    "loop that catches": "for (;;) { try { for (;;); } catch {} finally {} }",
    "microtasks": "(async () => { for (;;) await null })()",
    "top-level microtasks": "for (;;) await null",
    "pending await": "await new Promise((resolve) => setTimeout(resolve, 60000))",
    "timer": "setTimeout(() => { for (;;); }, 1)",
    "interval": "setInterval(() => { for (;;); }, 1)",
    "immediate": "setImmediate(() => { for (;;); })",
    "tick": "process.nextTick(() => { for (;;); })",
    "promise": "Promise.resolve().then(() => { for (;;); })",
    "regular expression": "/(a+)+$/.test('a'.repeat(40) + 'b')",
    "atomics": "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)",
    "output": "for (;;) console.log('x')",
    "child": "require('child_process').spawn('sleep', ['60'], { stdio: 'inherit' })",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_interrupt(kernel: JupyterKernel, name: str) -> None:
    """An interrupt ends any run, keeps the state, and leaves timers and output as they must be."""
    run(kernel, "var held = 1")
    sent: list[float] = []

    def interrupt() -> None:
        sent.append(time.monotonic())
        kernel.send("control", "interrupt_request", {})

    timer = Timer(0.3, interrupt)
    timer.start()
    _, _, code = run(kernel, ENDLESS[name])
    seconds = time.monotonic() - sent[0]
    timer.join()
    assert code == 130
    assert seconds < 2
    code_after = "setTimeout(() => console.log('timer'), 1); console.log(held++)\nnull"
    assert run(kernel, code_after) == ("1\ntimer\n", "", 0)
    assert run(kernel, "setImmediate(() => console.log('immediate'))")[0] == "immediate\n"


INSPECT = "[Symbol.for('nodejs.util.inspect.custom')]"
ENDLESS_END = {
    "exit": "process.once('exit', () => { for (;;); })",
    "exit with a code": "process.once('exit', () => { for (;;); }); process.exit(3)",
    "exit after an error": "process.once('exit', () => { for (;;); }); throw new Error('failed')",
    "promise": f"Promise.resolve({{ {INSPECT}() {{ for (;;); }} }})",
}


@pytest.mark.parametrize("name", ENDLESS_END)
def test_interrupt_of_an_end(kernel: JupyterKernel, name: str) -> None:
    """An interrupt ends also what a program does at its end, and the rest of the end follows."""
    run(kernel, "var held = 1")
    timer = Timer(0.5, lambda: kernel.send("control", "interrupt_request", {}))
    timer.start()
    assert run(kernel, ENDLESS_END[name], ends=True, env={"SET": "1"})[2] == 130
    timer.join()
    assert run(kernel, "console.log(held, process.env.SET)", ends=True) == ("1 undefined\n", "", 0)


def test_failure_of_an_end(kernel: JupyterKernel) -> None:
    """A promise that cannot be shown fails its run, which ends."""
    broken = f"Promise.resolve({{ {INSPECT}() {{ throw new Error('not shown') }} }})"
    _, stderr, code = run(kernel, broken)
    assert ("Error: not shown" in stderr, code) == (True, 1)
    assert run(kernel, "console.log(1)") == ("1\n", "", 0)


HARDLY_IDLE = "setInterval(() => { const end = Date.now() + 7; while (Date.now() < end); }, 1)"


def test_interrupts_of_a_program_that_is_hardly_idle(kernel: JupyterKernel) -> None:
    """What stops code may come when the run is ending already, and the end goes on."""
    run(kernel, "var held = 1")
    for number in range(40):
        delay = 0.1 + number / 2000
        timer = Timer(delay, lambda: kernel.send("control", "interrupt_request", {}))
        timer.start()
        began = time.monotonic()
        assert run(kernel, HARDLY_IDLE)[2] == 130
        assert time.monotonic() - began < 2
        timer.join()
    assert run(kernel, "console.log(held)") == ("1\n", "", 0)


def test_own_handler_of_interrupts(kernel: JupyterKernel) -> None:
    """A program that handles SIGINT gets it once; a second interrupt ends it."""
    handler = "process.once('SIGINT', () => { console.log('handled'); process.exit(9) })\n"
    Timer(0.3, lambda: kernel.send("control", "interrupt_request", {})).start()
    assert run(kernel, f"{handler}setTimeout(() => {{}}, 60000)") == ("handled\n", "", 9)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("process.exit(3)", 3),
        ("function f() { (() => process.exit(3))() }\nf()", 3),
        ("try { process.exit(4) } catch {} finally { console.log('never') }", 4),
        ("setTimeout(() => process.exit(5), 1); setTimeout(() => console.log('never'), 5)", 5),
        ("Promise.resolve().then(() => process.exit(6))", 6),
        ("process.exitCode = 7", 7),
        ("setImmediate(() => process.exit(8))", 8),
        ("await null; process.exit(9)", 9),
    ],
)
def test_exit_keeps_state(kernel: JupyterKernel, code: str, expected: int) -> None:
    """An exit ends the run with its code and nothing else; later timers are silent."""
    run(kernel, "var held = 1")
    assert run(kernel, code) == ("", "", expected)
    assert run(kernel, "await new Promise((r) => setTimeout(r, 20)); console.log(held)")[0] == "1\n"


def test_late_output(kernel: JupyterKernel) -> None:
    """What a run left behind prints is in no later run."""
    assert run(kernel, "setTimeout(() => console.log('late'), 100).unref(); null")[0] == ""
    slow = "console.log(1); await new Promise((r) => setTimeout(r, 300)); console.log(2)"
    assert run(kernel, slow)[0] == "1\n2\n"


def test_server_lives_on(kernel: JupyterKernel) -> None:
    """A run ends while its server listens, which goes on to serve."""
    serve = (
        "var server = require('http').createServer((request, response) => response.end('served'))"
        "\nserver.listen(0, '127.0.0.1'); null"
    )
    assert run(kernel, serve) == ("", "", 0)
    fetch = "console.log(await (await fetch(`http://127.0.0.1:${server.address().port}`)).text())"
    for _ in range(2):
        assert run(kernel, fetch)[0] == "served\n"
    assert run(kernel, "server.close(() => console.log('closed')); null")[0] == "closed\n"


# ---------------------------------------------------------------- output and results


def test_order(kernel: JupyterKernel) -> None:
    """Streams, displays and output of children keep the order in which they were made."""
    code = (
        "console.log('a'); console.error('b'); display.text('c')\n"
        "require('child_process').spawnSync('echo', ['d'], { stdio: 'inherit' })\n"
        "require('fs').writeSync(1, 'e\\n'); console.log('f'); 'g'"
    )
    _, published = execute(kernel, code)
    seen = []
    for message in published:
        if message.kind == "stream":
            seen += message.content["text"].split()
        elif "data" in message.content:
            seen.append(message.content["data"].get("text/plain"))
    assert seen == ["a", "b", "c", "d", "e", "f", "'g'", None]


def test_many_lines(kernel: JupyterKernel) -> None:
    """A hundred thousand lines in one synchronous loop arrive byte for byte."""
    code = "for (let i = 0; i < 100000; i++) console.log('line ' + i)"
    assert run(kernel, code)[0] == "".join(f"line {i}\n" for i in range(100_000))


def test_rich_results(kernel: JupyterKernel) -> None:
    """Images, charts and what an object says of itself are results with their types."""
    png = "Buffer.from('89504e470d0a1a0a00', 'hex')"
    assert results(kernel, png)[0]["image/png"] == "iVBORw0KGgoA"
    chart = "({ $schema: 'https://vega.github.io/schema/vega-lite/v5.json', mark: 'bar' })"
    assert results(kernel, chart)[0]["application/vnd.vegalite.v5+json"]["mark"] == "bar"
    own = "({ [Symbol.for('Jupyter.display')]() { return { 'text/html': '<b>' } } })"
    assert results(kernel, own)[0]["text/html"] == "<b>"
    assert results(kernel, "6 * 7") == [{"text/plain": "42"}]
    assert results(kernel, "const unseen = 5") == []
    assert results(kernel, "require('tslab').display.markdown('# x')") == [{"text/markdown": "# x"}]


def test_stack_and_variables(kernel: JupyterKernel) -> None:
    """Both are told while the program runs and can do nothing else."""
    run(kernel, "var text = 'abc'; let numbers = [1, 2]; class Kind {}; function unseen() {}")
    loop = "function outer() {\n  inner()\n}\nfunction inner() { for (;;); }\nouter()"
    request = kernel.client.session.msg(
        "execute_request", {"code": loop, "silent": False, "store_history": False}
    )
    request["metadata"] = {"era": {"nonce": "n", "number": 5, "env": {}, "ends": False}}
    kernel.client.shell_channel.send(request)

    def stack() -> list[dict[str, Any]]:
        told: list[dict[str, Any]]
        told = kernel.request("stack_request", {}, channel="control").content["frames"]
        return told

    assert wait_until(lambda: "inner" in [frame["function"] for frame in stack()], 30)
    frames = stack()
    told = kernel.request("variables_request", {}, channel="control").content["variables"]
    kernel.request("interrupt_request", {}, channel="control")
    kernel.receive_reply("shell", request["header"]["msg_id"])
    assert [(frame["function"], frame["line"]) for frame in frames] == [
        ("<anonymous>", 5),
        ("outer", 2),
        ("inner", 4),
    ]
    assert {frame["file"] for frame in frames} == {"<cell-5>"}
    by_name = {one["name"]: one for one in told}
    assert by_name["text"] == {"name": "text", "type": "string", "size": 3, "value": "abc"}
    assert by_name["numbers"]["value"] == [1, 2]
    assert by_name["Kind"]["type"] == "class"
    assert not {"unseen", "console", "require"} & by_name.keys()


def test_prompt(kernel: JupyterKernel) -> None:
    """`prompt` asks the client, and waits."""
    request_id = kernel.client.execute("console.log(prompt('name?') + '!')", allow_stdin=True)
    assert kernel.answer_input("Ada")["prompt"] == "name?"
    published = kernel.receive_published(request_id)
    assert [one.content["text"] for one in published if one.kind == "stream"] == ["Ada!\n"]


def test_memory(kernel: JupyterKernel) -> None:
    """Hundreds of runs leave the memory flat within 30 %."""
    pid = kernel.manager.provisioner.process.pid  # type: ignore[union-attr]

    def used() -> int:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        return int(rollup.partition("Pss:")[2].split()[0])

    code = "let values = [1, 2, 3].map((x) => x * 2); const o = { values }; await null; o"
    for number in range(200):
        run(kernel, code, number=number)
    before = used()
    for number in range(200, 500):
        run(kernel, code, number=number)
    assert used() < before * 1.3


def test_large_cells_are_forgotten(kernel: JupyterKernel) -> None:
    """The code of old cells takes no memory; errors in their functions still tell the line."""
    measure = (
        "require('v8').setFlagsFromString('--expose-gc'); require('vm').runInNewContext('gc')()\n"
        "console.log(process.memoryUsage().heapUsed)"
    )
    run(kernel, "null\nfunction old() { throw new Error('old') }", number=1000)
    before = int(run(kernel, measure, number=1001)[0])
    for number in range(1002, 1032):
        assert (
            run(kernel, f"/*{'x' * 1_000_000}*/ let large = {number}; null", number=number)[2] == 0
        )
    assert int(run(kernel, measure, number=1032)[0]) < before + 12_000_000
    _, stderr, code = run(kernel, "old()", number=1033)
    assert (code, "<cell-1000>:2" in stderr) == (1, True)


def test_large_cells_of_the_history_are_forgotten(kernel: JupyterKernel) -> None:
    """The history holds the newest cells, as many as 4 MB."""
    for number in range(6):
        kernel.receive_reply("shell", kernel.client.execute(f"/*{'x' * 1_000_000}*/ {number}"))
    content = {"hist_access_type": "tail", "n": 100, "output": False, "raw": True}
    entries = kernel.request("history_request", content).content["history"]
    assert [code[-1] for _, _, code in entries][-4:] == ["2", "3", "4", "5"]
    assert sum(len(code) for _, _, code in entries) <= 4 * 1024 * 1024
