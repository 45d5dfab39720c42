"""Makes another Python environment with a stock kernel, as a team's own would be."""

from __future__ import annotations

import json
import site
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any


def make_environment(directory: Path) -> Path:
    """Makes a virtual environment that sees this one's packages; returns its root."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True, timeout=60
    )
    scheme = {"base": str(directory), "platbase": str(directory)}
    packages = Path(sysconfig.get_path("purelib", "venv", scheme))
    lines = "\n".join(path for path in site.getsitepackages() if Path(path).is_dir())
    (packages / "shared.pth").write_text(lines)
    return directory


def add_kernelspec(environment: Path, **changes: Any) -> Path:
    """Adds the kernelspec that ipykernel's wheel brings; returns Jupyter's data directory."""
    data = environment / "share" / "jupyter"
    folder = data / "kernels" / "python3"
    folder.mkdir(parents=True, exist_ok=True)
    kernel_json = {
        "argv": ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "metadata": {"debugger": True},
    }
    (folder / "kernel.json").write_text(json.dumps({**kernel_json, **changes}))
    return data
