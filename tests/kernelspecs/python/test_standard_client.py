"""The Python kernelspec is one that any Jupyter client can use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from era_kernels.kernels.languages import builtin_dir


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlockingKernelClient]:
    """A client of the kernel, started by jupyter_client as its kernelspec says."""
    # Under another name: `python` is ipykernel's own to jupyter_client.
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "era").symlink_to(builtin_dir() / "python")
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    specs = KernelSpecManager(kernel_dirs=[str(tmp_path / "specs")], ensure_native_kernel=False)
    manager = KernelManager(kernel_name="era", kernel_spec_manager=specs, transport="ipc")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=30)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.context.destroy(0)


def run(
    kernel: BlockingKernelClient, code: str, **options: Any
) -> tuple[dict[str, Any], list[Any]]:
    """The reply to a run, and what was heard on iopub."""
    heard: list[Any] = []

    def hear(message: dict[str, Any]) -> None:
        heard.append((message["msg_type"], message["content"]))

    reply = kernel.execute_interactive(code, output_hook=hear, timeout=20, **options)
    return reply["content"], heard


def test_standard_client(kernel: BlockingKernelClient) -> None:
    """Runs, results, errors, input, completion and inspection work as in the specification."""
    reply, heard = run(kernel, "print('hi')\n1 + 1")
    assert (reply["status"], reply["execution_count"]) == ("ok", 1)
    assert [kind for kind, _ in heard] == [
        "status",
        "execute_input",
        "stream",
        "execute_result",
        "status",
    ]
    assert heard[2][1] == {"name": "stdout", "text": "hi\n"}
    assert heard[3][1]["data"] == {"text/plain": "2"}
    reply, _ = run(kernel, "1 / 0")
    assert (reply["status"], reply["ename"]) == ("error", "ZeroDivisionError")
    _, heard = run(kernel, "print(input('name? '))", stdin_hook=lambda _: kernel.input("Bob"))
    assert ("stream", {"name": "stdout", "text": "Bob\n"}) in heard
    assert kernel.complete("impor", reply=True, timeout=20)["content"]["matches"] == ["import"]
    assert kernel.inspect("print", reply=True, timeout=20)["content"]["found"]
    assert not [file for file in Path.cwd().iterdir() if not file.name.startswith("kernel-ipc-")]


def test_orderly_end(kernel: BlockingKernelClient) -> None:
    """Asked to end, the kernel calls what the program registered for that, and is heard."""
    run(kernel, "import atexit\natexit.register(print, 'bye');")
    kernel.shutdown()
    while True:
        message = kernel.get_iopub_msg(timeout=20)
        if message["msg_type"] == "stream":
            assert message["content"]["text"] == "bye\n"
            return
