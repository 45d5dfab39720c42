"""Python's programs for the conformance table."""

from __future__ import annotations

from tests.languages.kernel_programs import KernelPrograms

ALTERNATING = (
    'import sys\nfor n in range(20):\n    print("out", n)\n    print("err", n, file=sys.stderr)'
)
LATE = """import os, threading, time
def work():
    while not os.path.exists("next"):
        time.sleep(0.02)
    print("late")
    open("told", "w").close()
threading.Thread(target=work, daemon=True).start()
"""
WAIT_FOR_LATE = """import os, time
print("first")
open("next", "w").close()
for _ in range(100):
    if os.path.exists("told"):
        break
    time.sleep(0.05)
print("second")
"""

PROGRAMS = KernelPrograms(
    column="python",
    language="python",
    capabilities=frozenset(
        {"async", "input", "interrupt", "rich_output", "stack", "state", "variables"}
    ),
    hello='print("hello")',
    to_stderr='import sys\nprint("problem", file=sys.stderr)',
    alternating=ALTERNATING,
    alternating_in_order=ALTERNATING,
    one_big_write='import sys\n_ = sys.stdout.write("x" * 1_000_000)',
    many_lines='for n in range(100_000):\n    print("%08d" % n + "." * 91)',
    set_state="x = 41",
    use_state="print(x + 1)",
    fail='y = 1\n\nraise ValueError("boom")',
    failing_line="line 3, in <module>",
    syntax_error="a = 1\nb = (",
    syntax_error_text="line 2",
    exit_with="import sys\nsys.exit({code})",
    exit_nested=(
        "import sys\ndef outer():\n    def inner():\n        sys.exit(3)\n    inner()\nouter()"
    ),
    read_env='import os\nprint(os.environ.get("{name}", "absent"))',
    read_env_in_child=(
        "import subprocess\n"
        "print(subprocess.run(['sh', '-c', 'echo ${{{name}-absent}}'],"
        " capture_output=True, text=True).stdout, end='')"
    ),
    print_cwd_and_home="import os\nprint(os.getcwd())\nprint(os.path.expanduser('~'))",
    write_file='with open("made.txt", "w") as f:\n    _ = f.write("data")',
    module_name="fresh.py",
    module_text="VALUE = {value}\n",
    import_module="import fresh\nprint(fresh.VALUE)",
    write_module='with open("fresh.py", "w") as f:\n    _ = f.write("VALUE = {value}")',
    sleep="import time\ntime.sleep(60)",
    sleeping_line=2,
    busy_loop="while True:\n    pass",
    pending_await="import asyncio\nawait asyncio.sleep(60)",
    c_call="import re\nre.match(r'(a+)+$', 'a' * 40 + 'b')",
    kill_self="import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    segfault="import ctypes\nctypes.string_at(0)",
    take_memory="taken = []\nwhile True:\n    taken.append(bytearray(b'x') * 100_000_000)",
    child_output=('import subprocess\nprint("a")\n_ = subprocess.run(["echo", "b"])\nprint("c")'),
    read_stdin='import sys\nprint("[" + sys.stdin.read() + "]")',
    late_output=LATE,
    wait_for_late=WAIT_FOR_LATE,
    slow_print='import time\nprint("first")\ntime.sleep(1)\nprint("second")',
    unicode='print("naïve ☃ 😀")',
    nul='print("a\\0b")',
    invalid_utf8='import sys\n_ = sys.stdout.buffer.write(b"a\\xffb")',
    use_storage=(
        "from era_storage import kv\n"
        "_ = kv.set('shop', 'flavour', 'lemon')\nprint(kv.get('shop', 'flavour'))"
    ),
    last_expression="6 * 7",
    display_html="from IPython.display import HTML, display\ndisplay(HTML('<b>rich</b>'))",
    print_hello_world='print("Hello World")',
    print_session=(
        "import os; print(f\"Session: {os.environ.get('ERA_SESSION_ID')}\");"
        " print(f\"API Key: {os.environ.get('API_KEY')}\")"
    ),
    print_slowly=('import time; [print(f"Processing {i}") or time.sleep(0.5) for i in range(5)]'),
    write_results="open('data.json', 'w').write('{}'); open('output.txt', 'w').write('shown')",
    ask="print('hello ' + input('name? '))",
)
