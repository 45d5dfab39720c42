"""What any client of Jupyter expects of any kernel, as a table of checks for every kernelspec.

The same ground as runtimed's kernel-testbed: what every front end needs, what an interactive one
needs, rich output, and the rest of the protocol. A language brings a record of small programs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from era_kernels.kernels.kernelspecs import builtin_dir

TIMEOUT = 30  # seconds for any single answer


@dataclass(frozen=True)
class JupyterPrograms:
    """Programs of one kernelspec, a field per kind."""

    write_kernelspec: Callable[[Path], Path]  # into a folder, with Jupyter's own keys alone
    language_name: str  # as kernel_info tells it
    hello: str  # prints "hello" to stdout
    to_stderr: str  # prints "problem" to stderr
    assign: str  # a whole program that prints nothing
    incomplete: str  # the beginning of one
    syntax_error: str
    set_name: str  # gives {name} a value
    name: str
    name_prefix: str  # its beginning, to be completed
    expression: str  # ends in an expression whose text is 42
    rich_expression: str  # ends in one that has text/html
    display: str  # displays text/html
    update_display: str  # displays something, and then updates it
    ask: str  # asks for a line with the prompt "name? " and prints it
    sleep: str  # for a minute


@dataclass(frozen=True)
class Message:
    """A message's kind and content, and the id of the request that it belongs to."""

    kind: str
    content: dict[str, Any]
    parent_id: str | None


class JupyterKernel:
    """A kernel that jupyter_client started, and its client."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def send(self, channel: str, kind: str, content: dict[str, Any], **header: Any) -> str:
        """Sends a request and returns its id."""
        message = self.client.session.msg(kind, content)
        message["header"] |= header
        getattr(self.client, f"{channel}_channel").send(message)
        return str(message["header"]["msg_id"])

    def receive_reply(self, channel: str, request_id: str) -> Message:
        """Returns the reply to a request; others are dropped."""
        receive = getattr(self.client, f"get_{channel}_msg")
        while True:
            message = _to_message(receive(timeout=TIMEOUT))
            if message.parent_id == request_id:
                return message

    def request(self, kind: str, content: dict[str, Any], channel: str = "shell") -> Message:
        return self.receive_reply(channel, self.send(channel, kind, content))

    def receive_published(self, request_id: str) -> list[Message]:
        """Returns what was published for a request, up to its `idle`."""
        messages = []
        while True:
            message = _to_message(self.client.get_iopub_msg(timeout=TIMEOUT))
            if message.parent_id == request_id:
                messages.append(message)
                if message.content.get("execution_state") == "idle":
                    return messages

    def receive_published_until(self, kind: str, request_id: str) -> Message:
        """Returns the first message of that kind that was published for a request."""
        while True:
            message = _to_message(self.client.get_iopub_msg(timeout=TIMEOUT))
            if (message.kind, message.parent_id) == (kind, request_id):
                return message

    def run(self, code: str, **options: Any) -> tuple[Message, list[Message]]:
        """Returns the reply to a run, and what was published for it."""
        request_id = self.client.execute(code, **options)
        published = self.receive_published(request_id)
        return self.receive_reply("shell", request_id), published

    def answer_input(self, value: str) -> dict[str, Any]:
        """Answers the next request for input; returns its content."""
        request = self.client.get_stdin_msg(timeout=TIMEOUT)
        self.client.input(value)
        return dict(request["content"])


def _to_message(message: dict[str, Any]) -> Message:
    parent = message["parent_header"]
    return Message(message["msg_type"], message["content"], parent.get("msg_id"))


def texts(messages: list[Message], name: str) -> str:
    """Returns all that was written to stdout or stderr."""
    contents = [message.content for message in messages if message.kind == "stream"]
    return "".join(content["text"] for content in contents if content["name"] == name)


def only(messages: list[Message], kind: str) -> dict[str, Any]:
    """Returns the content of the one message of that kind."""
    (content,) = [message.content for message in messages if message.kind == kind]
    return content


def write_kernelspec(language: str, directory: Path, places: dict[str, object]) -> Path:
    """Returns a folder in which a kernelspec of ours has nothing but Jupyter's own keys.

    `places` gives the placeholders of `kernel.json` their values, the longest ones first.
    """
    source = builtin_dir() / language
    text = (source / "kernel.json").read_text(encoding="utf-8")
    places = {**places, "{resource_dir}": source, "{cache}": directory / "cache"}
    for placeholder, value in places.items():
        text = text.replace(placeholder, str(value))
    folder = directory / f"kernelspec-{language}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel.json").write_text(text, encoding="utf-8")
    return folder


@contextmanager
def open_kernel(
    kernelspec: Path, directory: Path, transport: str, **options: Any
) -> Iterator[JupyterKernel]:
    """Starts the kernel of a kernelspec as jupyter_client does; ends it at the exit."""
    # Under another name: jupyter_client has a kernel of its own that is called `python`.
    (directory / "specs").mkdir()
    (directory / "specs" / "era").symlink_to(kernelspec)
    (directory / "home").mkdir()
    specs = KernelSpecManager(kernel_dirs=[str(directory / "specs")], ensure_native_kernel=False)
    manager = KernelManager(
        kernel_name="era",
        kernel_spec_manager=specs,
        transport=transport,
        connection_file=str(directory / "kernel.json"),
        **options,
    )
    manager.start_kernel(cwd=str(directory / "home"))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=TIMEOUT)
        yield JupyterKernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.context.destroy(0)


# ---------------------------------------------------------------- what every front end needs


def check_heartbeat(kernel: JupyterKernel, _: JupyterPrograms) -> None:
    """What is sent to the heartbeat comes back, several times."""
    socket = kernel.manager.connect_hb()
    try:
        for data in (b"one", b"", b"x" * 10_000):
            socket.send(data)
            assert socket.poll(TIMEOUT * 1000, zmq.POLLIN)
            assert socket.recv() == data
    finally:
        socket.close(0)


def check_info(kernel: JupyterKernel, _: JupyterPrograms) -> None:
    """The kernel tells what it is."""
    content = kernel.request("kernel_info_request", {}).content
    assert content["status"] == "ok"
    assert content["implementation"]
    assert content["implementation_version"]
    assert content["banner"]


def check_language(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """The kernel tells its language, with all that an editor and a file need."""
    info = kernel.request("kernel_info_request", {}).content["language_info"]
    assert info["name"] == programs.language_name
    assert info["file_extension"].startswith(".")
    assert "/" in info["mimetype"]
    assert info["version"]


def check_protocol_version(kernel: JupyterKernel, _: JupyterPrograms) -> None:
    """The kernel tells a version of the protocol that has two numbers, the first of them 5."""
    major, minor, *_ = kernel.request("kernel_info_request", {}).content[
        "protocol_version"
    ].split(".")  # fmt: skip
    assert major == "5"
    assert minor.isdigit()


def check_stdout(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """What a program prints is a stream of the name stdout, and nothing else."""
    _, published = kernel.run(programs.hello)
    assert (texts(published, "stdout"), texts(published, "stderr")) == ("hello\n", "")


def check_stderr(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """What a program prints to stderr is a stream of that name."""
    _, published = kernel.run(programs.to_stderr)
    assert (texts(published, "stdout"), texts(published, "stderr")) == ("", "problem\n")


def check_reply(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """A run that goes well has a reply that says so."""
    reply, published = kernel.run(programs.assign)
    assert (reply.kind, reply.content["status"]) == ("execute_reply", "ok")
    assert texts(published, "stdout") == texts(published, "stderr") == ""


def check_status(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """A run is busy once, first, and idle once, last."""
    _, published = kernel.run(programs.hello)
    states = [message.content.get("execution_state") for message in published]
    assert [states[0], states[-1]] == ["busy", "idle"]
    assert not any(states[1:-1])


def check_execute_input(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """The code of a run is published to all clients, with its number."""
    reply, published = kernel.run(programs.assign)
    content = only(published, "execute_input")
    assert content["code"] == programs.assign
    assert content["execution_count"] == reply.content["execution_count"]


# ---------------------------------------------------------------- what an interactive one needs


def check_complete(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """A name that a run made is offered for its beginning."""
    kernel.run(programs.set_name)
    code = programs.name_prefix
    reply = kernel.request("complete_request", {"code": code, "cursor_pos": len(code)})
    assert reply.content["status"] == "ok"
    assert reply.content["cursor_end"] == len(code)
    start = code[: reply.content["cursor_start"]]
    assert programs.name in [start + match for match in reply.content["matches"]]


def check_inspect(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """A name that a run made is described as text, and one that is not there is not found."""
    kernel.run(programs.set_name)
    for name, is_found in ((programs.name, True), ("no_such_name_anywhere", False)):
        content = {"code": name, "cursor_pos": len(name), "detail_level": 0}
        reply = kernel.request("inspect_request", content).content
        assert (reply["status"], reply["found"]) == ("ok", is_found)
        assert bool(reply["data"].get("text/plain")) == is_found


def check_code_is_complete(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """A whole program is complete."""
    reply = kernel.request("is_complete_request", {"code": programs.assign})
    assert (reply.kind, reply.content["status"]) == ("is_complete_reply", "complete")


def check_code_is_incomplete(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """The beginning of a program is incomplete, with the indentation of its next line."""
    content = kernel.request("is_complete_request", {"code": programs.incomplete}).content
    assert content["status"] == "incomplete"
    assert content["indent"].strip() == ""


def check_history(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """The history ends with the code of the last run."""
    reply, _ = kernel.run(programs.assign)
    request = {"hist_access_type": "tail", "n": 10, "raw": True, "output": False}
    content = kernel.request("history_request", request).content
    assert content["status"] == "ok"
    assert content["history"][-1][1:] == [reply.content["execution_count"], programs.assign]


def check_comm_info(kernel: JupyterKernel, _: JupyterPrograms) -> None:
    """The open comms are told: none of a target that nobody has."""
    content = kernel.request("comm_info_request", {"target_name": "nobody"}).content
    assert content == {"status": "ok", "comms": {}}


def check_error(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """A failing run is an error in its reply and on iopub, the same one, and the next run works."""
    reply, published = kernel.run(programs.syntax_error)
    error = only(published, "error")
    assert reply.content["status"] == "error"
    assert error["ename"]
    assert {key: reply.content[key] for key in ("ename", "evalue", "traceback")} == error
    assert texts(published, "stderr") == ""  # it is not told twice
    reply, published = kernel.run(programs.hello)
    assert reply.content["status"] == "ok"
    assert texts(published, "stdout") == "hello\n"


# ---------------------------------------------------------------- rich output


def check_display(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """What a program displays comes with its type."""
    _, published = kernel.run(programs.display)
    content = only(published, "display_data")
    assert "text/html" in content["data"]
    assert content["metadata"] == {}


def check_update_display(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """What was displayed is updated under the same id."""
    _, published = kernel.run(programs.update_display)
    shown, updated = only(published, "display_data"), only(published, "update_display_data")
    assert shown["transient"]["display_id"] == updated["transient"]["display_id"]
    assert shown["data"] != updated["data"]


def check_result(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """The value of a last expression is the run's result, with the run's number."""
    reply, published = kernel.run(programs.expression)
    content = only(published, "execute_result")
    assert content["data"]["text/plain"] == "42"
    assert content["execution_count"] == reply.content["execution_count"]


def check_rich_result(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """A value that has a richer form than text is sent in both."""
    _, published = kernel.run(programs.rich_expression)
    data = only(published, "execute_result")["data"]
    assert {"text/plain", "text/html"} <= data.keys()


# ---------------------------------------------------------------- the rest of the protocol


def check_input(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """A program that asks for a line gets it from the client."""
    request_id = kernel.client.execute(programs.ask, allow_stdin=True)
    request = kernel.answer_input("Ada")
    assert (request["prompt"], request["password"]) == ("name? ", False)
    assert kernel.receive_reply("shell", request_id).content["status"] == "ok"
    assert "Ada\n" in texts(kernel.receive_published(request_id), "stdout")


def check_comms(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """A comm to a target that nobody has is closed by the kernel, which goes on."""
    content = {"comm_id": "c1", "target_name": "nobody", "data": {}}
    published = kernel.receive_published(kernel.send("shell", "comm_open", content))
    assert only(published, "comm_close")["comm_id"] == "c1"
    for kind in ("comm_msg", "comm_close"):
        kernel.receive_published(kernel.send("shell", kind, {"comm_id": "c1", "data": {}}))
    _, published = kernel.run(programs.hello)
    assert texts(published, "stdout") == "hello\n"


def check_interrupt_reply(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """An interrupt while nothing runs is answered, and hurts no later run."""
    reply = kernel.request("interrupt_request", {}, channel="control")
    assert (reply.kind, reply.content["status"]) == ("interrupt_reply", "ok")
    _, published = kernel.run(programs.hello)
    assert texts(published, "stdout") == "hello\n"


def check_interrupt(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """A message interrupts a program that runs."""
    request_id = kernel.client.execute(programs.sleep)
    kernel.receive_published_until("execute_input", request_id)  # it begins now
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        kernel.request("interrupt_request", {}, channel="control")
        try:
            reply = _to_message(kernel.client.get_shell_msg(timeout=1))
        except Empty:
            continue
        assert (reply.parent_id, reply.content["status"]) == (request_id, "error")
        return
    raise AssertionError("the program was not interrupted")


def check_count(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """Each run has the number after that of the run before it."""
    counts = [kernel.run(programs.assign)[0].content["execution_count"] for _ in range(3)]
    assert counts == list(range(counts[0], counts[0] + 3))


def check_parents(kernel: JupyterKernel, programs: JupyterPrograms) -> None:
    """All that is published and answered names its request, also for requests that run nothing."""
    reply, published = kernel.run(programs.hello)
    assert {message.parent_id for message in published} == {reply.parent_id}
    for channel, kind in (("shell", "kernel_info_request"), ("control", "interrupt_request")):
        request_id = kernel.send(channel, kind, {})
        kinds = [message.kind for message in kernel.receive_published(request_id)]
        assert kinds == ["status", "status"], kind
        kernel.receive_reply(channel, request_id)


def check_shutdown(kernel: JupyterKernel, _: JupyterPrograms) -> None:
    """Asked to end, the kernel says so, and its process ends by itself; comes last."""
    reply = kernel.request("shutdown_request", {"restart": False}, channel="control")
    assert reply.kind == "shutdown_reply"
    assert reply.content == {"status": "ok", "restart": False}
    end = time.monotonic() + TIMEOUT
    while kernel.manager.is_alive():
        assert time.monotonic() < end, "the process is still there"
        time.sleep(0.05)


Check = Callable[[JupyterKernel, JupyterPrograms], None]
CHECKS: dict[str, Check] = {
    "heartbeat": check_heartbeat,
    "info": check_info,
    "language": check_language,
    "protocol version": check_protocol_version,
    "stdout": check_stdout,
    "stderr": check_stderr,
    "reply": check_reply,
    "status": check_status,
    "execute_input": check_execute_input,
    "complete": check_complete,
    "inspect": check_inspect,
    "is_complete: complete": check_code_is_complete,
    "is_complete: incomplete": check_code_is_incomplete,
    "history": check_history,
    "comm_info": check_comm_info,
    "error": check_error,
    "display": check_display,
    "update_display": check_update_display,
    "result": check_result,
    "rich result": check_rich_result,
    "input": check_input,
    "comms": check_comms,
    "interrupt reply": check_interrupt_reply,
    "interrupt": check_interrupt,
    "count": check_count,
    "parents": check_parents,
    "shutdown": check_shutdown,  # the last one
}
