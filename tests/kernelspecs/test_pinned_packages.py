"""The packages that kernelspecs bring are pinned, and checked by their digests."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from era_kernels.kernels.kernelspecs import builtin_dir

NPM_LOCKS = sorted(builtin_dir().glob("*/package-lock.json"))
GO_MODULES = sorted(builtin_dir().glob("*/go.mod"))


@pytest.mark.parametrize("lock", NPM_LOCKS, ids=lambda lock: lock.parent.name)
def test_npm_packages(lock: Path) -> None:
    """Each package of npm has one version and a digest; the caller's registry is asked for it."""
    wanted = json.loads(lock.with_name("package.json").read_text("utf-8"))["dependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values()), wanted
    packages = json.loads(lock.read_text("utf-8"))["packages"]
    assert packages.pop("")["dependencies"] == wanted
    assert packages
    for name, package in packages.items():
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name


@pytest.mark.parametrize("lock", NPM_LOCKS, ids=lambda lock: lock.parent.name)
def test_npm_runs_no_scripts(lock: Path) -> None:
    """Packages are installed as they were locked, and run nothing while they are."""
    steps = tomllib.loads(lock.with_name("install.toml").read_text("utf-8"))["step"]
    (argv,) = [step["argv"] for step in steps if step["argv"][0].endswith("/npm")]
    assert argv[1] == "ci"
    assert "--ignore-scripts" in argv


@pytest.mark.parametrize("module", GO_MODULES, ids=lambda module: module.parent.name)
def test_go_modules(module: Path) -> None:
    """Each module of Go that is asked for has its digest, so that no server is asked for it."""
    wanted = re.findall(r"^require (\S+) (v\S+)$", module.read_text("utf-8"), re.MULTILINE)
    assert wanted
    sums = module.with_name("go.sum").read_text("utf-8")
    for name, version in wanted:
        assert re.search(rf"^{re.escape(name)} {re.escape(version)} h1:", sums, re.MULTILINE)
