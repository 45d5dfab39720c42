"""The zygote: warm, single-threaded, and without anything of the server."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sandbox.sandboxes import (
    ENTRIES,
    count_descriptors,
    forked_program,
    new_sandbox,
    open_sandbox,
    open_sandboxes,
    run_to_end,
    shell_command,
    short_directory,
)
from tests.waiting import wait_until


async def test_what_is_preloaded_is_there_at_once() -> None:
    """Forked programs find preloaded modules imported, from the entries' directories too."""
    async with open_sandboxes(["fractions", "sandbox_entry"]) as sandboxes:
        sandbox = await new_sandbox(sandboxes)
        code = "import sys; print('fractions' in sys.modules, 'sandbox_entry' in sys.modules)"
        assert (await run_to_end(sandbox, forked_program(code)))[1] == "True True\n"


async def test_a_module_that_leaves_threads_is_not_preloaded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Threads or descriptors of an import would be missing in forks: left out, and logged."""
    bad = {
        "leaves_thread": "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
        "leaves_descriptor": "import os\nos.open('/dev/null', os.O_RDONLY)",
        "is_broken": "1 / 0",
        "exits": "raise SystemExit(3)",
        "is_good": "",
    }

    with short_directory() as directory, caplog.at_level(logging.WARNING):
        for name, text in bad.items():
            (directory / f"{name}.py").write_text(text)
        async with open_sandboxes([*bad, "not_there_at_all"], (ENTRIES, directory)) as sandboxes:
            sandbox = await new_sandbox(sandboxes)
            code = f"import sys; print(*[name for name in {list(bad)} if name in sys.modules])"
            assert (await run_to_end(sandbox, forked_program(code)))[1] == "is_good\n"
            os.kill(sandboxes.zygote.pid, signal.SIGKILL)
            await asyncio.sleep(0.1)
            assert (await run_to_end(await new_sandbox(sandboxes), forked_program(code)))[
                1
            ] == "is_good\n"
    logged = {record.__dict__.get("preload"): record for record in caplog.records}
    assert logged["leaves_thread"].__dict__["residue"] == "threads"
    assert logged["leaves_descriptor"].__dict__["residue"] == "descriptors"
    assert "ZeroDivisionError" in logged["is_broken"].__dict__["reason"]
    assert logged.keys() - {None} == {*bad, "not_there_at_all"} - {"is_good"}


async def test_the_zygote_imports_nothing_of_the_server() -> None:
    """A zygote that the server started has none of the server's libraries and packages."""
    heavy = ("asyncio", "pydantic", "era_kernels.safe_fs", "era_kernels.sandbox.server")

    with short_directory() as directory:
        # What the zygote has imported when it imports this: forks drop the project's modules.
        (directory / "zygote_modules.py").write_text("import sys\nNAMES = sorted(sys.modules)\n")
        async with open_sandboxes(["zygote_modules"], (ENTRIES, directory)) as sandboxes:
            sandbox = await new_sandbox(sandboxes)
            code = "import zygote_modules; print(*zygote_modules.NAMES)"
            _, out, err = await run_to_end(sandbox, forked_program(code))
        names = out.split()
        assert "era_kernels.sandbox.init.zygote" in names, err
        found = [one for one in names if any(f"{one}.".startswith(f"{root}.") for root in heavy)]
        assert found == []


async def test_nothing_of_the_server_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's environment is in no forked process, not even in /proc."""
    monkeypatch.setenv("ERA_API_TOKENS", "very-secret-token")
    read = "print(*[open(f'/proc/self/{name}').read() for name in ('environ', 'cmdline')])"

    async with open_sandbox() as sandbox:
        _, out, _ = await run_to_end(sandbox, forked_program(read))
        assert "-c" in out
        assert "very-secret-token" not in out
        _, out, _ = await run_to_end(sandbox, shell_command("cat /proc/$PPID/environ; env"))
        assert "very-secret-token" not in out


async def test_it_holds_nothing_but_its_socket() -> None:
    """One thread, the three standard descriptors, the control socket and the wake-up pipe."""
    async with open_sandboxes() as sandboxes:
        pid = sandboxes.zygote.pid
        for _ in range(3):
            await new_sandbox(sandboxes)
        assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
        # It closes what it handed to the last init when that runs already.
        assert await asyncio.to_thread(wait_until, lambda: count_descriptors(pid) == 3 + 1 + 2)
        assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
        assert os.getsid(pid) == pid


async def test_an_init_holds_nothing_but_its_socket() -> None:
    """No descriptor of the zygote or of other sandboxes is open in an init."""
    async with open_sandboxes() as sandboxes:
        await new_sandbox(sandboxes)
        sandbox = await new_sandbox(sandboxes)
        process = await sandbox.spawn(shell_command("sleep 600"))
        assert sandbox.pid is not None
        assert count_descriptors(sandbox.pid) == 3 + 1 + 2
        assert process.pid is not None
        assert os.getsid(process.pid) == process.pid
        await asyncio.sleep(0)


# Both processes of one init have died before either was reaped. This runs in a process of its own,
# since `_reap` kills all children.
_BOTH_DEAD = """
import os, socket
from era_kernels.sandbox.init import fd_messages
from era_kernels.sandbox.init.zygote import Zygote

def dead():
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid

server, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
zygote = Zygote(control, [])
pid_read, pid_write = os.pipe()
zygote._inits[dead()] = 7
zygote._pending_pids[pid_read] = 7
os.write(pid_write, str(dead()).encode())
zygote._reap()
control.close()
del zygote
while (received := fd_messages.receive(server)) is not None:
    print(*received[0])
"""


def test_an_init_that_dies_at_once_is_reported_once() -> None:
    """An init and its first parent may be found dead together: that is one end, not two."""
    printed = subprocess.check_output([sys.executable, "-c", _BOTH_DEAD], text=True, timeout=30)
    assert printed.split("\n") == ["init number", "gone", ""]
