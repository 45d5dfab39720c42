"""Kernelspecs in Jupyter's data directories, where other programs put what they like."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from era_kernels.errors import StartError
from era_kernels.kernels.kernel_executables import installation_roots, is_installation
from era_kernels.kernels.languages import Languages
from tests.kernels.test_kernelspecs import add_kernelspec, add_program, add_stock_kernelspec

STEP = """
[[step]]
name = "x"
argv = ["x"]
inputs = ["input"]
outputs = ["y"]
"""
Make = Callable[[Path], object]


def _with_file(name: str, make: Make) -> Make:
    """A kernelspec in which something odd has this name."""

    def add(root: Path) -> None:
        folder = add_stock_kernelspec(root, "odd")
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return add


def _with_input(make: Make) -> Make:
    """A kernelspec with a step whose input is odd."""

    def add(root: Path) -> None:
        folder = add_stock_kernelspec(root, "odd")
        make(folder / "input")
        (folder / "install.toml").write_text(STEP)

    return add


def _sparse(file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(10**12)


def _stock(**changes: Any) -> Make:
    return lambda root: add_stock_kernelspec(root, "odd", **changes)


def _named(name: bytes) -> Make:
    return lambda root: add_stock_kernelspec(
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)), "."
    )


def _claims(*aliases: str, language: str = "other") -> Make:
    return lambda root: add_kernelspec(root, "odd", language=language, era={"aliases": [*aliases]})


LEFT_OUT: dict[str, Make] = {
    "a pipe": _with_file("kernel.json", os.mkfifo),
    "a device": _with_file("kernel.json", lambda file: file.symlink_to("/dev/zero")),
    "a terabyte": _with_file("kernel.json", _sparse),
    "a folder": _with_file("kernel.json", Path.mkdir),
    "a pipe as install.toml": _with_file("install.toml", os.mkfifo),
    "nested TOML": _with_file("install.toml", lambda file: file.write_text("x=" + "[" * 50_000)),
    "nested JSON": _with_file("kernel.json", lambda file: file.write_text("[" * 100_000)),
    "a pipe as input": _with_input(os.mkfifo),
    "a device as input": _with_input(lambda file: file.symlink_to("/dev/zero")),
    "all files as input": _with_input(lambda file: file.symlink_to("/")),
    "a terabyte as input": _with_input(_sparse),
    "NUL in the program": _stock(argv=["/a\0b/c"]),
    "NUL in an argument": _stock(argv=["sh", "a\0"]),
    "no program": _stock(argv=["", "x"]),
    "NUL in a variable": _stock(env={"A": "\0"}),
    "NUL in a variable's name": _stock(env={"A\0": ""}),
    "a variable without a name": _stock(env={"": "x"}),
    "= in a variable's name": _stock(env={"A=B": "x"}),
    "a name that is no text": _named(b"f\xff"),
    "a name of two lines": _named(b"a\nb"),
    "a name with an escape": _named(b"a\x1b[31m"),
    "the name of another language": _claims("alpha"),
    "a name in another case": _claims("ALPHA"),
    "another's alias": _claims("Beta"),
    "a language that is another's alias": _claims(language="beta"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", LEFT_OUT.values(), ids=LEFT_OUT)
def test_left_out(tmp_path: Path, make: Make) -> None:
    """It is left out, which one printable sentence says, and the others run."""
    installed, builtin = tmp_path / "data" / "kernels", tmp_path / "builtin"
    add_kernelspec(builtin, "alpha", era={"aliases": ["beta"]})
    add_stock_kernelspec(installed, "good")
    make(installed)
    languages = Languages.load([tmp_path / "data"], builtin)
    assert [one.name for one in languages] == ["alpha", "good"]
    (problem,) = languages.problems
    assert problem.isprintable()
    json.dumps([one.describe() for one in languages], ensure_ascii=False).encode()
    assert languages.readable_paths


@pytest.mark.parametrize("make", [LEFT_OUT["a pipe"], LEFT_OUT["a name of two lines"]])
def test_in_a_folder_of_the_operator(tmp_path: Path, make: Make) -> None:
    """In a folder that has only kernelspecs the same keeps the server from starting."""
    make(tmp_path)
    with pytest.raises(StartError):
        Languages.load((), tmp_path)


@pytest.mark.parametrize(
    "program", ["/" + "a" * 5000, "a" * 5000, "/" + "a/" * 5000 + "x", "../x", "/dev/null/x", "."]
)
def test_program_that_cannot_be(tmp_path: Path, program: str) -> None:
    """A path that no file can have is a program that is not installed."""
    add_stock_kernelspec(tmp_path / "kernels", "odd", argv=[program])
    languages = Languages.load([tmp_path], tmp_path)
    assert "not installed" in str(languages.resolve("odd").default.unavailable_reason)
    assert languages.readable_paths


def test_links_in_a_circle(tmp_path: Path) -> None:
    """A folder, or a kernel.json, that is a link to itself is no kernelspec."""
    installed = tmp_path / "kernels"
    add_stock_kernelspec(installed, "good")
    (installed / "circle").symlink_to("circle")
    (installed / "empty").mkdir()
    (installed / "empty" / "kernel.json").symlink_to("kernel.json")
    languages = Languages.load([tmp_path], tmp_path)
    assert [one.name for one in languages] == ["good"]
    assert languages.problems == ()


# ---------------------------------------------------------------- what of a home sessions see


@pytest.mark.parametrize("path", ["/", "/home", "/home/x", "/home/x/.local", "/var/home/x"])
def test_homes_are_no_installations(path: str) -> None:
    """Neither is anybody's home, what is above it, or `.local` in it."""
    assert not is_installation(Path(path))


@pytest.mark.parametrize("path", ["/opt/r", "/usr", "/usr/local", "/home/x/env"])
def test_installations(path: str) -> None:
    """Other folders are, in a home, too."""
    assert is_installation(Path(path))


def test_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of a user whom the system does not know tells installations, too."""

    def find_nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", find_nobody)
    assert is_installation(tmp_path / "env")
    assert not is_installation(Path("/home/somebody"))


@pytest.mark.parametrize("name", ["home", "link", "up/home"])
def test_home_by_other_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A home is one by whatever links its path leads to it, and so are those that are above it."""
    home = tmp_path / "users" / "home"
    home.mkdir(parents=True)
    (tmp_path / "users" / "link").symlink_to(home)
    (tmp_path / "users" / "up").symlink_to(".")
    monkeypatch.setenv("HOME", str(tmp_path / "users" / name))
    for folder in (home, tmp_path / "users" / "link", tmp_path / "users" / "up" / "home"):
        assert not is_installation(folder)
        assert not is_installation(folder / ".local")
    assert not is_installation(tmp_path / "users")
    assert is_installation(home / "env")


def test_home_of_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is the home of whoever owns it is none, whatever $HOME is here."""
    entry = pwd.getpwuid(os.geteuid())
    fields = [*entry]
    fields[5] = str(tmp_path)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: pwd.struct_passwd(fields))
    monkeypatch.setenv("HOME", "/nonexistent")
    assert not is_installation(tmp_path)
    assert is_installation(tmp_path / "env")


def test_program_beside_what_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that lies in a home itself, or that a link leads to there, stands for itself."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    program = add_program(home, "kernel")
    link = home / "bin" / "kernel"
    link.parent.mkdir()
    link.symlink_to("../kernel")
    assert set(installation_roots(program)) == {program}
    found = {Path(os.path.realpath(one)) for one in installation_roots(link)}
    assert found == {home / "bin", program}
