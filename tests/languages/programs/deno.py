"""Deno's programs for the conformance table."""

from __future__ import annotations

from dataclasses import replace

from tests.languages.programs.node import PROGRAMS as NODE
from tests.languages.programs.typescript import PROGRAMS as TYPESCRIPT

STORAGE = """
import { kv } from "era_storage";
await kv.set("shop", "flavour", "lemon");
console.log(await kv.get("shop", "flavour"));
"""
# The event loop does not wait for it, so the program ends before.
LATE = """import { existsSync } from "node:fs";
let waiting = setInterval(() => {
    if (!existsSync("next")) return;
    clearInterval(waiting);
    console.log("late");
    Deno.writeTextFileSync("told", "");
}, 20);
Deno.unrefTimer(waiting);"""
WRITE = 'Deno.writeTextFileSync("{path}", "{text}")'

PROGRAMS = replace(
    TYPESCRIPT,
    column="deno",
    language="deno",
    not_expressible={},
    does_not_hold={},
    untried={},
    syntax_error_text=":2:17\n",
    one_big_write='Deno.stdout.writeSync(new TextEncoder().encode("x".repeat(1_000_000)))',
    exit_with="Deno.exit({code})",
    exit_nested=NODE.exit_nested.replace("process", "Deno") if NODE.exit_nested else None,
    read_env='console.log(Deno.env.get("{name}") ?? "absent")',
    read_env_in_child=(
        'let child = new Deno.Command("sh", {{ args: ["-c", "echo ${{{name}-absent}}"] }});\n'
        "console.log(new TextDecoder().decode(child.outputSync().stdout).trim())"
    ),
    print_cwd_and_home='console.log(Deno.cwd());\nconsole.log(Deno.env.get("HOME"))',
    write_file=WRITE.format(path="made.txt", text="data"),
    import_module='import { VALUE } from "./fresh.ts";\nconsole.log(VALUE)',
    write_module=WRITE.format(path="fresh.ts", text="export const VALUE: number = {value};"),
    c_call=(
        'import * as crypto from "node:crypto";\n'
        'crypto.pbkdf2Sync("password", "salt", 2_000_000_000, 64, "sha512")'
    ),
    kill_self='Deno.kill(Deno.pid, "SIGKILL")',
    segfault='while (true) Deno.kill(Deno.pid, "SIGSEGV")',
    take_memory=(
        "let taken: Uint8Array[] = [];\n"
        "while (true) {\n  taken.push(new Uint8Array(50_000_000).fill(1));\n}"
    ),
    memory_mb=320,
    child_output=(
        'console.log("a");\n'
        'new Deno.Command("echo", { args: ["b"], stdout: "inherit" }).outputSync();\n'
        'console.log("c")'
    ),
    read_stdin=(
        'let text = await new Response(Deno.stdin.readable).text();\nconsole.log("[" + text + "]")'
    ),
    late_output=LATE,
    wait_for_late=(NODE.wait_for_late or "").replace('"fs"', '"node:fs"'),
    invalid_utf8="Deno.stdout.writeSync(new Uint8Array([0x61, 0xff, 0x62]))",
    use_storage=STORAGE,
    display_html=('await Deno.jupyter.display({ "text/html": "<b>rich</b>" }, { raw: true })'),
    ask='console.log("hello " + prompt("name?"))',
    print_session=(
        "console.log(`Session: ${Deno.env.get('ERA_SESSION_ID')}`);"
        " console.log(`API Key: ${Deno.env.get('API_KEY')}`)"
    ),
    write_results=(
        "Deno.writeTextFileSync('data.json', '{}'); Deno.writeTextFileSync('output.txt', 'shown')"
    ),
)
