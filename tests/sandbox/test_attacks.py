"""Every attack is stopped by every kind of isolation that this host can apply.

`python -m tests.sandbox.test_attacks` prints the table for docs/isolation.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.sandbox.attacks.__main__ import attacks

ROOT = Path(__file__).parents[2]
NOBODY = 65534
SYSTEM_PYTHON = Path("/usr/bin/python3")  # that other users can execute
OLDEST = "3.11"


@dataclass(frozen=True)
class Variant:
    """One kind of isolation: the tier that is forced, and the user who applies it."""

    name: str
    tier: int
    ordinary_user: bool = False
    is_private: bool = False  # the server's data lie where only root may go


VARIANTS = (
    Variant("tier 1, root", 1),
    Variant("tier 1, ordinary user", 1, ordinary_user=True),
    Variant("tier 2, root", 2),
    Variant("tier 3, root", 3),
    Variant("tier 3, root, private", 3, is_private=True),
    Variant("tier 3, ordinary user", 3, ordinary_user=True),
)
# What a tier does not stop, as its `missing` says.
LET_THROUGH = {
    2: {"list_processes", "count_descriptors"},
    3: {
        "path_socket", "list_processes", "list_connections", "find_socket_names",
    },
}  # fmt: skip
# What gets through with CAP_DAC_READ_SEARCH.
LET_THROUGH_PAST_MODES = {"gain_capability", "program_socket", "see_size", "count_descriptors"}
# What gets through where all sessions have one uid.
LET_THROUGH_WITH_ONE_UID = {
    "program_socket", "see_size", "watch_directory", "change_mode", "count_descriptors",
    "chmod_server_data", "private_socket",
}  # fmt: skip


@cache
def results(variant: Variant) -> dict[str, tuple[bool, str]]:
    """Each attack's outcome: did it get through, and what stopped it. Empty where untried."""
    command = [sys.executable, "-m", "tests.sandbox.attacks", str(variant.tier)]
    command += ["private"] if variant.is_private else []
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"}
    user = None
    if variant.tier == 3 and not reads_past_modes(variant):
        command[0] = str(SYSTEM_PYTHON)  # that uids of sessions can execute
    if variant.ordinary_user and os.geteuid() == 0:
        command[0], user = str(SYSTEM_PYTHON), NOBODY
    done = subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, timeout=280, check=False,
        user=user, group=user, extra_groups=None if user is None else [],
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    shares_uid = variant.tier == 3 and variant.ordinary_user
    expected = {"tier": variant.tier, "shares_uid": shares_uid}
    if variant.tier == 3:
        expected["reads_past_modes"] = reads_past_modes(variant)
    assert not lines or expected.items() <= lines[0].items(), done.stderr
    if not lines:  # only that there are no such walls is a reason to skip
        assert "era_kernels.errors.StartError: " in done.stderr, done.stderr
        _untried[variant] = done.stderr.strip().splitlines()[-1]
    return {line["attack"]: (line["through"], line["by"]) for line in lines[1:]}


def reads_past_modes(variant: Variant) -> bool:
    """Whether code has CAP_DAC_READ_SEARCH: its uid could not read the interpreter else."""
    if variant.tier != 3 or variant.ordinary_user:
        return False
    return variant.is_private or reason_to_skip(VARIANTS[-1]) is not None


_untried: dict[Variant, str] = {}


def reason_to_skip(variant: Variant) -> str | None:
    if not variant.ordinary_user:
        return None if os.geteuid() == 0 else "needs root"
    if os.geteuid() != 0:
        return None
    version = "import sys; assert sys.version_info >= (3, 11), sys.version"
    usable = (
        SYSTEM_PYTHON.exists()
        and not subprocess.run(
            [SYSTEM_PYTHON, "-c", version], capture_output=True, check=False
        ).returncode
    )
    readable = subprocess.run(
        ["test", "-r", str(ROOT / "era_kernels" / "__init__.py")],
        user=NOBODY, group=NOBODY, extra_groups=[], check=False,
    )  # fmt: skip
    if not usable:
        return f"ordinary users have no Python from {OLDEST} on in {SYSTEM_PYTHON}"
    return "ordinary users cannot read this directory" if readable.returncode else None


@pytest.fixture(params=VARIANTS, ids=lambda variant: variant.name)
def variant(request: pytest.FixtureRequest) -> Variant:
    chosen: Variant = request.param
    reason = reason_to_skip(chosen)
    if reason is not None:
        pytest.skip(reason)
    if not results(chosen):
        pytest.skip(f"this host has no such walls: {_untried[chosen]}")
    return chosen


def test_there_are_many() -> None:
    """At least sixty, each with a sentence."""
    assert len(attacks()) >= 60
    assert all(sentence.endswith(".") for sentence in attacks().values())


@pytest.mark.timeout(300)
def test_attacks(variant: Variant) -> None:
    """Each is stopped, or said to be possible."""
    found = results(variant)
    assert found.keys() == attacks().keys()
    expected = let_through(variant)
    assert {
        attack: by for attack, (through, by) in found.items() if through and attack not in expected
    } == {}


def let_through(variant: Variant) -> set[str]:
    through = LET_THROUGH.get(variant.tier, set())
    if variant.tier == 3 and variant.ordinary_user:
        return through | LET_THROUGH_WITH_ONE_UID
    return through | (LET_THROUGH_PAST_MODES if reads_past_modes(variant) else set())


def table() -> str:
    """Attack by tier: what stopped it."""
    tried = [variant for variant in VARIANTS if not reason_to_skip(variant) and results(variant)]
    rows = [
        f"| attack | {' | '.join(variant.name for variant in tried)} |",
        "|---" * (len(tried) + 1) + "|",
    ]
    for attack, sentence in attacks().items():
        cells = [_cell(*results(variant)[attack]) for variant in tried]
        rows.append(f"| {sentence.rstrip('.')} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(through: bool, by: str) -> str:
    return "**gets through**" if through else by


if __name__ == "__main__":
    print(table())
