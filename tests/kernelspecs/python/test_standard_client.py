"""The Python kernelspec is one that any Jupyter client can use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient


def run(
    kernel: BlockingKernelClient, code: str, **options: Any
) -> tuple[dict[str, Any], list[Any]]:
    """The reply to a run, and the messages on iopub."""
    messages: list[Any] = []

    def receive(message: dict[str, Any]) -> None:
        messages.append((message["msg_type"], message["content"]))

    reply = kernel.execute_interactive(code, output_hook=receive, timeout=20, **options)
    return reply["content"], messages


def test_standard_client(kernel: BlockingKernelClient) -> None:
    """Runs, results, errors, input, completion and inspection work as in the specification."""
    reply, messages = run(kernel, "print('hi')\n1 + 1")
    assert (reply["status"], reply["execution_count"]) == ("ok", 1)
    assert [kind for kind, _ in messages] == [
        "status",
        "execute_input",
        "stream",
        "execute_result",
        "status",
    ]
    assert messages[2][1] == {"name": "stdout", "text": "hi\n"}
    assert messages[3][1]["data"] == {"text/plain": "2"}
    reply, _ = run(kernel, "1 / 0")
    assert (reply["status"], reply["ename"]) == ("error", "ZeroDivisionError")
    _, messages = run(kernel, "print(input('name? '))", stdin_hook=lambda _: kernel.input("Bob"))
    assert ("stream", {"name": "stdout", "text": "Bob\n"}) in messages
    assert kernel.complete("impor", reply=True, timeout=20)["content"]["matches"] == ["import"]
    assert kernel.inspect("print", reply=True, timeout=20)["content"]["found"]
    assert not [file for file in Path.cwd().iterdir() if not file.name.startswith("kernel-ipc-")]


def test_orderly_end(kernel: BlockingKernelClient) -> None:
    """Asked to end, the kernel calls what the program registered for that, and sends its output."""
    run(kernel, "import atexit\natexit.register(print, 'bye');")
    kernel.shutdown()
    while True:
        message = kernel.get_iopub_msg(timeout=20)
        if message["msg_type"] == "stream":
            assert message["content"]["text"] == "bye\n"
            return
