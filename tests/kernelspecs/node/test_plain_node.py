"""The rule of the kernel of Node: what a user sees is what `node main.js` would show."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.session import DELIM

from tests.kernelspecs.node.programs import PROGRAMS, TYPED_PROGRAMS
from tests.kernelspecs.node.toolchain import (
    NODE,
    has_in_module,
    in_node,
    in_typescript,
    jupyter_kernelspec,
    requires_node,
)
from tests.languages.jupyter_checks import JupyterKernel, Message, open_kernel, texts

pytestmark = requires_node
ProgramResult = tuple[str, str, int]

# Frames below the program's own differ: plain Node loads a module there.
_LOADER_FRAME = re.compile(r"^ +at .*\(?node:(?:internal/|diagnostics_).*$\n?", re.MULTILINE)
_PLACE_IN_NODE = re.compile(r"^node:.*:\d+\n.*\n +\^\n", re.MULTILINE)
_OBJECT_FRAME = re.compile(r"at (?:async )?(?:Object|Timeout)\.[<\w>]+ \((<cell-1>[^)]*)\)")
_AFTER_FRAME = re.compile(r"^( +at .*?)(?: \{|,)$", re.MULTILINE)
_MATCHING_LINES = re.compile(
    r"^ +\.\.\. \d+ lines matching cause stack trace \.\.\.\n", re.MULTILINE
)


def run_plain(directory: Path, name: str, program: str) -> ProgramResult:
    """Returns output and exit code of plain Node."""
    file = directory / ("main" + (Path(name).suffix or ".js"))
    file.write_text(program, encoding="utf-8")
    is_typed = file.suffix == ".ts"
    arguments = ["--experimental-transform-types", "--no-warnings"] if is_typed else []
    done = subprocess.run(
        [str(NODE), *arguments, file.name],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    stdout, stderr = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    stderr = stderr.replace(f"file://{file}", str(file)).replace(str(file), "<cell-1>")
    return stdout, stderr, done.returncode


def execute(
    kernel: JupyterKernel,
    code: str,
    *,
    env: Mapping[str, str] | None = None,
    ends: bool = False,
    number: int = 1,
) -> tuple[ProgramResult, list[Any]]:
    """Runs code as the server does; returns what it has printed, its exit code and the messages."""
    content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
    message = kernel.client.session.msg("execute_request", content)
    message["metadata"] = {"era": {"nonce": "n", "number": number, "env": env or {}, "ends": ends}}
    kernel.client.shell_channel.send(message)
    request_id = message["header"]["msg_id"]
    published = receive_published(kernel, request_id)
    reply = kernel.receive_reply("shell", request_id).content
    stdout, stderr = texts(published, "stdout"), texts(published, "stderr")
    home = Path(kernel.manager.connection_file).parent / "home"
    stderr = re.sub(rf"{re.escape(str(home))}/main\.\w+", "<cell-1>", stderr)
    return (stdout, stderr, reply["era"]["exit_code"]), published


def receive_published(kernel: JupyterKernel, request_id: str) -> list[Any]:
    """Returns what a run publishes; its requests for input get the answer that there is none.

    It reads the frames itself: jupyter_client takes ten times as long, and there may be very many.
    """
    messages: list[Any] = []
    socket = kernel.client.iopub_channel.socket
    while True:
        assert socket.poll(60_000), "nothing more was published"
        frames = socket.recv_multipart()
        header, parent, _, content = map(json.loads, frames[frames.index(DELIM) + 2 :][:4])
        if parent.get("msg_id") != request_id:
            continue
        messages.append(Message(header["msg_type"], content, request_id))
        if header["msg_type"] == "input_request":
            kernel.send("control", "input_reply", {"key": content["key"]})
        if content.get("execution_state") == "idle":
            return messages


def normalize(result: ProgramResult) -> ProgramResult:
    """Returns the result without what differs by nature: frames of Node's loader, object names."""
    stdout, stderr, code = result
    stderr = _AFTER_FRAME.sub(r"\1", _MATCHING_LINES.sub("", _LOADER_FRAME.sub("", stderr)))
    stderr = re.sub(r"\n{3,}", "\n\n", _PLACE_IN_NODE.sub("", stderr))
    stderr = re.sub(r"^\(node:\d+\)", "(node:1)", stderr, flags=re.MULTILINE)
    return stdout, _OBJECT_FRAME.sub(r"at \1", stderr), code


# What differs, and why. Each is tried, and has to differ.
DIFFERENCES = {
    "json error": "V8 tells the inspector of no place in a text that is no JSON",
    "temporal dead zone": "V8's REPL mode has another text for names that have no value yet",
    "hoisting": "the same text for classes",
    "missing module": "Node's hooks for modules take the place of the program's frames",
}


# Programs that change their process for good, or show what is so in a new one alone: each of these
# has a kernel of its own, where the others have one together.
_ALONE = re.compile(
    r"process\.(on|once|prependListener|exitCode|setUncaughtException\w+|emit)\b|freeze|StackTrace"
    r"|stackTraceLimit|console\.(trace|group)|deprecate|listenerCount|enterWith|http2"
)
_numbers = count(1)


def run_program(kernel: JupyterKernel, program: str) -> ProgramResult:
    """Returns what the kernel makes of a program, under a number that no other cell has."""
    number = next(_numbers)
    (stdout, stderr, code), _ = execute(kernel, program, ends=True, number=number)
    stdout, stderr = (text.replace(f"<cell-{number}>", "<cell-1>") for text in (stdout, stderr))
    return normalize((stdout, stderr, code))


def run_both(
    kernel: JupyterKernel, directory: Path, name: str, program: str
) -> list[ProgramResult]:
    """Returns the results of plain Node and of the kernel, or of a new one where it must be."""
    expected = normalize(run_plain(directory, name, program))
    if not _ALONE.search(program):
        return [expected, run_program(kernel, program)]
    place = directory / "alone"
    place.mkdir()
    with open_kernel(jupyter_kernelspec("node", place), place, "ipc") as kernel:
        return [expected, run_program(kernel, program)]


@in_node
@pytest.mark.parametrize("name", PROGRAMS)
def test_program(kernel: JupyterKernel, tmp_path: Path, name: str) -> None:
    """Output, errors and exit code are those of plain Node."""
    expected, found = run_both(kernel, tmp_path, name, PROGRAMS[name])
    if name in DIFFERENCES:
        assert found != expected, "it is the same by now: take it off the list"
        assert found[2] == expected[2]
    else:
        assert found == expected


@pytest.mark.skipif(
    not has_in_module("stripTypeScriptTypes"), reason="this Node does not transform TypeScript"
)
@in_typescript
@pytest.mark.parametrize("name", TYPED_PROGRAMS)
def test_typed_program(kernel: JupyterKernel, tmp_path: Path, name: str) -> None:
    """The same of TypeScript, where Node transforms it by itself."""
    expected = normalize(run_plain(tmp_path, f"{name}.ts", TYPED_PROGRAMS[name]))
    assert run_program(kernel, TYPED_PROGRAMS[name]) == expected
