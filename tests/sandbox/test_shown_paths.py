"""What sessions see of readable paths that links lead to, and never of what is hidden there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from era_kernels.errors import StartError
from era_kernels.models import Limits, SessionPaths
from era_kernels.sandbox.server.sandboxes import Sandboxes
from era_kernels.sandbox.server.tiers import IsolationPolicy
from tests.sandbox.sandboxes import ENTRIES, run_to_end, shell_command, short_directory

SECRET, TOOL = "secret", "tool"
# Names below a folder that has env/tool and env/data/secret: what is readable, what is hidden,
# where the tool can be read, and where the secret would be.
Case = tuple[list[str], str, list[str], list[str]]


def _link(name: str, target: str, *, absolute: bool = True) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        (root / name).symlink_to(root / target if absolute else target)

    return make


def _nothing(root: Path) -> None:
    """Adds nothing."""


SECRETS = ["env/data/secret"]
CASES: dict[str, tuple[Callable[[Path], None], Case]] = {
    "no link": (_nothing, (["env"], "env/data", ["env/tool"], SECRETS)),
    "readable is a link": (
        _link("link", "env"),
        (["link"], "env/data", ["link/tool"], ["link/data/secret", *SECRETS]),
    ),
    "readable is a relative link": (
        _link("link", "env", absolute=False),
        (["link"], "env/data", ["link/tool"], ["link/data/secret", *SECRETS]),
    ),
    "both ways": (
        _link("link", "env"),
        (["link", "env"], "env/data", ["link/tool", "env/tool"], ["link/data/secret", *SECRETS]),
    ),
    "hidden is a link": (
        _link("data", "env/data"),
        (["env"], "data", ["env/tool"], SECRETS),
    ),
    "both are links": (
        lambda root: (_link("link", "env")(root), _link("data", "link/data")(root))[0],
        (["link"], "data", ["link/tool"], ["link/data/secret", *SECRETS]),
    ),
    "a link above": (
        _link("above", "."),
        (["above/env"], "env/data", ["above/env/tool"], ["above/env/data/secret", *SECRETS]),
    ),
    "a link to what is hidden": (
        _link("link", "env/data"),
        (["link", "env"], "env/data", ["env/tool"], ["link/secret", *SECRETS]),
    ),
    "below what is hidden": (_nothing, (["env/data", "env"], "env/data", ["env/tool"], SECRETS)),
    "a file": (_nothing, (["env/tool"], "env/data", ["env/tool"], SECRETS)),
    "not there": (_nothing, (["env", "gone", "gone/below"], "env/data", ["env/tool"], SECRETS)),
    "a circle": (
        _link("circle", "circle"),
        (["env", "circle", "circle/x"], "env/data", ["env/tool"], SECRETS),
    ),
    "below a file": (_nothing, (["env", "env/tool/x"], "env/data", ["env/tool"], SECRETS)),
}


@pytest.mark.parametrize("tier", [1, 2, 3])
async def test_links(tier: int) -> None:
    """A link, or a path that leads nowhere, shows no secret and keeps no walls from rising.

    All cases are shown at once, each in a folder of its own.
    """
    with short_directory() as base:
        base.chmod(0o755)
        # Directories of the session's own: their owner is changed.
        paths = SessionPaths(*(base / "session" / part for part in ("w", "p", "c")))
        for part in (paths.workspace, paths.packages, paths.cache):
            part.mkdir(parents=True)
        roots = {name: base / f"root{number}" for number, name in enumerate(CASES)}
        for name, root in roots.items():
            (root / "env" / "data").mkdir(parents=True)
            (root / "env" / "data" / "secret").write_text(SECRET)
            (root / "env" / "tool").write_text(TOOL)
            CASES[name][0](root)
        shown = [roots[name] / path for name, (_, case) in CASES.items() for path in case[0]]
        policy = IsolationPolicy(
            strongest_tier=tier,
            weakest_tier=tier,
            allow_weak_tier3=True,
            readable_paths=(ENTRIES, *shown),
            hidden_paths=tuple(roots[name] / case[1] for name, (_, case) in CASES.items()),
        )
        try:
            sandboxes = await Sandboxes.open(base / "r", (), (ENTRIES,), policy)
        except StartError as error:
            pytest.skip(str(error))
        try:
            sandbox = await sandboxes.open_sandbox(paths, Limits())
            for name, (_, (_, _, tools, secrets)) in CASES.items():
                read = "; ".join(f"cat {roots[name] / path}" for path in (*tools, *secrets))
                _, out, err = await run_to_end(sandbox, shell_command(read))
                assert out == TOOL * len(tools), (name, err)
        finally:
            await sandboxes.aclose()
