"""The programs of the toy: bash by a kernelspec that is no part of the package."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.languages.kernel_programs import KernelPrograms

FOLDER = Path(__file__).parents[1] / "toy" / "bash"
# KV by its HTTP API, on a port of the session or on a unix socket.
STORAGE = r"""
url=$ERA_STORAGE_URL socket=()
if [[ $url == http+unix://* ]]; then
    escaped=${url#http+unix://}
    printf -v path '%b' "${escaped//%/\\x}"
    url=http://localhost socket=(--unix-socket "$path")
fi
call() { curl -fsS "${socket[@]}" "$url/api/storage/kv/shop?key=flavour" "$@"; }
call -X PUT -d '{"value": "lemon"}' >stored && answer=$(call) || exit
[[ $answer =~ '"value":"'([a-z]*) ]] && echo "${BASH_REMATCH[1]}"
"""


def add_to(directory: Path) -> Path:
    """Copies the toy as a team puts a folder of its own beside others."""
    shutil.copytree(FOLDER, directory / FOLDER.name, ignore=shutil.ignore_patterns("__pycache__"))
    return directory


PROGRAMS = KernelPrograms(
    column="bash",
    language="bash",
    capabilities=frozenset({"interrupt", "state"}),
    add_to=add_to,
    not_expressible={
        "alternating_in_order": "bash writes into two pipes, and nobody knows their order",
        "exception_value": "bash has no exceptions",
        "last_expression": "bash has no values of expressions",
        "display_html": "bash displays text only",
        "ask": "bash reads from standard input, which is at its end",
    },
    hello="echo hello",
    to_stderr="echo problem >&2",
    alternating="for n in {0..19}; do echo out $n; echo err $n >&2; done",
    alternating_in_order=None,
    one_big_write="head -c 1000000 /dev/zero | tr '\\0' x",
    many_lines=f"seq -f '%08.0f{'.' * 91}' 0 99999",
    set_state="x=41",
    use_state="[[ -v x ]] && echo $((x + 1))",
    fail="y=1\n\nboom",
    fail_code=127,
    failing_line="line 3",
    exception_value=None,
    syntax_error="a=1\nb=(",
    syntax_error_text="line 2",
    exit_with="exit {code}",
    exit_nested="inner() {\n  exit 3\n}\nouter() {\n  inner\n}\nouter\necho after",
    read_env='echo "${{{name}-absent}}"',
    read_env_in_child="sh -c 'echo \"${{{name}-absent}}\"'",
    print_cwd_and_home="pwd\necho ~",
    write_file="printf data >made.txt",
    module_name="fresh.sh",
    module_text="VALUE={value}\n",
    import_module=". ./fresh.sh && echo $VALUE",
    write_module="echo VALUE={value} >fresh.sh",
    sleep="sleep 60",
    busy_loop="while :; do :; done",
    pending_await="sleep 60 &\nwait",
    c_call="sh -c 'trap \"\" INT; sleep 60'",
    kill_self="kill -KILL $$",
    segfault="kill -SEGV $$",
    take_memory="x=$(head -c 20G /dev/zero | tr '\\0' x)",
    child_output="echo a\nsh -c 'echo b'\necho c",
    read_stdin='echo "[$(cat)]"',
    late_output="(until [[ -e next ]]; do sleep 0.02; done; echo late; echo >told) &",
    wait_for_late=(
        "echo first; echo >next\n"
        "for n in {1..100}; do [[ -e told ]] && break; sleep 0.05; done\necho second"
    ),
    slow_print="echo first\nsleep 1\necho second",
    unicode="echo 'naïve ☃ 😀'",
    nul="printf 'a\\0b\\n'",
    invalid_utf8="printf 'a\\xffb'",
    use_storage=STORAGE,
    last_expression=None,
    display_html=None,
    ask=None,
    print_hello_world='echo "Hello World"',
    print_session='echo "Session: $ERA_SESSION_ID"; echo "API Key: $API_KEY"',
    print_slowly='for i in {0..4}; do echo "Processing $i"; sleep 0.5; done',
    write_results="echo -n '{}' >data.json; echo -n shown >output.txt",
)
