"""The rule of the kernel of Deno: what a user sees is what `deno run main.ts` would show."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.kernelspecs.deno.toolchain import DENO, jupyter_kernelspec, requires_deno
from tests.kernelspecs.node.programs import read_programs
from tests.kernelspecs.node.test_plain_node import ProgramResult, execute
from tests.languages.jupyter_checks import JupyterKernel, open_kernel

pytestmark = requires_deno
PROGRAMS = read_programs(Path(__file__).with_name("programs.ts.txt"))

_OWN_FRAMES = re.compile(r"^ +at .*\((?:ext|node):.*\)\n", re.MULTILINE)
_TIMEOUT_FRAME = re.compile(r"at Timeout\.[<\w>]+ ")

# What differs, and why. Each is tried, and has to differ.
DIFFERENCES = {
    "strict": "V8 sees an assignment in the call that makes a result of it",
    "temporal dead zone": "names of cells are there, without a value, before their cell runs",
    "constant": "V8 sees where the value is assigned, and not where the name stands",
}


def run_plain(directory: Path, program: str) -> ProgramResult:
    """Returns output and exit code of plain Deno."""
    file = directory / "main.ts"
    file.write_text(program, encoding="utf-8")
    cache = {"DENO_DIR": str(directory.parent / "cache" / "deno")}
    done = subprocess.run(
        [str(DENO), "run", "-A", file.name],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "NO_COLOR": "1", "DENO_NO_UPDATE_CHECK": "1", **cache},
    )
    return done.stdout.decode(), done.stderr.decode(), done.returncode


def normalize(result: ProgramResult, directory: Path) -> ProgramResult:
    """Returns the result without what differs by nature: frames of Deno itself, names of files."""
    texts = []
    for text in result[:2]:
        named = text.replace(f"file://{directory}/main.ts", "<cell-1>")
        texts.append(named.replace(str(directory), "DIRECTORY"))
    stdout, stderr = texts
    stderr = _TIMEOUT_FRAME.sub("at Timeout ", _OWN_FRAMES.sub("", stderr + "\n").rstrip())
    return stdout, re.sub(r"\n +at __processTimers.*", "", stderr), result[2]


# Programs that listen to all errors or serve: each of these has a kernel of its own, where the
# others have one together.
_ALONE = re.compile(r"addEventListener|process\.on\b|createServer")


def run_program(kernel: JupyterKernel, program: str) -> ProgramResult:
    """Returns what the kernel makes of a program."""
    home = Path(kernel.manager.connection_file).parent / "home"
    return normalize(execute(kernel, program, ends=True)[0], home)


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(kernel: JupyterKernel, tmp_path: Path, name: str) -> None:
    """Output, errors and exit code are those of plain Deno."""
    place = tmp_path / "plain"
    place.mkdir()
    expected = normalize(run_plain(place, PROGRAMS[name]), place)
    if _ALONE.search(PROGRAMS[name]):
        with open_kernel(jupyter_kernelspec(tmp_path), tmp_path, "ipc") as own:
            found = run_program(own, PROGRAMS[name])
    else:
        found = run_program(kernel, PROGRAMS[name])
    if name in DIFFERENCES:
        assert found != expected, "it is the same by now: take it off the list"
        assert found[0] == expected[0] or name == "temporal dead zone"
    else:
        assert found == expected
