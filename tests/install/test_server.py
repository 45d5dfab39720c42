"""A server and an installer on the same directory of toolchains."""

from __future__ import annotations

import httpx
import pytest

from tests.install.places import Place, step
from tests.install.test_install import BUILD
from tests.server_process import Launcher

CODE = """
import os
print(open({path!r}).read(), end="")
for try_it in (lambda: open({path!r}, "w"), lambda: os.open({lock!r}, os.O_RDONLY)):
    try:
        try_it()
    except OSError:
        print("refused")
"""


@pytest.mark.parametrize("tier", ["1", "3"])
def test_sessions_read_what_comes_later(place: Place, launcher: Launcher, tier: str) -> None:
    """What is installed while a server runs can be read in sessions, not changed nor locked."""
    _, env = place.command()
    place.add("alpha", step("made", "echo it is there > made", "made") + BUILD)
    server = launcher.start("--strongest-tier", tier, env=env)
    client = httpx.Client(base_url=server.base_url, timeout=30)
    assert "run `era-kernels install alpha`" in client.get("/api/languages").text
    place.install("alpha")
    root = place.directory("alpha")
    code = CODE.format(path=str(root / "made"), lock=str(root.parent / "lock"))
    answer = client.post("/api/execute", json={"language": "python", "code": code}).json()
    client.close()
    assert (answer["stdout"], answer["stderr"]) == ("it is there\nrefused\nrefused\n", "")


def test_a_server_keeps_what_it_uses(place: Place, launcher: Launcher) -> None:
    """An installer removes the version that a server uses only after that has ended."""
    _, env = place.command()
    place.add("alpha", BUILD)
    place.install("alpha")
    old = place.directory("alpha")
    server = launcher.start(env=env)
    place.add("alpha", BUILD + "timeout = 60\n")
    assert "stays, for a server uses it" in place.install("alpha").stderr
    assert old.exists()
    server.stop()
    place.add("alpha", BUILD + "timeout = 61\n")
    place.install("alpha")
    assert not old.exists()
