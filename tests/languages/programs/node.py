"""Node's programs for the conformance table."""

from __future__ import annotations

from tests.languages.kernel_programs import KernelPrograms

ALTERNATING = (
    'for (let n = 0; n < 20; n++) {\n  console.log("out", n)\n  console.error("err", n)\n}'
)
NO_SDK = "the SDK for JavaScript does not exist yet"

PROGRAMS = KernelPrograms(
    column="node",
    language="node",
    capabilities=frozenset(
        {"async", "input", "interrupt", "rich_output", "stack", "state", "variables"}
    ),
    not_expressible={"use_storage": NO_SDK},
    hello='console.log("hello")',
    to_stderr='console.error("problem")',
    alternating=ALTERNATING,
    alternating_in_order=ALTERNATING,
    one_big_write='process.stdout.write("x".repeat(1_000_000)); null',
    many_lines=(
        "for (let n = 0; n < 100_000; n++) {\n"
        '  console.log(String(n).padStart(8, "0") + ".".repeat(91))\n}'
    ),
    set_state="let x = 41",
    use_state="console.log(x + 1)",
    fail='const y = 1\n\nthrow new Error("boom")',
    failing_line="<cell-1>:3",
    syntax_error="const a = 1\nconst b = (",
    syntax_error_text=":2",
    exit_with="process.exit({code})",
    exit_nested="function outer() {\n  (() => process.exit(3))()\n}\nouter()",
    read_env='console.log(process.env["{name}"] ?? "absent")',
    read_env_in_child=(
        'process.stdout.write(require("child_process")'
        '.execSync("echo ${{{name}-absent}}").toString()); null'
    ),
    print_cwd_and_home='console.log(process.cwd())\nconsole.log(require("os").homedir())',
    write_file='require("fs").writeFileSync("made.txt", "data")',
    module_name="fresh.js",
    module_text="exports.VALUE = {value}\n",
    import_module='console.log(require("./fresh.js").VALUE)',
    write_module='require("fs").writeFileSync("fresh.js", "exports.VALUE = {value}")',
    sleep="await new Promise((resolve) => setTimeout(resolve, 60_000))",
    busy_loop="for (;;);",
    pending_await="await new Promise((resolve) => setTimeout(resolve, 60_000))",
    c_call='require("crypto").pbkdf2Sync("a", "b", 2 ** 31 - 1, 64, "sha512")',
    kill_self='process.kill(process.pid, "SIGKILL")',
    segfault='process.kill(process.pid, "SIGSEGV")',
    take_memory="const taken = []\nfor (;;) taken.push(Buffer.alloc(100_000_000, 1))",
    child_output=(
        'console.log("a")\n'
        'require("child_process").spawnSync("echo", ["b"], { stdio: "inherit" })\n'
        'console.log("c")'
    ),
    read_stdin='console.log(`[${require("fs").readFileSync(0, "utf8")}]`)',
    late_output='setTimeout(() => console.log("late"), 500).unref(); null',
    slow_print=(
        'console.log("first")\nawait new Promise((resolve) => setTimeout(resolve, 1000))\n'
        'console.log("second")'
    ),
    unicode='console.log("naïve ☃ 😀")',
    nul='console.log("a\\0b")',
    invalid_utf8="process.stdout.write(Buffer.from([0x61, 0xff, 0x62])); null",
    use_storage=None,
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
        " await new Promise((resolve) => setTimeout(resolve, 500)) }"
    ),
    write_results=(
        "require('fs').writeFileSync('data.json', '{}');"
        " require('fs').writeFileSync('output.txt', 'shown')"
    ),
)
