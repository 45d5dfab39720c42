"""A server and an installer on the same directory of toolchains."""

from __future__ import annotations

import json
import shutil
import time

import httpx
import pytest

from era_kernels.kernels.languages import REFRESH_INTERVAL
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
    server = launcher.start("--strongest-tier", tier, "--min-tier", "3", env=env)
    client = httpx.Client(base_url=server.base_url, timeout=30)
    assert "run `era-kernels install alpha`" in client.get("/api/languages").text
    place.install("alpha")
    root = place.directory("alpha")
    code = CODE.format(path=str(root / "made"), lock=str(root.parent / "lock"))
    answer = client.post("/api/execute", json={"language": "python", "code": code}).json()
    client.close()
    assert answer["stderr"] == ""
    shown = answer["stdout"].splitlines()
    # Without namespaces root's sessions may have to read what only root may, so that locks open.
    assert shown in [["it is there", *["refused"] * n] for n in ({2} if tier == "1" else {1, 2})]


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


def test_what_is_removed_is_told(place: Place, launcher: Launcher) -> None:
    """A server says of a language whose toolchain was removed that it is not installed.

    When it is installed again, it is there without a restart; the log tells both.
    """
    _, env = place.command()
    place.add("alpha", place.add_wheel("alpha"))
    place.install("alpha")
    server = launcher.start(env=env)
    with httpx.Client(base_url=server.base_url, timeout=30) as client:
        assert client.get("/health").json()["languages"]["alpha"] is True
        shutil.rmtree(place.toolchains / "alpha")
        time.sleep(REFRESH_INTERVAL)
        assert client.get("/health").json()["languages"]["alpha"] is False
        answer = client.post("/api/execute", json={"language": "alpha", "code": ""}).json()
        assert answer["code"] == "LANGUAGE_UNAVAILABLE"
        assert "run `era-kernels install alpha`" in answer["message"]
        place.install("alpha")
        time.sleep(REFRESH_INTERVAL)
        (alpha,) = (
            one
            for one in client.get("/api/languages").json()["languages"]
            if one["name"] == "alpha"
        )
        assert (alpha["available"], alpha["version"]) == (True, "1.2.3")
    entries = [json.loads(line) for line in server.log_text.splitlines()]
    told = [entry["message"] for entry in entries if entry.get("kernel") == "alpha"]
    assert told == ["a kernel cannot run", "a kernel can run now"]
