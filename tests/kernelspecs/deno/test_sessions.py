"""What lasts between the runs of a session of Deno: names, files, timers, servers, memory."""

from __future__ import annotations

import itertools
from functools import partial
from threading import Timer

import pytest

from tests.kernelspecs.deno.toolchain import requires_deno
from tests.kernelspecs.node.test_plain_node import ProgramResult, execute
from tests.languages.jupyter_checks import JupyterKernel

pytestmark = requires_deno

DECLARATIONS = {
    "var": "var name_ = {0}",
    "let": "let name_ = {0}",
    "const": "const name_ = {0}",
    "function": "function name_() {{ return {0} }}",
    "class": "class name_ {{ static value = {0} }}",
    "import": 'import {{ join as name_ }} from "node:path"',
    "destructuring": "const {{ name_ }} = {{ name_: {0} }}",
}
INSPECT = '[Symbol.for("nodejs.util.inspect.custom")]'
PAIRS = list(itertools.product(DECLARATIONS, repeat=2))
BUSY = {
    "loop": "for (;;) ;",
    "loop after an await": "await new Promise((resolve) => setTimeout(resolve, 5)); for (;;) ;",
    "loop in a timer": "setTimeout(() => { for (;;) ; }, 5); null",
    "loop in a callback": "[3, 2, 1].sort(() => { for (;;) ; })",
    "pending await": "await new Promise((resolve) => setTimeout(resolve, 60_000))",
    "idle interval": "setInterval(() => {}, 1000); null",
    "hardly idle": "setInterval(() => { const n = Date.now() + 7; while (Date.now() < n) ; }, 1)",
    "end": 'process.once("exit", () => { for (;;) ; })',
    "end with a code": 'process.once("exit", () => { for (;;) ; }); Deno.exit(3)',
    "unload": 'addEventListener("unload", () => { for (;;) ; })',
    "promise": f"Promise.resolve({{ {INSPECT}() {{ for (;;) ; }} }})",
}


FILL = "for (let n = 0; n < 200_000; n++) made.set(n, { n })"
GARBAGE = [
    f"const made = new Map()\n{FILL}",
    f"await null\nconst made = new Map()\n{FILL}",
    f'import {{ Buffer }} from "node:buffer"\nlet made = new Map([[0, Buffer.alloc(1)]])\n{FILL}',
    f"function fill() {{ {FILL} }}\nvar made = new Map()\nclass Kept {{}}\nfill()",
]


def run(kernel: JupyterKernel, code: str) -> ProgramResult:
    """Runs code; returns what it has printed, and its exit code."""
    return execute(kernel, code)[0]


@pytest.mark.parametrize(
    "code",
    [
        "setTimeout(() => Deno.exit(2), 1)",
        "let stopped = 1; Deno.exit(2)",
        "Deno.writeTextFileSync('part.ts', 'export const a = 1'); await import('./part.ts')",
        "const beat = setInterval(() => {}, 1); setTimeout(() => clearInterval(beat), 20)",
    ],
)
def test_errors_of_timers(kernel: JupyterKernel, code: str) -> None:
    """An error in a timer is told, whatever run before has left in Deno's timers."""
    run(kernel, code)
    for _ in range(2):
        _, stderr, exit_code = run(kernel, "setTimeout(() => { throw new Error('lost') }, 1)")
        assert ("Uncaught Error: lost" in stderr, exit_code) == (True, 1)


@pytest.mark.parametrize("code", GARBAGE)
def test_garbage_is_collected_in_a_cell(kernel: JupyterKernel, code: str) -> None:
    """What a cell leaves to the inspector outlives all garbage that is collected meanwhile."""
    assert run(kernel, f"{code}\nconsole.log(made.size)") == ("200000\n", "", 0)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_redeclaration(kernel: JupyterKernel, first: str, second: str) -> None:
    """A name can be declared again, in whatever way it was declared before."""
    name = f"{first}_{second}"
    for value, kind in enumerate((first, second)):
        code = DECLARATIONS[kind].format(value).replace("name_", name, 1)
        code = code.replace("name_", name)
        assert run(kernel, code) == ("", "", 0)
    expected = "number" if second in ("var", "let", "const", "destructuring") else "function"
    assert run(kernel, f"console.log(typeof {name})") == (f"{expected}\n", "", 0)


@pytest.mark.parametrize("name", BUSY)
def test_interrupt(kernel: JupyterKernel, name: str) -> None:
    """An interrupt ends a run with 130, and what was there before is kept."""
    assert run(kernel, "let kept = 5")[2] == 0
    request = kernel.client.session.msg("execute_request", {"code": BUSY[name], "silent": False})
    request["metadata"] = {"era": {"nonce": "n", "number": 1, "env": {}, "ends": True}}
    kernel.client.shell_channel.send(request)
    interrupt = partial(kernel.send, "control", "interrupt_request", {})
    timers = [Timer(seconds, interrupt) for seconds in (0.5, 2.5)]  # the program's end, at last
    for timer in timers:
        timer.start()
    reply = kernel.receive_reply("shell", request["header"]["msg_id"]).content
    for timer in timers:
        timer.cancel()
        timer.join()
    assert reply["era"]["exit_code"] == 130
    assert run(kernel, "console.log(kept)") == ("5\n", "", 0)


@pytest.mark.parametrize("event", ['process.once("exit"', 'addEventListener("unload"'])
def test_exit_at_the_end(kernel: JupyterKernel, event: str) -> None:
    """A program that is told of its end may exit with another code."""
    code = f"{event}, () => Deno.exit(5))"
    assert execute(kernel, code, ends=True)[0] == ("", "", 5)
    assert execute(kernel, "console.log(1)", ends=True)[0] == ("1\n", "", 0)


def test_late_timers_are_silent(kernel: JupyterKernel) -> None:
    """The timers of a run that has exited are not called any more."""
    code = 'setInterval(() => console.log("late"), 5); setTimeout(() => Deno.exit(3), 20); null'
    assert run(kernel, code) == ("", "", 3) or run(kernel, code)[2] == 3
    assert run(kernel, "await new Promise((done) => setTimeout(done, 100))") == ("", "", 0)


def test_listeners_of_the_end_are_called_once(kernel: JupyterKernel) -> None:
    """What a program has registered for its end is not called at the end of a later one."""
    code = (
        'addEventListener("unload", () => console.log("unload"))\n'
        'onbeforeunload = () => console.log("beforeunload")\n'
        'process.on("exit", () => console.log("exit"))'
    )
    first = execute(kernel, code, ends=True)[0]
    assert (sorted(first[0].split()), *first[1:]) == (["beforeunload", "exit", "unload"], "", 0)
    assert execute(kernel, "console.log('next')", ends=True)[0] == ("next\n", "", 0)


def test_server_lives_on(kernel: JupyterKernel) -> None:
    """A run ends when nothing but servers is left, and they serve later runs."""
    serve = 'let server = Deno.serve({ port: 0, onListen() {} }, () => new Response("served"))'
    assert run(kernel, f"{serve}; null") == ("", "", 0)
    ask = "console.log(await (await fetch(`http://localhost:${server.addr.port}`)).text())"
    assert run(kernel, ask) == ("served\n", "", 0)
    assert run(kernel, "await server.shutdown()")[2] == 0


def test_changed_modules_are_seen(kernel: JupyterKernel) -> None:
    """Files that change are imported anew, and so are those that import them."""
    for value in (1, 22, 333):
        write = (
            f'Deno.writeTextFileSync("inner.ts", "export const VALUE: number = {value};");\n'
            'Deno.writeTextFileSync("outer.ts", "export { VALUE } from \'./inner.ts\';")'
        )
        assert run(kernel, write) == ("", "", 0)
        assert run(kernel, 'import { VALUE } from "./outer.ts"; console.log(VALUE)') == (
            f"{value}\n",
            "",
            0,
        )


def test_permissions_stay_revoked(kernel: JupyterKernel) -> None:
    """No native library can be loaded, and what a program revokes stays so."""
    code = """try { Deno.dlopen("libc.so.6", {}) } catch (error) { console.log(error.name) }"""
    assert run(kernel, code) == ("NotCapable\n", "", 0)


def test_many_lines_within_memory(kernel: JupyterKernel) -> None:
    """A hundred thousand lines come complete, again and again, and take no more memory."""
    print_all = 'for (let n = 0; n < 100_000; n++) console.log("line", n)'
    expected = "".join(f"line {n}\n" for n in range(100_000))
    sizes = []
    for _ in range(4):
        assert run(kernel, print_all)[0] == expected
        sizes.append(int(run(kernel, "console.log(Deno.memoryUsage().rss)")[0]))
    assert sizes[-1] < sizes[0] * 1.3


def test_memory_of_many_runs(kernel: JupyterKernel) -> None:
    """Five hundred runs take little more memory than the first of them."""
    items = "Array.from({ length: 1000 }, () => [1, 2, 3])"
    leave = f"let first = {items}; var second = {items}; function third() {{}} class Fourth {{}}"
    size = "console.log(Deno.memoryUsage().rss)"
    for _ in range(50):
        run(kernel, leave)
    before = int(run(kernel, size)[0])
    for _ in range(450):
        run(kernel, leave)
    assert int(run(kernel, size)[0]) < before * 1.3
