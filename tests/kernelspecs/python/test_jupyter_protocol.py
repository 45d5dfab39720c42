"""The Python kernel follows Jupyter's protocol where clients differ from our own server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.connect import write_connection_file

from era_kernels.kernels.kernelspecs import builtin_dir
from tests.languages.jupyter_checks import (
    TIMEOUT,
    JupyterKernel,
    Message,
    only,
    open_kernel,
    texts,
)

COUNT_THREADS = "import os\nprint(len(os.listdir('/proc/self/task')))"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterKernel]:
    """One kernel for the tests that leave it as it was."""
    directory = tmp_path_factory.mktemp("shared")
    with open_kernel(builtin_dir() / "python", directory, "ipc") as kernel:
        yield kernel


def kinds(messages: list[Message]) -> list[str]:
    return [message.kind for message in messages if message.kind != "status"]


def request_all(kernel: JupyterKernel, kind: str, content: dict[str, Any]) -> list[Message]:
    """Sends a request that has no reply; returns what was published for it."""
    return kernel.receive_published(kernel.send("shell", kind, content))


# ---------------------------------------------------------------- heartbeat


def test_heartbeat_needs_no_interpreter(shared: JupyterKernel) -> None:
    """The heartbeat is answered while C code keeps the interpreter's lock."""
    request_id = shared.client.execute("import ctypes\n_ = ctypes.PyDLL(None).usleep(3_000_000)")
    assert kinds([shared.receive_published_until("execute_input", request_id)])
    time.sleep(0.5)
    socket = shared.manager.connect_hb()
    began = time.monotonic()
    for _ in range(5):
        socket.send(b"alive?")
        assert socket.poll(2000, zmq.POLLIN), "no answer while the lock is kept"
        assert socket.recv() == b"alive?"
    assert time.monotonic() - began < 2
    socket.close(0)
    assert shared.receive_reply("shell", request_id).content["status"] == "ok"


def test_heartbeat_after_a_fork(shared: JupyterKernel) -> None:
    """A forked child neither answers heartbeats nor ends them."""
    code = "import os\npid = os.fork()\nif pid:\n    _ = os.waitpid(pid, 0)"
    assert shared.run(code)[0].content["status"] == "ok"
    socket = shared.manager.connect_hb()
    socket.send(b"alive?")
    assert socket.poll(TIMEOUT * 1000, zmq.POLLIN)
    socket.close(0)


# ---------------------------------------------------------------- completion and inspection


def complete(kernel: JupyterKernel, code: str, cursor: int | None = None) -> dict[str, Any]:
    position = len(code) if cursor is None else cursor
    content = {"code": code, "cursor_pos": position}
    reply = kernel.request("complete_request", content).content
    assert reply["status"] == "ok", reply
    return reply


@pytest.mark.parametrize("uses_jedi", [True, False])
def test_completion(shared: JupyterKernel, uses_jedi: bool) -> None:
    """Names and attributes are completed with their types, with jedi and without."""
    shared.run(f"%config IPCompleter.use_jedi = {uses_jedi}\nsome_text = 'x'")
    reply = complete(shared, "y = 1\nsome_text.star")
    assert reply["matches"][0].endswith("startswith")
    typed = reply["metadata"]["_jupyter_types_experimental"]
    assert [match["text"] for match in typed] == reply["matches"]
    assert all({"start", "end", "type", "signature"} <= match.keys() for match in typed)
    assert complete(shared, "som", 0)["cursor_end"] == 0
    assert complete(shared, "nothing_of_that_name")["matches"] == []
    assert complete(shared, "'é☃' + som")["cursor_end"] == 10  # in characters


def test_completion_without_types(jupyter_kernel: JupyterKernel) -> None:
    """The plain completer answers where the typed one is switched off, as in ipykernel."""
    jupyter_kernel.run(
        "get_ipython().kernel.use_experimental_completions = False\n"
        "%config IPCompleter.use_jedi = False"
    )
    reply = complete(jupyter_kernel, "x = 1\nimpor")
    assert reply["matches"] == ["import"]
    assert (reply["cursor_start"], reply["cursor_end"], reply["metadata"]) == (6, 11, {})


def inspect(kernel: JupyterKernel, code: str, level: int = 0) -> dict[str, Any]:
    content = {"code": code, "cursor_pos": len(code), "detail_level": level}
    return kernel.request("inspect_request", content).content


def test_inspection(shared: JupyterKernel) -> None:
    """A function's text is shown at the first level, its source at the second."""
    shared.run("def double(n):\n    'Doubles it.'\n    return n * 2")
    text = inspect(shared, "double")["data"]["text/plain"]
    assert "Doubles it." in text
    assert "return n * 2" not in text
    assert "return n * 2" in inspect(shared, "double", 1)["data"]["text/plain"]
    assert inspect(shared, "double(")["found"]  # the function that is being called
    for code in ("no_such_name", "", "1 +"):
        assert inspect(shared, code) == {
            "status": "ok", "found": False, "data": {}, "metadata": {}
        }  # fmt: skip


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = 1", {"status": "complete"}),
        ("", {"status": "complete"}),
        ("for n in range(3):\n    print(n)\n\n", {"status": "complete"}),
        ("%timeit 1", {"status": "complete"}),
        ("await f()", {"status": "complete"}),
        ("if True:", {"status": "incomplete", "indent": "    "}),
        ("def f():\n    if x:", {"status": "incomplete", "indent": "        "}),
        ("x = (1,", {"status": "incomplete", "indent": ""}),
        ("'''text", {"status": "incomplete", "indent": ""}),
        ("1 1", {"status": "invalid"}),
        ("x = )", {"status": "invalid"}),
        ("def class", {"status": "invalid"}),
    ],
)
def test_is_complete(shared: JupyterKernel, code: str, expected: dict[str, str]) -> None:
    """Code is complete, incomplete with an indentation, or invalid."""
    assert shared.request("is_complete_request", {"code": code}).content == expected


def test_is_complete_unknown(shared: JupyterKernel) -> None:
    """Where a transformer of the user's fails, nobody knows."""
    shared.run(
        "def bad(lines): raise ValueError\nget_ipython().input_transformers_cleanup.append(bad)"
    )
    reply = shared.request("is_complete_request", {"code": "x"})
    assert reply.content == {"status": "unknown"}
    shared.run("_ = get_ipython().input_transformers_cleanup.pop()")


def test_looking_at_hostile_objects(shared: JupyterKernel) -> None:
    """Whatever an object does when it is looked at, there is a reply, and a next one."""
    for error in ("ValueError('no')", "SystemExit(3)", "KeyboardInterrupt"):
        shared.run(
            f"class Hostile:\n    def __getattr__(self, name): raise {error}\n"
            f"    def __dir__(self): raise {error}\n    def __repr__(self): raise {error}\n"
            "hostile = Hostile()"
        )
        for kind in ("complete_request", "inspect_request"):
            content = {"code": "hostile.", "cursor_pos": 8}
            assert shared.request(kind, content).content["status"] in ("ok", "error")
            content = {"code": "hostile", "cursor_pos": 7}
            assert shared.request(kind, content).content["status"] in ("ok", "error")
    assert complete(shared, "impor")["matches"] == ["import"]


def test_an_endless_look_is_interrupted(shared: JupyterKernel) -> None:
    """A completion that never ends can be interrupted, like a run."""
    shared.run(
        "class Endless:\n    def __dir__(self):\n        while True: pass\n"
        "%config IPCompleter.use_jedi = False\nendless = Endless()"
    )
    request_id = shared.send("shell", "complete_request", {"code": "endless.", "cursor_pos": 8})
    for _ in range(TIMEOUT):
        time.sleep(0.5)
        shared.request("interrupt_request", {}, channel="control")
        try:
            reply = shared.client.get_shell_msg(timeout=0.5)
        except Empty:
            continue
        assert reply["parent_header"]["msg_id"] == request_id
        break
    assert shared.run("1")[0].content["status"] == "ok"


# ---------------------------------------------------------------- history


def history(kernel: JupyterKernel, **content: Any) -> list[Any]:
    request = {"output": False, "raw": True, **content}
    reply = kernel.request("history_request", request).content
    assert reply["status"] == "ok", reply
    return list(reply["history"])


def test_history(jupyter_kernel: JupyterKernel) -> None:
    """This kernel's runs are found by number, from the end, and by a pattern."""
    for code in ("a = 1", "'é' * 3", "a = 1", "print('no result')"):
        jupyter_kernel.run(code)
    jupyter_kernel.run("secret = 1", store_history=False)
    jupyter_kernel.run("quiet = 1", silent=True)
    entries = [[1, 1, "a = 1"], [1, 2, "'é' * 3"], [1, 3, "a = 1"], [1, 4, "print('no result')"]]
    tail = {"hist_access_type": "tail"}
    assert history(jupyter_kernel, **tail, n=2) == entries[2:]
    assert history(jupyter_kernel, **tail, n=0) == []
    assert history(jupyter_kernel, **tail, n=99) == history(jupyter_kernel, **tail) == entries
    found = history(jupyter_kernel, hist_access_type="range", session=0, start=2, stop=4)
    assert found == entries[1:3]
    found = history(jupyter_kernel, hist_access_type="range", session=0, start=2, output=True)
    assert [shown for _, _, shown in found] == [
        ["'é' * 3", "'ééé'"], ["a = 1", None], ["print('no result')", None]
    ]  # fmt: skip
    assert history(jupyter_kernel, hist_access_type="range", session=-1, start=0) == []
    search = {"hist_access_type": "search"}
    assert history(jupyter_kernel, **search, pattern="a = *") == [entries[0], entries[2]]
    assert history(jupyter_kernel, **search, pattern="a = *", n=1) == [entries[2]]
    assert history(jupyter_kernel, **search, pattern="a*", unique=True) == [entries[2]]
    assert history(jupyter_kernel, **search, pattern="A*") == []
    reply = jupyter_kernel.request("history_request", {"hist_access_type": "other"})
    assert (reply.content["status"], reply.content["ename"]) == ("error", "ValueError")


def test_history_is_bounded(jupyter_kernel: JupyterKernel) -> None:
    """Neither many runs nor long ones nor long results fill the memory."""
    for number in range(1, 4):
        jupyter_kernel.run(f"#{'x' * 600_000}\n{number}")
    found = history(jupyter_kernel, hist_access_type="tail")
    assert [number for _, number, _ in found] == [3]
    jupyter_kernel.run("'y' * 2_000_000")
    assert history(jupyter_kernel, hist_access_type="tail", output=True) == []
    jupyter_kernel.run("for n in range(3000): get_ipython().kernel.history.add(n, 'n')\nNone")
    assert len(history(jupyter_kernel, hist_access_type="tail")) == 1000


# ---------------------------------------------------------------- comms


def test_comms(shared: JupyterKernel) -> None:
    """A comm is opened, written to and closed from both sides; its callbacks print and fail."""
    shared.run(
        "from ipykernel.comm import CommManager\n"
        "def on_open(comm, message):\n"
        "    print('opened', message['content']['data'])\n"
        "    @comm.on_msg\n"
        "    def on_msg(message):\n"
        "        data = message['content']['data']\n"
        "        print('got', data)\n"
        "        if data.get('fail') == 'exit': raise SystemExit(3)\n"
        "        if data.get('fail'): 1 / 0\n"
        "        comm.send({'echo': data})\n"
        "    comm.on_close(lambda message: print('closed'))\n"
        "get_ipython().kernel.comm_manager.register_target('ours', on_open)"
    )
    content = {"comm_id": "c", "target_name": "ours", "data": {"n": 1}}
    published = request_all(shared, "comm_open", content)
    assert texts(published, "stdout") == "opened {'n': 1}\n"
    comms = shared.request("comm_info_request", {}).content["comms"]
    assert comms == {"c": {"target_name": "ours"}}
    content = {"comm_id": "c", "data": {"n": 2}}
    published = request_all(shared, "comm_msg", content)
    assert texts(published, "stdout") == "got {'n': 2}\n"
    assert only(published, "comm_msg") == {"comm_id": "c", "data": {"echo": {"n": 2}}}
    published = request_all(shared, "comm_msg", {"comm_id": "c", "data": {"fail": True}})
    assert "ZeroDivisionError" in texts(published, "stderr")
    request_all(shared, "comm_msg", {"comm_id": "c", "data": {"fail": "exit"}})
    published = request_all(shared, "comm_close", {"comm_id": "c", "data": {}})
    assert texts(published, "stdout") == "closed\n"
    assert shared.request("comm_info_request", {}).content["comms"] == {}
    _, published = shared.run(
        "from comm import create_comm\ncomm = create_comm('theirs', data={'a': 1})\ncomm.close()"
    )
    assert kinds(published) == ["execute_input", "comm_open", "comm_close"]


# ---------------------------------------------------------------- options of a run


def test_user_expressions(shared: JupyterKernel) -> None:
    """Each expression has a value, or what went wrong with it; none when the run failed."""
    hostile = "__import__('sys').exit(3)"
    expressions = {"good": "6 * 7", "bad": "1 / 0", "exit": hostile, "syntax": "1 1"}
    reply, _ = shared.run("x = 1", user_expressions=expressions)
    values = reply.content["user_expressions"]
    assert values["good"] == {"status": "ok", "data": {"text/plain": "42"}, "metadata": {}}
    failed = {name: values[name]["ename"] for name in ("bad", "exit", "syntax")}
    assert failed == {
        "bad": "ZeroDivisionError", "exit": "SystemExit", "syntax": "SyntaxError"
    }  # fmt: skip
    assert all(values[name]["status"] == "error" for name in failed)
    reply, _ = shared.run("1 / 0", user_expressions=expressions)
    assert reply.content["user_expressions"] == {}


def test_silent(shared: JupyterKernel) -> None:
    """A silent run prints, and is else not seen: no input, no result, no number."""
    before = shared.run("x = 1")[0].content["execution_count"]
    reply, published = shared.run("print('seen')\n6 * 7", silent=True)
    assert kinds(published) == ["stream"]
    assert reply.content["execution_count"] == before
    reply, published = shared.run("6 * 7", store_history=False)
    assert kinds(published) == ["execute_input", "execute_result"]
    assert reply.content["execution_count"] == before
    assert shared.run("x = 1")[0].content["execution_count"] == before + 1


def test_lines_of_unstored_runs(shared: JupyterKernel) -> None:
    """A run without a number does not take the place of the last one's source."""
    shared.run("def f():\n    return 1 / 0  # the line")
    shared.run("x = 1\nx = 2", store_history=False)
    reply, _ = shared.run("f()")
    assert "the line" in "\n".join(reply.content["traceback"])


def test_stop_on_error(shared: JupyterKernel) -> None:
    """What waits behind a failing run is aborted, if the client wishes; other requests are not."""
    for stops in (True, False):
        first = shared.client.execute("import time\ntime.sleep(1)\n1 / 0", stop_on_error=stops)
        waiting = [shared.client.execute("print('ran')") for _ in range(2)]
        info = shared.send("shell", "kernel_info_request", {})
        assert shared.receive_reply("shell", first).content["status"] == "error"
        published = [shared.receive_published(request_id) for request_id in (first, *waiting)]
        replies = [shared.receive_reply("shell", request_id) for request_id in waiting]
        assert [reply.kind for reply in replies] == ["execute_reply"] * 2
        expected = "aborted" if stops else "ok"
        assert [reply.content["status"] for reply in replies] == [expected] * 2
        assert [texts(seen, "stdout") for seen in published[1:]] == ["" if stops else "ran\n"] * 2
        assert shared.receive_reply("shell", info).content["status"] == "ok"
        assert shared.run("1")[0].content["status"] == "ok"


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("code", "name", "value"),
    [
        ("1 / 0", "ZeroDivisionError", "division by zero"),
        ("def class", "SyntaxError", "invalid syntax"),
        ("import sys\nsys.exit(3)", "SystemExit", "3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("import asyncio\nawait asyncio.sleep(0)\nraise KeyError('k')", "KeyError", "'k'"),
        ("raise ExceptionGroup('g', [ValueError('v')])", "ExceptionGroup", "g (1 sub-exception)"),
        ("%no_such_magic", "UsageError", "Line magic function `%no_such_magic` not found."),
    ],
)
def test_errors(shared: JupyterKernel, code: str, name: str, value: str) -> None:
    """A failing run is told once: as an `error` message, equal to the reply, and not as text."""
    reply, published = shared.run(f"print('before')\n{code}" if "%" not in code else code)
    error = only(published, "error")
    assert (error["ename"], reply.content["ename"]) == (name, name)
    assert error["evalue"].startswith(value)
    assert error["traceback"] == reply.content["traceback"]
    assert texts(published, "stderr") == ""
    assert not any("\x1b" in line or "era_kernel" in line for line in error["traceback"])


def test_error_beside_a_hook(shared: JupyterKernel) -> None:
    """A hook of the program's prints what it likes; the client is told of the error, too."""
    shared.run("import sys\nsys.excepthook = lambda *args: print('hooked')")
    _, published = shared.run("1 / 0")
    assert texts(published, "stdout") == "hooked\n"
    assert only(published, "error")["ename"] == "ZeroDivisionError"
    shared.run("sys.excepthook = sys.__excepthook__")


# ---------------------------------------------------------------- input


def test_password(shared: JupyterKernel) -> None:
    """A password is asked for as such."""
    code = "import getpass\nprint(len(getpass.getpass('secret: ')))"
    request_id = shared.client.execute(code, allow_stdin=True)
    assert shared.answer_input("abc") == {"prompt": "secret: ", "password": True}
    assert texts(shared.receive_published(request_id), "stdout") == "3\n"
    shared.receive_reply("shell", request_id)


def test_no_input(shared: JupyterKernel) -> None:
    """Where the client answers nothing, the program reads the end of its stdin."""
    reply, published = shared.run("input('name? ')", allow_stdin=False)
    assert reply.content["ename"] == "EOFError"
    assert texts(published, "stdout") == "name? "


# ---------------------------------------------------------------- odd requests


def test_debugging_is_refused(shared: JupyterKernel) -> None:
    """A debugger's request gets an error, on both channels."""
    content = {"type": "request", "command": "attach", "seq": 7, "arguments": {}}
    for channel in ("control", "shell"):
        reply = shared.request("debug_request", content, channel=channel)
        assert reply.kind == "debug_reply"
        assert (reply.content["status"], reply.content["success"]) == ("error", False)
        assert (reply.content["request_seq"], reply.content["command"]) == (7, "attach")


@pytest.mark.parametrize("channel", ["shell", "control"])
@pytest.mark.parametrize("kind", ["no_such_request", "usage_request", "apply_request", "", "run"])
def test_unknown_requests(shared: JupyterKernel, channel: str, kind: str) -> None:
    """A request that the kernel does not know is ignored, and the next one answered."""
    request_id = shared.send(channel, kind, {"anything": [1]})
    assert [message.kind for message in shared.receive_published(request_id)] == ["status"] * 2
    assert shared.request("kernel_info_request", {}, channel).content["status"] == "ok"


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("complete_request", {}),
        ("complete_request", {"code": 5, "cursor_pos": "x"}),
        ("complete_request", {"code": "im", "cursor_pos": -5}),
        ("complete_request", {"code": "im", "cursor_pos": 10**30}),
        ("inspect_request", {}),
        ("inspect_request", {"code": "x", "cursor_pos": [], "omit_sections": 5}),
        ("is_complete_request", {}),
        ("is_complete_request", {"code": None}),
        ("history_request", {"hist_access_type": "tail", "n": "many"}),
        ("history_request", {"hist_access_type": "range", "start": [], "stop": {}}),
        ("history_request", {"hist_access_type": "search", "pattern": 5}),
        ("comm_info_request", {"target_name": []}),
        ("debug_request", {}),
    ],
)
def test_odd_contents(shared: JupyterKernel, kind: str, content: dict[str, Any]) -> None:
    """Content that is not as it should be gets a reply all the same."""
    reply = shared.request(kind, content)
    assert reply.kind == kind.replace("_request", "_reply")
    assert reply.content["status"] in ("ok", "error", "unknown", "complete", "invalid")


@pytest.mark.parametrize("content", [{}, {"code": 5}, {"code": None}, {"code": ["x"]}])
def test_odd_runs(shared: JupyterKernel, content: dict[str, Any]) -> None:
    """A request to run what is no code is refused with an error, and the next run works."""
    assert shared.request("execute_request", content).content["status"] == "error"
    assert shared.run("1")[0].content["status"] == "ok"


def test_wrong_signatures(shared: JupyterKernel) -> None:
    """A message that was not signed with the key is ignored."""
    session = shared.client.session
    key = session.key
    for channel in ("shell", "control"):
        session.key = b"another"
        request_id = shared.send(channel, "kernel_info_request", {})
        session.key = key
        with pytest.raises(Empty):
            getattr(shared.client, f"get_{channel}_msg")(timeout=0.5)
        assert request_id
        assert shared.request("kernel_info_request", {}, channel).content["status"] == "ok"


def test_junk(shared: JupyterKernel) -> None:
    """Frames that are no message of Jupyter's are ignored."""
    for frames in ([b""], [b"<IDS|MSG>"], [b"<IDS|MSG>", b"x", b"{}", b"{", b"", b"\xff"]):
        for channel in (shared.client.shell_channel, shared.client.control_channel):
            channel.socket.send_multipart(frames)
    assert shared.run("1")[0].content["status"] == "ok"


# ---------------------------------------------------------------- start and end


@pytest.mark.parametrize("channel", ["shell", "control"])
@pytest.mark.parametrize("restart", [True, False])
def test_shutdown(jupyter_kernel: JupyterKernel, channel: str, restart: bool) -> None:
    """The end is told in the reply and on iopub, with `restart` as asked; then the process ends."""
    request_id = jupyter_kernel.send(channel, "shutdown_request", {"restart": restart})
    published = jupyter_kernel.receive_published(request_id)
    reply = jupyter_kernel.receive_reply(channel, request_id)
    assert reply.content == {"status": "ok", "restart": restart}
    assert only(published, "shutdown_reply") == reply.content
    process = jupyter_kernel.manager.provisioner.process  # type: ignore[union-attr]
    assert process.wait(TIMEOUT) == 0


@contextmanager
def started_with(directory: Path, **changes: Any) -> Iterator[JupyterKernel]:
    """Starts the kernel by hand with a changed connection file; None leaves a key out."""
    file, connection = write_connection_file(str(directory / "kernel.json"), key=b"")
    written = {
        name: value for name, value in {**connection, **changes}.items() if value is not None
    }
    Path(file).write_text(json.dumps(written))
    process = subprocess.Popen([sys.executable, builtin_dir() / "python", file], cwd=directory)
    client = BlockingKernelClient()
    client.load_connection_info({**connection, **written})
    client.hb_channel.time_to_dead = TIMEOUT  # a second is short beside other tests
    client.start_channels()
    try:
        client.wait_for_ready(timeout=TIMEOUT)
        yield JupyterKernel(None, client)  # type: ignore[arg-type]
        client.shutdown()
        assert process.wait(TIMEOUT) == 0
    finally:
        client.stop_channels()
        client.context.destroy(0)
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "changes",
    [
        {"key": ""},
        dict.fromkeys(
            ("key", "signature_scheme", "transport", "ip", "kernel_name", "jupyter_session")
        ),
        {"key": "secret", "stdin_port": None},
        {"key": "secret", "signature_scheme": None},
        {"key": "secret", "signature_scheme": "hmac-sha512"},
    ],
    ids=str,
)
def test_connection_files(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Keys that are missing have the values that Jupyter gives them; an empty key signs nothing."""
    with started_with(tmp_path, **changes) as kernel:
        assert only(kernel.run("1 + 1")[1], "execute_result")["data"] == {"text/plain": "2"}


def test_heartbeat_costs_nothing_where_there_is_none(tmp_path: Path) -> None:
    """Without `hb_port` in the file, the three threads of the heartbeat are not there."""
    counted = []
    for place, changes in (("with", {}), ("without", {"hb_port": None})):
        (tmp_path / place).mkdir()
        with started_with(tmp_path / place, **changes) as kernel:
            counted.append(int(texts(kernel.run(COUNT_THREADS)[1], "stdout")))
    assert counted[0] - counted[1] == 3  # the thread itself, and those of its context in libzmq
