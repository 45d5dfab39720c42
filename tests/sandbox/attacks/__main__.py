"""Runs every attack in isolated sandboxes; prints one line of JSON each.

`python -m tests.sandbox.attacks TIER [ATTACK …]`, as whatever user; needs nothing but the standard
library. With names, only these are run (of those that share a sandbox, all of its module). After
the tier, `private` puts the server's data where only its user may go.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from era_kernels.models import Limits, SessionListener, SessionPaths
from era_kernels.sandbox.server.process_spec import ProcessSpec
from era_kernels.sandbox.server.process_tree import Family, read_stat
from era_kernels.sandbox.server.sandbox import Sandbox
from era_kernels.sandbox.server.sandboxes import Sandboxes
from era_kernels.sandbox.server.server_listeners import ChannelListeners
from era_kernels.sandbox.server.tiers import IsolationPolicy
from tests.waiting import until

HERE = Path(__file__).parent
SHARED_MODULES = ("files", "network", "processes", "influence", "kernel", "neighbours")
END_MODULE = "ends"  # each in a sandbox of its own, whose end is looked at
END_SECONDS = 3.0  # seconds in which everything must be gone
SEPARATE_MODULE = "resources"  # one sandbox for each attack: some end it
SEPARATE_ATTACK = "signal_everybody"  # in a sandbox of its own, too, and the neighbour tells
STORAGE_PORT = 61787
MIB = 1024 * 1024
MOUNT = "offered"  # the directory that the operator offers
TOKEN = "era-test-token-0123456789"
BOUNDS = {
    "memory": 256 * MIB, "processes": 40, "open_files": 128, "file_size": 16 * MIB,
    "workspace": 64 * MIB, "tmp": 8 * MIB, "shm": 8 * MIB,
}  # fmt: skip
ENV = {"PATH": os.defpath, "LANG": "C.UTF-8"}
NEIGHBOUR = """
import os, signal, socket, time
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"reached\\n"))
open("secret", "w").write("of the neighbour")
end = socket.socket(socket.AF_UNIX); end.bind("k-1"); end.listen()
os.chmod("k-1", 0o777)
name = b"neighbour-%d" % os.getpid()
hidden = socket.socket(socket.AF_UNIX); hidden.bind(b"\\0" + name); hidden.listen()
os.write(1, name + b"\\n")
open(os.environ["TMPDIR"] + "/neighbours", "w").close()
try:
    port = socket.create_server(("127.0.0.1", 29787))  # the first of a kernel that speaks tcp
except OSError:  # without such sockets
    pass
os.write(1, b"ready\\n")
while True:
    time.sleep(600)
"""


def attacks_of(module: ModuleType) -> dict[str, Callable[[dict[str, Any]], object]]:
    """The attacks of a module, in the order in which they stand there."""
    return {
        name: function
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and not name.startswith("_")
    }


def load(name: str) -> ModuleType:
    return importlib.import_module(f"tests.sandbox.attacks.{name}")


def attacks() -> dict[str, str]:
    """Every attack's name and its sentence."""
    modules = [load(name) for name in (*SHARED_MODULES, SEPARATE_MODULE, END_MODULE)]
    return {n: (f.__doc__ or "").strip() for m in modules for n, f in attacks_of(m).items()}


async def main(tier: int, names: Collection[str], *, is_private: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="era-", dir="/tmp") as name:
        base = Path(name)
        if os.geteuid() == 0 and not is_private:
            base.chmod(0o711)  # else sessions get CAP_DAC_READ_SEARCH in tier 3
        with host_targets(base) as host:
            wish = IsolationPolicy(
                strongest_tier=tier,
                weakest_tier=tier,
                allow_weak_tier3=True,
                hidden_paths=(base / "data",),
            )
            sandboxes = await Sandboxes.open(base / "r", (), (), wish)
            try:
                profile = sandboxes.profile
                tier_line = {
                    "walls": profile.spec.kind,
                    "tier": profile.tier,
                    "shares_uid": profile.shares_uid,
                    "reads_past_modes": profile.spec.reads_past_modes,
                }
                print(json.dumps(tier_line), flush=True)
                await run_all(sandboxes, base, host, names or attacks())
            finally:
                await sandboxes.aclose()


async def run_all(
    sandboxes: Sandboxes, base: Path, host: dict[str, Any], names: Collection[str]
) -> None:
    neighbour = await open_sandbox(sandboxes, base / "n")
    victim = await neighbour.spawn(program(neighbour, NEIGHBOUR))
    await until(lambda: b"ready" in victim.stdout.tail())
    listener = await neighbour.listen(STORAGE_PORT)
    channels = listen_for_kernel(neighbour)
    waiting = asyncio.create_task(channels.accept("iopub"))  # a kernel that is about to start
    neighbour.ended.add_done_callback(lambda _: (waiting.cancel(), channels.close()))
    threading.Thread(target=answer_session, args=(listener,), daemon=True).start()
    pid = neighbour.pid if sandboxes.profile.spec.has_namespaces else victim.pid
    host |= {
        "neighbour": str(base / "n" / "w" / "secret"),
        "neighbour_socket": str(base / "n" / "w" / "k-1"),
        "neighbour_pid": pid,
        "neighbour_channel": str(channel_path(neighbour)),
        "neighbour_runtime": str(neighbour.runtime_directory),
        "neighbour_abstract": victim.stdout.tail().split()[0].decode(),
        "neighbour_variable": ENV["LANG"],
        "neighbour_storage": listener.socket.getsockname(),
        "mount": "/mnt/data",
        "neighbour_cmdline": Path(f"/proc/{pid}/cmdline").read_text(),
    }
    for module in SHARED_MODULES:
        if not attacks_of(load(module)).keys().isdisjoint(names):
            await run_attacks(sandboxes, base / module, module, None, host)
    if SEPARATE_ATTACK in names:
        await run_attacks(sandboxes, base / "everybody", "processes", SEPARATE_ATTACK, host)
        reached = b"reached" in victim.stdout.tail() or not victim.is_running
        print(json.dumps({"attack": SEPARATE_ATTACK, "through": reached, "by": "nobody heard"}))
    for attack in attacks_of(load(SEPARATE_MODULE)):
        if attack in names:
            await run_attacks(sandboxes, base / attack, SEPARATE_MODULE, attack, host)
    for attack in attacks_of(load(END_MODULE)):
        if attack in names:
            await run_end(sandboxes, base / attack, attack)


def channel_path(sandbox: Sandbox) -> Path:
    return Path(f"{sandbox.runtime_directory}.k-2")


def listen_for_kernel(sandbox: Sandbox) -> ChannelListeners:
    """Where the server waits for the kernel of a session, as it does in tier 3."""
    owner = sandbox.runtime_directory.stat()
    gid = None if owner.st_uid == os.geteuid() else owner.st_gid
    return ChannelListeners({"iopub": channel_path(sandbox)}, gid, sandbox.pid or 0)


async def open_sandbox(sandboxes: Sandboxes, directory: Path) -> Sandbox:
    mounts = (("data", directory.parent / MOUNT),) if sandboxes.profile.spec.has_namespaces else ()
    paths = SessionPaths(directory / "w", directory / "p", directory / "c", mounts=mounts)
    for part in (paths.workspace, paths.packages, paths.cache):
        part.mkdir(0o700, parents=True)
    return await sandboxes.open_sandbox(paths, Limits(**BOUNDS))


async def run_attacks(
    sandboxes: Sandboxes, directory: Path, module: str, attack: str | None, host: dict[str, Any]
) -> None:
    """The attacks of a module (or one of them) in sandboxes of their own."""
    sandbox = await open_sandbox(sandboxes, directory)
    host = {**host, "init": 1 if sandboxes.profile.spec.has_namespaces else sandbox.pid}
    names_of = f"{{{attack!r}: {attack}}}" if attack else "attacks"
    code = (
        source(module)
        + "attacks = {n: f for n, f in list(globals().items()) if callable(f)"
        + " and getattr(f, '__module__', '') == '__main__' and n[0] != '_'"
        + f" and n != {SEPARATE_ATTACK!r}}}\n"
        + f"chosen = {names_of}\n"
        + source("attack_runner").partition('if __name__ == "__main__"')[0]
        + f"import json\nmain(chosen, json.loads({json.dumps(host)!r}))\n"
    )
    try:
        process = await sandbox.spawn(program(sandbox, code))
        ending = await asyncio.wait_for(process.ended, 300)
        text = process.stdout.tail().decode()
        if attack == SEPARATE_ATTACK:
            return
        print(text, end="", flush=True)
        if attack and not text:
            by = ending.reason or ending.description
            print(json.dumps({"attack": attack, "through": False, "by": by}), flush=True)
        elif ending.code != 0:
            print(process.stderr.tail().decode(), file=sys.stderr)
    finally:
        await sandbox.aclose()


async def run_end(sandboxes: Sandboxes, directory: Path, attack: str) -> None:
    """Runs one attack on the end of its sandbox: what it left must be gone, in time.

    The zygote is a subreaper, so that whatever lost its parents is still found below it.
    """
    zygote = read_stat(sandboxes.zygote.pid)
    assert zygote is not None
    before = Family(zygote).find()
    sandbox = await open_sandbox(sandboxes, directory)
    init = 1 if sandboxes.profile.spec.has_namespaces else sandbox.pid
    ready = "os.write(1, b'ready'); time.sleep(SECONDS)"
    code = f"{source(END_MODULE)}\n{attack}({{'init': {init}}})\n{ready}\n"
    process = await sandbox.spawn(program(sandbox, code))
    await until(lambda: not process.is_running or b"ready" in process.stdout.tail())
    await asyncio.sleep(0.2)
    began = time.monotonic()
    await sandbox.aclose("session deleted")
    seconds = time.monotonic() - began
    left = Family(zygote).find() - before
    words = process.stderr.tail().decode()
    through = bool(left) or seconds > END_SECONDS or bool(words)
    by = f"{len(left)} left after {seconds:.2f} s {words}" if through else "ended from outside"
    print(f"{attack}: {seconds:.3f} s", file=sys.stderr)
    print(json.dumps({"attack": attack, "through": through, "by": by}), flush=True)


def source(module: str) -> str:
    return (HERE / f"{module}.py").read_text().replace("from __future__ import annotations", "")


def program(sandbox: Sandbox, code: str) -> ProcessSpec:
    env = {**ENV, "TMPDIR": str(sandbox.inner_paths.temporary)}
    return ProcessSpec(
        argv=(sys.executable, "-c", code), env=env, cwd=str(sandbox.inner_paths.workspace)
    )


@contextlib.contextmanager
def host_targets(base: Path) -> Iterator[dict[str, Any]]:
    """What the host has that must not be reached."""
    os.environ["ERA_API_TOKENS"] = TOKEN
    (base / "data").mkdir()
    secret = base / "data" / "era.db"
    secret.write_text(f"the server's, with {TOKEN}")
    (base / MOUNT).mkdir()
    (base / MOUNT / "rows").write_text("of the operator")
    for path in (base / MOUNT, base / MOUNT / "rows"):
        path.chmod(0o777)  # nothing but the mount keeps code from writing
    name = base.name
    shared = [Path("/tmp", f"{name}.txt"), Path("/dev/shm", f"{name}.txt")]
    for path in shared:
        path.write_text("shared")
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind("\0" + name)
        path_socket = stack.enter_context(socket.socket(socket.AF_UNIX))
        path_socket.bind(f"/tmp/{name}.sock")
        Path(f"/tmp/{name}.sock").chmod(0o777)
        private_socket = stack.enter_context(socket.socket(socket.AF_UNIX))
        private_socket.bind(f"/tmp/{name}.private")
        Path(f"/tmp/{name}.private").chmod(0o600)
        for listener in (abstract, path_socket, private_socket):
            listener.listen()
        for listener in (tcp, abstract, path_socket, private_socket):
            threading.Thread(target=answer, args=(listener,), daemon=True).start()
        threading.Thread(target=echo, args=(udp,), daemon=True).start()
        yield {
            **BOUNDS,
            "secret": str(secret), "token": TOKEN, "server": os.getpid(), "address": id(TOKEN),
            "server_cmdline": Path("/proc/self/cmdline").read_text(),
            "tcp": tcp.getsockname()[1], "udp": udp.getsockname()[1],
            "abstract": name, "path_socket": f"/tmp/{name}.sock",
            "private_socket": f"/tmp/{name}.private",
            "network": str(Path("/proc/self/ns/net").readlink()),
            "in_tmp": [f"{name}.txt", f"{name}.sock", "neighbours"], "in_shm": [f"{name}.txt"],
            "shm_id": -1, "shm_device": Path("/dev/shm").stat().st_dev,
        }  # fmt: skip
    for path in (*shared, Path(f"/tmp/{name}.sock"), Path(f"/tmp/{name}.private")):
        path.unlink()


def answer(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            end, _ = listener.accept()
            end.send(b"hello back")
            end.close()


def answer_session(listener: SessionListener) -> None:
    """Answers as the server does: only where the session itself has connected."""
    listener.socket.setblocking(True)
    with contextlib.suppress(OSError):
        while True:
            end, _ = listener.socket.accept()
            if listener.is_from_session is None or listener.is_from_session(end):
                end.send(b"hello back")
            end.close()


def echo(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            _, address = end.recvfrom(64)
            end.sendto(b"hello back", address)


if __name__ == "__main__":
    names = [name for name in sys.argv[2:] if name != "private"]
    asyncio.run(main(int(sys.argv[1]), names, is_private="private" in sys.argv[2:]))
