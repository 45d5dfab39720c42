"""What sessions reach by packets and by the proxy, in a small internet of namespaces.

`python -m tests.egress.test_outbound` prints the table of attacks for docs/isolation.md.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from era_kernels.sandbox.server.pasta import find_problem
from tests.egress.outbound_runner import ADDRESSES, NAMES, PACKET_WAYS
from tests.egress.small_internet import PUBLIC, PUBLIC6

ROOT = Path(__file__).parents[2]
REACHED = "world"
# What may be reached while access is on: by the way, the kind of target. All else is refused.
OPEN = {
    *(f"{way}: {kind}" for way in (*PACKET_WAYS, "proxy") for kind in ("public", "public, IPv6")),
    *(f"{way}: {kind}" for way in ("by_name", "proxy") for kind in NAMES if "public" in kind),
}
ROWS = [f"{way}: {kind}" for way in (*PACKET_WAYS, "proxy") for kind in ADDRESSES]
ROWS += [f"{way}: {kind}" for way in ("by_name", "proxy") for kind in NAMES]

pytestmark = pytest.mark.timeout(300)


@cache
def run() -> subprocess.CompletedProcess[str]:
    """Runs the runner, once for all tests, also where it fails or takes too long."""
    runner = [sys.executable, "-m", "tests.egress.outbound_runner"]
    return subprocess.run(
        ["timeout", "--kill-after=20", "270", *runner],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@cache
def results() -> dict[str, dict[str, Any]]:
    """What the runner found, by the names of its groups."""
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["name"]: line["results"] for line in lines}


@pytest.fixture(autouse=True)
def _needs_pasta() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("the small internet is made by root")
    problem = find_problem()  # names /dev/net/tun, where that is what is missing
    if problem is not None:
        pytest.skip(problem)
    if shutil.which("ip") is None:
        pytest.skip("ip is not installed (apt-get install iproute2)")
    yield


def test_the_host_says_that_nothing_is_missing() -> None:
    """Where pasta works `missing` tells of no proxy that would be the only way."""
    missing = results()["health"]["isolation"]["missing"]
    assert not any("proxy" in text for text in missing)


def test_on() -> None:
    """Public addresses are reached; nothing near is, whatever the way and the notation."""
    told = {row: results()["on"][row] for row in ROWS}
    assert {row: one for row, one in told.items() if (one == REACHED) is not (row in OPEN)} == {}


@pytest.mark.parametrize("state", ["off", "off again"])
def test_off(state: str) -> None:
    """Nothing is reached before access is on, and after it was."""
    told = {row: results()[state][row] for row in ROWS}
    assert {row: one for row, one in told.items() if one == REACHED} == {}


def test_nothing_is_left_of_the_way_out() -> None:
    """Once it is switched off, each attempt fails as it did before it was on."""
    assert results()["off again"] == results()["off"]


@pytest.mark.parametrize("state", ["off", "on", "off again"])
def test_nothing_reaches_the_host(state: str) -> None:
    """No way leads to a service of the host, in whatever state."""
    assert "host" not in results()[state].values()


def test_rebinding() -> None:
    """A name that is public at first and private then leads nowhere the second time."""
    assert results()["rebinding"]["answers"] == [REACHED, "PermissionError"]


def test_new_address_of_the_host() -> None:
    """An address that the host gets while a session has access is refused soon."""
    assert results()["a new address of the host"]["refused"]
    assert results()["an address after the keeper's death"]["refused"]


def test_new_address_of_the_host_while_off() -> None:
    """One that it gets while a session has no access is refused once the session has it again."""
    answers = results()["an address of the host that came while it was off"]["answers"]
    assert "host" not in answers, answers


def test_established_connections_end() -> None:
    """Switched off, connections by packets and by the proxy end at once, and pasta with them."""
    found = results()["established"]
    assert found["ends"] == [["ConnectionAbortedError", True], ["ConnectionResetError", True]]
    assert found["pasta"] == 0


def test_some_hosts_are_reached_by_the_proxy_alone() -> None:
    """With allow_hosts there is no pasta; without it, it is there again."""
    found = results()["allow_hosts"]
    assert found["answers"][2] == REACHED and found["pasta"] == 0
    assert REACHED not in (found["answers"][0], found["answers"][1], found["answers"][3])
    assert results()["all hosts again"]["answers"] == [REACHED] * 4


def test_exceptions_of_the_operator() -> None:
    """egress_allow_cidrs opens networks to packets as to the proxy, and nothing beside them."""
    answers = results()["exceptions"]["answers"]
    assert [answer == REACHED for answer in answers] == [True, True, False, False, True] * 2


def test_ordinary_user() -> None:
    """The same holds for a server whose user is not root."""
    found = results()["ordinary user"]
    assert found.get("problem", found) is None
    reached = {row for row, told in found["on"].items() if told == REACHED}
    assert reached == {
        *(f"{way}: {one}" for way in PACKET_WAYS for one in (PUBLIC, PUBLIC6)),
        "by_name: world.example",
    }
    assert REACHED not in found["off"] and "host" not in found["on"].values()
    assert found["established"] == ["ConnectionAbortedError", True]


def test_walls_of_pasta() -> None:
    """pasta has a uid, a root and processes of its own, and rights over one network alone."""
    walls = results()["walls"]
    assert int(walls["Uid"][0]) > 0 and len(set(walls["Uid"])) == 1
    assert walls["own user namespace"] and walls["NSpid"][1:] == ["1"]
    assert walls["files"] == [] and walls["listening"] == []
    assert walls["Seccomp"] == ["2"] and walls["NoNewPrivs"] == ["1"]


def test_attacks() -> None:
    """Nothing that code with a way out tries leads anywhere but where it may go."""
    found = results()["attacks"]
    rows = {name: told for name, _, told in found["rows"]}
    assert len(rows) >= 33
    assert {name: told for name, told in rows.items() if "got through" in told} == {}
    assert found["pasta lives"]


@pytest.mark.parametrize("victim", ["pasta killed", "keeper killed"])
def test_deaths(victim: str) -> None:
    """Who dies is started again; what went through it has ended, and no pasta is left over."""
    found = results()[victim]
    assert found["gone"] and found["again"]
    assert found["end"][1]


def test_ends() -> None:
    """pasta ends with its session and with a killed server, and not with other sessions."""
    assert results()["deleted"]["pasta"] == 0
    assert results()["one of two deleted"] == {"left": 1, "is the other's": True}
    assert results()["kernel ended"]["pasta"]
    assert results()["server killed"]["gone"]
    assert results()["a next server"]["exit_code"] == 0


def print_attacks() -> None:
    """Prints the table of docs/isolation.md."""
    print("| attack by code that has internet access by packets | stopped by |\n|---|---|")
    for _, words, told in results()["attacks"]["rows"]:
        print(f"| {words.rstrip('.')} | {told} |")


if __name__ == "__main__":
    print_attacks()
