"""Kernelspecs with an install.toml, small wheels for them, and the command that installs."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import CliRunner

from era_kernels import cli

COMMAND = Path(sys.executable).parent / "era-kernels"
PROGRAM = "#!/bin/sh\necho tool 1.2.3\n"


def make_wheel(name: str, files: Mapping[str, str], version: str = "1.2.3") -> bytes:
    """Makes a wheel of files; paths below `scripts/` become programs."""
    info = f"{name}-{version}.dist-info"
    programs = f"{name}-{version}.data/scripts/"
    content = {path.replace("scripts/", programs): text for path, text in files.items()}
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    content[f"{info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = [f"{path},{_record_hash(text)},{len(text.encode())}" for path, text in content.items()]
    content[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in content.items():
            entry = zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0))
            entry.external_attr = 0o100755 << 16
            archive.writestr(entry, text)
    return buffer.getvalue()


def _record_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@dataclass(frozen=True)
class Done:
    """The end of a command."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class Place:
    """A directory with kernelspecs, wheels and toolchains."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def specs(self) -> Path:
        return self.root / "specs"

    @property
    def wheels(self) -> Path:
        return self.root / "wheels"

    @property
    def toolchains(self) -> Path:
        return self.root / "toolchains"

    def add_wheel(self, name: str, files: Mapping[str, str] | None = None) -> str:
        """Puts a wheel into the local index; returns the lines of a `[[tool]]` for it."""
        content = make_wheel(name, files or {f"scripts/{name}": PROGRAM})
        self.wheels.mkdir(exist_ok=True)
        (self.wheels / f"{name}-1.2.3-py3-none-any.whl").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        return (
            f'[[tool]]\nprogram = "{name}"\nwheel = "{name}==1.2.3"\nhashes = ["sha256:{digest}"]\n'
        )

    def add(self, name: str, manifest: str, **files: str) -> Path:
        """Adds a kernelspec whose program is `bin/<name>` of its toolchain."""
        folder = self.specs / name
        folder.mkdir(parents=True, exist_ok=True)
        spec = {
            "argv": [f"{{toolchain}}/bin/{name}"],
            "env": {"WHERE": "{toolchain}/x"},
            "display_name": name,
            "language": name,
            "metadata": {"era_kernels": {"connects": True}},  # so it is there in all tiers
        }
        (folder / "kernel.json").write_text(json.dumps(spec), "utf-8")
        (folder / "install.toml").write_text(textwrap.dedent(manifest), "utf-8")
        for path, text in files.items():
            (folder / path).write_text(text, "utf-8")
        return folder

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        """Returns the command that installs, and an environment with only the local index."""
        kept = {name: text for name, text in os.environ.items() if not _is_ours(name)}
        env = {
            **kept,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_NO_CACHE_DIR": "1",
            "ERA_TOOLCHAIN_DIR": str(self.toolchains),
            "ERA_KERNELSPEC_DIRS": str(self.specs),
            **self.env,
        }
        return [str(COMMAND), "install", *arguments], env

    def install(self, *arguments: str) -> Done:
        """Runs the command to its end, in this process, which has all imported that it needs."""
        command, env = self.command(*arguments)
        unset = {name: None for name in os.environ if name not in env}
        result = CliRunner().invoke(cli.main, command[1:], env={**unset, **env})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts the command."""
        command, env = self.command(*arguments)
        return subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def directory(self, name: str) -> Path:
        """The one version of a toolchain that is there."""
        (found,) = (path for path in (self.toolchains / name).iterdir() if (path / "bin").is_dir())
        return found

    def is_complete(self, name: str) -> bool:
        """Whether the toolchain has been installed."""
        return any((self.toolchains / name).glob("*/installed.json"))


def _is_ours(name: str) -> bool:
    return name.upper().startswith(("ERA_", "PIP_"))


def step(name: str, script: str, *outputs: str, more: str = "") -> str:
    """Returns the lines of a `[[step]]` that runs a shell script."""
    return (
        f'[[step]]\nname = "{name}"\nargv = ["/bin/sh", "-c", {json.dumps(script)}]\n'
        f"outputs = {json.dumps(list(outputs))}\n{more}"
    )
