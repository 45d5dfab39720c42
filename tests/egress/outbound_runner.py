"""Tries what sessions reach of a small internet, by packets and by the proxy, and prints it.

`python -m tests.egress.outbound_runner` as root; one line of JSON for each group of results.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.client import Client, SessionClient
from tests.egress import outbound_attacks
from tests.egress import small_internet as net
from tests.egress.outbound_code import CODE
from tests.server_process import Launcher, temporary_launcher
from tests.waiting import wait_until

PACKET_WAYS = ("tcp", "udp", "tcp_bound", "udp_to_interface")
ADDRESSES = {
    "public": net.PUBLIC,
    "public, IPv6": net.PUBLIC6,
    "private": net.PRIVATE,
    "private, IPv6": net.PRIVATE6,
    "metadata": net.METADATA,
    "metadata, IPv6": net.METADATA6,
    "the host": net.HOST,
    "the host, IPv6": net.HOST6,
    "the host's public address": net.HOST_PUBLIC,
    "the host's public address, IPv6": net.HOST_PUBLIC6,
    "the router": net.ROUTER,
    "the gateway of the device": "198.51.100.1",
    "the resolver of the device": "198.51.100.3",
    "the gateway of the device, IPv6": "2001:db8:6572:61::1",
    "mapped": f"::ffff:{net.PRIVATE}",
    "broadcast": "255.255.255.255",
    "multicast": "224.0.0.251",
    "multicast, IPv6": "ff02::1",
    **net.OTHERS,
}
NAMES = {
    "a public name": "world.example",
    "a public name, IPv6": "world6.example",
    "a private name": "private.example",
    "a name of the metadata": "metadata.example",
    "a name of the host": "host.example",
}
ROOT = Path(__file__).parents[2]
NOBODY = 65534
SYSTEM_PYTHON = "/usr/bin/python3"  # that other users can execute
Results = dict[str, Any]


def try_all(session: SessionClient) -> Results:
    """Returns what each way told about each target."""
    asked = [
        (way, kind, address)
        for way in (*PACKET_WAYS, "proxy")
        for kind, address in ADDRESSES.items()
    ]
    asked += [(way, kind, name) for way in ("by_name", "proxy") for kind, name in NAMES.items()]
    answers = attempt(session, [(way, target) for way, _, target in asked])
    return {f"{way}: {kind}": answer for (way, kind, _), answer in zip(asked, answers, strict=True)}


def attempt(session: SessionClient, asked: list[tuple[str, str]]) -> list[str]:
    result = session.run(f"attempts({asked!r})", timeout=120)
    assert result["exit_code"] == 0, result
    answers: list[str] = json.loads(result["stdout"])
    return answers


def patch(session: SessionClient, **changes: Any) -> Results:
    answer = session.http.patch(session.path, json=changes)
    assert answer.status_code == 200, answer.text
    shown: Results = answer.json()["metadata"]
    return shown


def open_session(client: Client, **more: Any) -> SessionClient:
    session = client.session("python", **more)
    assert session.run(CODE)["exit_code"] == 0
    return session


def find_pasta(server_pid: int) -> list[psutil.Process]:
    """Returns the processes of pasta that a server's zygote has started."""
    found = []
    for one in psutil.Process(server_pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if "passt" in one.name() or "pasta" in one.name():
                found.append(one)
    return found


def walls_of(pasta: psutil.Process) -> Results:
    """Returns what pasta may, as Linux tells it."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pasta.pid}/status").read_text().splitlines()
    )
    words = ("Uid", "CapEff", "NSpid", "NoNewPrivs", "Seccomp")
    return {
        **{word: fields[word].split() for word in words},
        "files": sorted(one.name for one in Path(f"/proc/{pasta.pid}/root").iterdir()),
        "own user namespace": Path(f"/proc/{pasta.pid}/ns/user").readlink()
        != Path("/proc/self/ns/user").readlink(),
        "listening": sorted(
            one.laddr.port for one in pasta.net_connections() if one.status == "LISTEN"
        ),
        "RSS": pasta.memory_info().rss,
    }


def try_switching(client: Client, pid: int) -> None:
    session = open_session(client)
    report("off", try_all(session))
    began = time.monotonic()
    shown = patch(session, allowInternetAccess=True)
    report("switched on", {"seconds": time.monotonic() - began, **shown["isolation"]})
    (pasta,) = find_pasta(pid)
    report("walls", walls_of(pasta))
    report("on", try_all(session))
    answers = attempt(session, [("by_name", "rebinding.example")] * 1)
    answers += attempt(session, [("by_name", "rebinding.example")] * 1)
    report("rebinding", {"answers": answers})
    net.add_address("45.33.32.77")
    reached = wait_until(lambda: attempt(session, [("tcp", "45.33.32.77")]) != ["host"], 5)
    report("a new address of the host", {"refused": reached})
    session.run(f"held = hold('{net.PUBLIC}')[0]; by_proxy = hold_by_proxy('{net.PUBLIC}')[0]")
    patch(session, allowInternetAccess=False)
    ends = session.run("print(json.dumps([wait_for_end(held), wait_for_end(by_proxy)]))")
    report("established", {"ends": json.loads(ends["stdout"]), "pasta": len(find_pasta(pid))})
    report("off again", try_all(session))
    net.add_address("45.33.32.78")
    patch(session, allowInternetAccess=True)
    answers = attempt(session, [(way, "45.33.32.78") for way in PACKET_WAYS])
    report("an address of the host that came while it was off", {"answers": answers})
    few = patch(session, allow_hosts=["world.example"])
    asked = [("tcp", net.PUBLIC), ("by_name", "world.example"), ("proxy", "world.example"),
             ("proxy", net.PUBLIC)]  # fmt: skip
    report("allow_hosts", {"answers": attempt(session, asked), "pasta": len(find_pasta(pid)),
                           "missing": few["isolation"]["missing"]})  # fmt: skip
    patch(session, allow_hosts=None)
    report("all hosts again", {"answers": attempt(session, asked)})
    session.delete()
    report("deleted", {"pasta": len(find_pasta(pid))})


def try_attacks(client: Client, pid: int) -> None:
    session = open_session(client, allowInternetAccess=True)
    mine = find_pasta(pid)[0]
    other = open_session(client, allowInternetAccess=True)
    other.run(
        "listener = socket.create_server(('', 9999))\n"
        "threading.Thread(target=lambda: [listener.accept()[0].send(b'other')]).start()"
    )
    host = {
        "gateway": "198.51.100.1", "address": "198.51.100.2", "resolver": "198.51.100.3",
        "server": int(client.base_url.rpartition(":")[2]), "other": 9999, "pasta": mine.pid,
        "host": net.HOST, "host6": net.HOST_PUBLIC6, "private": net.PRIVATE, "public": net.PUBLIC,
    }  # fmt: skip
    code = Path(outbound_attacks.__file__).read_text("utf-8")
    result = session.run(f"{code}\nimport json\nprint(json.dumps(run({host!r})))", timeout=120)
    assert result["exit_code"] == 0, result
    report("attacks", {"rows": json.loads(result["stdout"]), "pasta lives": mine.is_running()})
    session.delete()
    other.delete()


def try_deaths(client: Client, pid: int) -> None:
    """Kills pasta, its keeper and the session's init, and looks what comes of it."""
    session = open_session(client, allowInternetAccess=True)
    other = open_session(client, allowInternetAccess=True)
    kept = {one.pid for one in find_pasta(pid)}
    session.run(f"held = hold('{net.PUBLIC}')[0]")
    for victim in ("pasta", "keeper"):
        before = find_pasta(pid)
        mine = next(one for one in before if _serves(one, session, pid))
        killed = mine if victim == "pasta" else mine.parent()
        assert killed is not None
        killed.send_signal(signal.SIGKILL)
        gone = wait_until(lambda: mine.pid not in psutil.pids())  # noqa: B023 - called at once
        again = wait_until(lambda: attempt(session, [("tcp", net.PUBLIC)]) == ["world"])
        ends = session.run("print(json.dumps(wait_for_end(held)))")["stdout"]
        session.run(f"held = hold('{net.PUBLIC}')[0]")
        report(f"{victim} killed", {"gone": gone, "again": again, "end": json.loads(ends)})
    net.add_address("45.33.32.79")  # the filter is not that of the keeper that was killed
    refused = wait_until(lambda: attempt(session, [("tcp", "45.33.32.79")]) != ["host"], 5)
    report("an address after the keeper's death", {"refused": refused})
    session.delete()
    left = [one.pid for one in find_pasta(pid)]
    report("one of two deleted", {"left": len(left), "is the other's": left[0] in kept})
    other.run("import os; os._exit(1)")
    report("kernel ended", {"pasta": wait_until(lambda: not find_pasta(pid))})


def _serves(pasta: psutil.Process, session: SessionClient, pid: int) -> bool:
    """Returns whether a pasta is that of a session: both are in the same control group."""
    shown = session.run("import os; print(os.readlink('/proc/self/ns/net'))")["stdout"].strip()
    parent = pasta.parent()  # the keeper is in the session's network
    return parent is not None and str(Path(f"/proc/{parent.pid}/ns/net").readlink()) == shown


def try_exceptions(launcher: Launcher) -> None:
    server = launcher.start("--egress-allow-cidrs", f"{net.PRIVATE}/32,{net.PRIVATE6}/128")
    client = Client(server.base_url)
    session = open_session(client, allowInternetAccess=True)
    targets = (net.PRIVATE, net.PRIVATE6, "10.9.0.1", net.METADATA, net.PUBLIC)
    asked = [(way, one) for way in ("tcp", "proxy") for one in targets]
    report("exceptions", {"answers": attempt(session, asked)})
    pid = server.process.pid
    (pasta,) = find_pasta(pid)
    server.kill()
    report("server killed", {"gone": wait_until(lambda: not psutil.pid_exists(pasta.pid))})
    server = launcher.start()
    client = Client(server.base_url)
    session = client.session("python")
    shown = session.get()["isolation"]["missing"]
    stored = session.run("print(1)")["exit_code"]
    server.stop()
    report("a next server", {"missing": shown, "exit_code": stored})


def try_ordinary_user() -> None:
    """Does the same with the sandboxes of a user who is not root, in short."""
    net.open_tunnels_to_all()
    targets = (net.PUBLIC, net.PUBLIC6, net.PRIVATE, net.HOST, net.HOST_PUBLIC6)
    asked = [(way, one) for way in PACKET_WAYS for one in targets] + [("by_name", "world.example")]
    done = subprocess.run(
        [SYSTEM_PYTHON, "-m", "tests.egress.ordinary_user", json.dumps(asked)],
        env={"PYTHONPATH": str(ROOT), "PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/", capture_output=True, text=True, timeout=100, check=False,
        user=NOBODY, group=NOBODY, extra_groups=[],
    )  # fmt: skip
    found = json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr}
    answers = dict(zip([f"{way}: {one}" for way, one in asked], found.get("on", ()), strict=False))
    report("ordinary user", {**found, "on": answers})


def report(name: str, results: Results) -> None:
    print(json.dumps({"name": name, "results": results}), flush=True)


def main() -> None:
    world = net.make()
    socket.setdefaulttimeout(60)
    with temporary_launcher() as launcher:
        server = launcher.start()
        client = Client(server.base_url)
        report("health", client.http.get("/health").json())
        try_switching(client, server.process.pid)
        try_attacks(client, server.process.pid)
        try_deaths(client, server.process.pid)
        server.stop()
        try_exceptions(launcher)
    try_ordinary_user()
    assert world.stdin is not None
    world.stdin.close()
    world.wait(10)


if __name__ == "__main__":
    main()
