"""The wheels that kernelspecs name are those of the extra `languages`."""

from __future__ import annotations

import tomllib
from pathlib import Path

from era_kernels.kernels.kernelspecs import builtin_dir
from era_kernels.toolchains.manifest import load_manifest

ROOT = Path(__file__).parents[2]


def test_pins() -> None:
    """The extra has the wheels of all install.toml files, in the same versions, and no others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    manifests = [load_manifest(folder) for folder in builtin_dir().iterdir() if folder.is_dir()]
    wheels = {tool.wheel for manifest in manifests if manifest for tool in manifest.tool}
    assert set(project["optional-dependencies"]["languages"]) == wheels
