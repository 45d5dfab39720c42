"""install.toml: what is read, and that a mistake is told with its file and place."""

from __future__ import annotations

from pathlib import Path

import pytest

from era_kernels.errors import StartError
from era_kernels.toolchains.manifest import load_manifest

HASH = "sha256:" + "0" * 64
TOOL = f'[[tool]]\nprogram = "p"\nwheel = "w==1"\nhashes = ["{HASH}"]\n'
STEP = '[[step]]\nname = "s"\nargv = ["x"]\noutputs = ["o"]\n'


def write(folder: Path, text: str) -> Path:
    """A folder with this install.toml."""
    (folder / "install.toml").write_text(text, "utf-8")
    return folder


def test_none(tmp_path: Path) -> None:
    """A folder without the file needs nothing."""
    assert load_manifest(tmp_path) is None


def test_defaults(tmp_path: Path) -> None:
    """What is left out has the documented value."""
    manifest = load_manifest(write(tmp_path, f"{TOOL}{STEP}"))
    assert manifest is not None
    (tool,), (step,) = manifest.tool, manifest.step
    assert (tool.bin, tool.minimum, tool.version_argv) == ("bin", None, ["{program}", "--version"])
    assert (tool.distribution, tool.pinned_version) == ("w", "1")
    assert (step.timeout, step.inputs, step.env) == (600, [], {})
    assert (manifest.requires, manifest.version_argv) == ([], None)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("requires = 1", "requires"),
        ("requires = ['../x']", "requires.0"),
        ("required = []", "required"),
        ("[[tools]]\n", "tools"),
        (f"{TOOL}bins = 'x'", "tool.0.bins"),
        (f"{TOOL}bin = '/x'", "tool.0.bin"),
        (f"{TOOL}bin = 'a/../../x'", "tool.0.bin"),
        (f"{TOOL}minimum = '20.x'", "tool.0.minimum"),
        (f"{TOOL}minimum = 20.0", "tool.0.minimum"),
        (f"{TOOL}programs = {{ a = '/x' }}", "tool.0.programs.a"),
        (f"{TOOL}version_argv = []", "tool.0.version_argv"),
        (TOOL.replace("w==1", "w>=1"), "tool.0.wheel"),
        (TOOL.replace("w==1", "--index-url==1"), "tool.0.wheel"),
        (TOOL.replace("w==1", "w==1 --pre"), "tool.0.wheel"),
        (TOOL.replace("sha256", "md5"), "tool.0.hashes.0"),
        (TOOL.replace(f'"{HASH}"', ""), "tool.0.hashes"),
        (TOOL.replace('"p"', '"a/b"'), "tool.0.program"),
        (TOOL + TOOL, "the program p is there twice"),
        (STEP + STEP, "the step s is there twice"),
        (f"{STEP}shell = 'x'", "step.0.shell"),
        (f"{STEP}timeout = 0", "step.0.timeout"),
        (f"{STEP}timeout = inf", "step.0.timeout"),
        (f"{STEP}inputs = ['/etc/passwd']", "step.0.inputs.0"),
        (f"{STEP}inputs = ['../x']", "step.0.inputs.0"),
        (f"{STEP}inputs = ['gone']", "input that does not exist: gone"),
        (STEP.replace('["o"]', "[]"), "step.0.outputs"),
        (STEP.replace('["o"]', '["."]'), "step.0.outputs.0"),
        (STEP.replace('["x"]', '"x"'), "step.0.argv"),
        ("x = \n", "line 1"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, place: str) -> None:
    """A mistake is one sentence with the file and the place in it."""
    with pytest.raises(StartError) as caught:
        load_manifest(write(tmp_path, text))
    assert str(tmp_path / "install.toml") in str(caught.value)
    assert place in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_text(tmp_path: Path) -> None:
    """A file that is no text is told as such."""
    (tmp_path / "install.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(StartError, match=r"install\.toml is no valid TOML"):
        load_manifest(tmp_path)
