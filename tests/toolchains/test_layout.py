"""Where toolchains lie, when they are complete, and who uses them."""

from __future__ import annotations

from pathlib import Path

import pytest

from era_kernels.errors import StartError
from era_kernels.toolchains.layout import (
    Toolchain,
    find_toolchain,
    hold_in_use,
    hold_unused,
    with_required,
)


def add(specs: Path, name: str, text: str = "", **files: str) -> Path:
    """A folder with an install.toml and other files."""
    folder = specs / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "install.toml").write_text(text, "utf-8")
    for path, content in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(content, "utf-8")
    return folder


def find(folder: Path, *others: Path) -> Toolchain:
    """The toolchain of a folder."""
    found = find_toolchain(folder, folder.parent.parent / "toolchains", others)
    assert found is not None
    return found


def install(toolchain: Toolchain, text: str = "{}") -> None:
    """Makes it look complete."""
    toolchain.directory.mkdir(parents=True, exist_ok=True)
    (toolchain.directory / "installed.json").write_text(text, "utf-8")


STEP = '[[step]]\nname = "s"\nargv = ["x"]\noutputs = ["o"]\ninputs = ["in", "folder"]\n'


def test_digest(tmp_path: Path) -> None:
    """The directory changes with the file, with each input, its name, and what is required."""
    specs = tmp_path / "specs"
    seen = set()
    for text, files in [
        (STEP, {"in": "1", "folder/a": "1"}),
        (STEP, {"in": "2", "folder/a": "1"}),
        (STEP, {"in": "2", "folder/a": "2"}),
        (STEP, {"in": "2", "folder/a": "2", "folder/b": ""}),
        (STEP + "timeout = 1\n", {"in": "2"}),
    ]:
        folder = add(specs, "alpha", text, **files)
        seen.add(find(folder).directory)
        assert find(folder).directory in seen
        assert find(folder).home == tmp_path / "toolchains" / "alpha"
    assert len(seen) == 5
    (specs / "alpha" / "other").write_text("is no input", "utf-8")
    assert find(folder).directory in seen
    beta = add(specs, "beta", 'requires = ["alpha"]\n')
    before = find(beta).directory
    add(specs, "alpha", STEP, **{"in": "3"})
    assert find(beta).directory != before


def test_complete(tmp_path: Path) -> None:
    """Complete is what has its installed.json, its tools, and complete ones that it requires."""
    add(tmp_path / "specs", "alpha")
    beta = find(add(tmp_path / "specs", "beta", 'requires = ["alpha"]\n'))
    (alpha,) = beta.requires
    assert beta.read_installed() is None
    install(beta)
    assert beta.read_installed() is None
    install(alpha)
    assert beta.read_installed() is not None
    tool = tmp_path / "tool"
    install(alpha, f'{{"version": "1", "tools": {{"t": "{tool}"}}}}')
    assert beta.read_installed() is None
    tool.touch(0o755)
    assert beta.read_installed() is not None
    for broken in ("", "[]", '{"tools": 1}', '{"version"'):
        install(alpha, broken)
        assert beta.read_installed() is None


def test_required(tmp_path: Path) -> None:
    """What is required is beside the folder or in the other directories, the nearest first."""
    mine, builtin = tmp_path / "mine", tmp_path / "builtin"
    add(builtin, "node")
    folder = add(mine, "x", 'requires = ["node"]\n')
    assert find(folder, builtin).requires[0].folder == builtin / "node"
    add(mine, "node")
    assert find(folder, builtin).requires[0].folder == mine / "node"
    z = find(add(mine, "z", 'requires = ["x", "node"]\n'))
    assert [one.name for one in with_required([z, z])] == ["node", "x", "z"]


@pytest.mark.parametrize(
    ("manifests", "told"),
    [
        ({"a": 'requires = ["none"]'}, "requires none, which has no install.toml"),
        ({"a": 'requires = ["a"]'}, "requires itself"),
        ({"a": 'requires = ["b"]', "b": 'requires = ["a"]'}, "requires itself"),
        ({"a": 'requires = ["b"]', "b": "x = 1"}, "b/install.toml is wrong at x"),
    ],
)
def test_required_wrongly(tmp_path: Path, manifests: dict[str, str], told: str) -> None:
    """What is not there, or requires itself, is told with the file."""
    folders = [add(tmp_path / "specs", name, text) for name, text in manifests.items()]
    with pytest.raises(StartError) as caught:
        find(folders[0])
    assert told in str(caught.value)


def test_use(tmp_path: Path) -> None:
    """What a server uses, and all that it requires, is not unused."""
    add(tmp_path / "specs", "alpha")
    beta = find(add(tmp_path / "specs", "beta", 'requires = ["alpha"]\n'))
    with hold_in_use([beta]), hold_in_use([beta]):
        for one in (beta, *beta.requires):
            with hold_unused(one.directory) as is_unused:
                assert not is_unused
    for one in (beta, *beta.requires):
        with hold_unused(one.directory) as is_unused:
            assert is_unused
        assert list(one.home.iterdir()) == []


def test_use_where_nothing_can_be_written(tmp_path: Path) -> None:
    """A server uses toolchains too where it cannot make a lock."""
    folder = add(tmp_path / "specs", "alpha")
    (tmp_path / "toolchains").touch()
    with hold_in_use([find(folder)]):
        pass


def test_readers_hold_no_lock(tmp_path: Path) -> None:
    """The lock of a toolchain in use cannot be opened to read: code in sessions could hold it."""
    directory = tmp_path / ("0" * 16)
    with hold_unused(directory) as is_unused:
        assert is_unused
        (lock,) = tmp_path.iterdir()
        assert lock.stat().st_mode & 0o777 == 0o200
