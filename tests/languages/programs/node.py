"""JavaScript's programs for the conformance table."""

from __future__ import annotations

from tests.languages.kernel_programs import KernelPrograms

# The event loop does not wait for it, so the program ends before.
LATE = """import { existsSync, writeFileSync } from "fs";
const waiting = setInterval(() => {
    if (!existsSync("next")) return;
    clearInterval(waiting);
    console.log("late");
    writeFileSync("told", "");
}, 20).unref();"""
WAIT_FOR_LATE = """import { existsSync, writeFileSync } from "fs";
console.log("first");
writeFileSync("next", "");
for (let n = 0; n < 100 && !existsSync("told"); n++) {
    await new Promise((resolve) => setTimeout(resolve, 50));
}
console.log("second");"""
ALTERNATING = (
    "for (let n = 0; n < 20; n++) {\n  console.log(`out ${n}`);\n  console.error(`err ${n}`);\n}"
)

PROGRAMS = KernelPrograms(
    column="node",
    language="node",
    capabilities=frozenset(
        {"async", "input", "interrupt", "rich_output", "stack", "state", "variables"}
    ),
    hello='console.log("hello")',
    to_stderr='console.error("problem")',
    alternating=ALTERNATING,
    alternating_in_order=ALTERNATING,
    one_big_write='process.stdout.write("x".repeat(1_000_000)); null',
    many_lines=(
        "for (let n = 0; n < 100_000; n++) {\n"
        '  console.log(String(n).padStart(8, "0") + ".".repeat(91));\n}'
    ),
    set_state="let x = 41",
    use_state="console.log(x + 1)",
    fail='let y = 1;\n\nthrow new Error("boom")',
    failing_line=">:3",
    syntax_error="let a = 1;\nlet b = );",
    syntax_error_text=":2\n",
    exit_with="process.exit({code})",
    exit_nested=(
        "function outer() {\n  function inner() {\n    process.exit(3);\n  }\n  inner();\n}\n"
        'outer();\nconsole.log("after")'
    ),
    read_env='console.log(process.env["{name}"] ?? "absent")',
    read_env_in_child=(
        'import * as children from "child_process";\n'
        'console.log(children.execFileSync("sh", ["-c", "echo ${{{name}-absent}}"],'
        ' {{ encoding: "utf8" }}).trim())'
    ),
    print_cwd_and_home=(
        'import * as os from "os";\nconsole.log(process.cwd());\nconsole.log(os.homedir())'
    ),
    write_file='import * as fs from "fs";\nfs.writeFileSync("made.txt", "data")',
    module_name="fresh.js",
    module_text="exports.VALUE = {value};\n",
    import_module='console.log(require("./fresh.js").VALUE)',
    write_module=(
        'import * as fs from "fs";\nfs.writeFileSync("fresh.js", "exports.VALUE = {value};")'
    ),
    sleep="await new Promise((resolve) => setTimeout(resolve, 60_000))",
    busy_loop="while (true) {}",
    pending_await="const forever = setInterval(() => {}, 1000);\nawait new Promise(() => {})",
    c_call=(
        'import * as crypto from "crypto";\n'
        'crypto.pbkdf2Sync("password", "salt", 2_000_000_000, 64, "sha512")'
    ),
    kill_self='process.kill(process.pid, "SIGKILL")',
    segfault='process.kill(process.pid, "SIGSEGV")',
    take_memory="let taken = [];\nwhile (true) {\n  taken.push(Buffer.alloc(50_000_000, 1));\n}",
    child_output=(
        'import * as children from "child_process";\nconsole.log("a");\n'
        'children.execFileSync("echo", ["b"], { stdio: "inherit" });\nconsole.log("c")'
    ),
    read_stdin=('import * as fs from "fs";\nconsole.log("[" + fs.readFileSync(0, "utf8") + "]")'),
    late_output=LATE,
    wait_for_late=WAIT_FOR_LATE,
    slow_print=(
        'console.log("first");\nawait new Promise((resolve) => setTimeout(resolve, 1000));\n'
        'console.log("second")'
    ),
    unicode='console.log("naïve ☃ 😀")',
    nul='console.log("a\\0b")',
    invalid_utf8="process.stdout.write(Buffer.from([0x61, 0xff, 0x62])); null",
    use_storage=(
        "import { kv } from 'era_storage';\n"
        "await kv.set('shop', 'flavour', 'lemon');\nconsole.log(await kv.get('shop', 'flavour'))"
    ),
    last_expression="6 * 7",
    display_html="display.html('<b>rich</b>')",
    ask=(
        "const lines = require('readline').createInterface(process.stdin, process.stdout)\n"
        "lines.question('name? ', (name) => {\n  console.log('hello ' + name)\n  lines.close()\n})"
    ),
    print_hello_world='console.log("Hello World")',
    print_session=(
        "console.log(`Session: ${process.env.ERA_SESSION_ID}`);"
        " console.log(`API Key: ${process.env.API_KEY}`)"
    ),
    print_slowly=(
        "for (let i = 0; i < 5; i++) { console.log(`Processing ${i}`);"
        " await new Promise((resolve) => setTimeout(resolve, 500)); }"
    ),
    write_results=(
        "import * as fs from 'fs'; fs.writeFileSync('data.json', '{}');"
        " fs.writeFileSync('output.txt', 'shown')"
    ),
)
