"""Kernelspec folders: what is read, what is refused, which program and folders a kernel gets."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from era_kernels.errors import StartError
from era_kernels.kernels.environment import search_path
from era_kernels.kernels.kernel_json import STOCK_CAPABILITIES
from era_kernels.kernels.kernelspecs import (
    Kernelspec,
    builtin_dir,
    find_kernelspecs,
)
from era_kernels.kernels.languages import Languages
from era_kernels.models import Limits


def add_kernelspec(root: Path, name: str, **changes: Any) -> Path:
    """A folder with a kernel.json; `era` replaces `metadata.era_kernels`."""
    folder = root / name
    folder.mkdir(parents=True)
    spec = {
        "argv": ["sh", "{connection_file}"],
        "display_name": name,
        "language": name,
        "metadata": {"era_kernels": changes.pop("era", {})},
    }
    (folder / "kernel.json").write_text(json.dumps({**spec, **changes}))
    return folder


def add_stock_kernelspec(root: Path, name: str, **changes: Any) -> Path:
    """A folder whose kernel.json has nothing but Jupyter's own keys."""
    return add_kernelspec(root, name, **{"metadata": {"debugger": True}, **changes})


def add_program(directory: Path, name: str) -> Path:
    """A program that can be started, in a folder that is made where it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / name
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def load(*roots: Path) -> Languages:
    *extra, builtin = roots
    return Languages.load(extra, builtin)


def load_only(root: Path) -> Kernelspec:
    (language,) = load(root)
    return language.default


def test_a_folder_is_a_language(tmp_path: Path) -> None:
    """Everything about a language is read from its folder."""
    era = {"aliases": ["al"], "capabilities": ["stack"], "extension": ".a", "transport": "ipc"}
    folder = add_kernelspec(
        tmp_path, "alpha", era=era, interrupt_mode="message", env={"A": "{cache}"}
    )
    language = load_only(tmp_path)
    assert (language.name, language.language) == ("alpha", "alpha")
    assert language.aliases == ("al",)
    assert language.capabilities == ("stack",)
    assert language.interrupt_mode == "message"
    assert language.env == {"A": "{cache}"}
    assert language.directory == folder
    assert language.is_available


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("jupyter/kernels/alpha", "name the folder above it, {root}/jupyter/kernels."),
        (".", "name {root}/jupyter."),
        ("other", "name a folder whose folders hold a kernel.json"),
    ],
)
def test_directories_without_a_kernelspec(tmp_path: Path, named: str, told: str) -> None:
    """One that has none is told, with the one that was probably meant, and stops nothing."""
    add_kernelspec(tmp_path / "jupyter" / "kernels", "alpha")
    (tmp_path / "other").mkdir()
    found = find_kernelspecs(tmp_path / named)
    assert found.kernelspecs == ()
    assert [told.format(root=tmp_path) in problem for problem in found.problems] == [True]


def test_minimums(tmp_path: Path) -> None:
    """The minimums of a kernel are written in the units of the API, and kept in bytes."""
    add_kernelspec(
        tmp_path, "alpha", era={"minimums": {"memory_mb": 64, "processes": 8, "cpu": 0.5}}
    )
    assert load_only(tmp_path).minimums == Limits(memory=64 * 1024 * 1024, processes=8, cpu=0.5)


@pytest.mark.parametrize("minimums", [{"memory": 1}, {"processes": 0}, {"memory_mb": "1"}])
def test_minimums_that_are_wrong(tmp_path: Path, minimums: dict[str, object]) -> None:
    """A mistake in them is refused at the start."""
    add_kernelspec(tmp_path, "alpha", era={"minimums": minimums})
    with pytest.raises(StartError, match="minimums"):
        load(tmp_path)


def test_folders_without_a_kernel_json_are_no_languages(tmp_path: Path) -> None:
    """Other folders may lie between the kernelspecs."""
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "file").touch()
    assert list(load(tmp_path)) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"argv": []}, "argv"),
        ({"argv": "sh"}, "argv"),
        ({"language": "!!!"}, "language"),
        ({"interrupt_mode": "shout"}, "interrupt_mode"),
        ({"env": {"A": 1}}, "env.A"),
        ({"era": {"entry": "no function"}}, "entry"),
        ({"era": {"aliasses": ["x"]}}, "aliasses: there is no such key"),
        ({"era": {"capabilities": ["status"]}}, "capabilities.0"),
        ({"era": {"transport": "pigeon"}}, "transport"),
    ],
)
def test_broken_folder_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    """A kernel.json that is wrong stops the start with its path and the place in it."""
    folder = add_kernelspec(tmp_path, "alpha", **changes)
    with pytest.raises(StartError, match=named) as caught:
        load(tmp_path)
    assert str(folder / "kernel.json") in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff"])
def test_file_that_is_no_json_object_is_named(tmp_path: Path, text: str) -> None:
    """A kernel.json that is no JSON stops the start, too."""
    folder = add_kernelspec(tmp_path, "alpha")
    (folder / "kernel.json").write_text(text, errors="surrogateescape")
    with pytest.raises(StartError, match=r"kernel\.json"):
        load(tmp_path)


def test_command_is_absolute(tmp_path: Path) -> None:
    """The program is named by its path, and placeholders are filled."""
    folder = add_kernelspec(tmp_path, "alpha", argv=["sh", "{resource_dir}/x", "{connection_file}"])
    program, *rest = load_only(tmp_path).command(Path("/run/k.json"))
    assert Path(program).is_absolute()
    assert rest == [f"{folder}/x", "/run/k.json"]


def test_placeholder_of_the_interpreter(tmp_path: Path) -> None:
    """`{python}` is the interpreter that runs the server."""
    add_kernelspec(tmp_path, "alpha", argv=["{python}", "-c", "1"])
    assert load_only(tmp_path).is_available
    assert load_only(tmp_path).command(Path("x"))[0] == sys.executable


def test_forked_language_needs_its_modules(tmp_path: Path) -> None:
    """The module of the entry and the preload must be there; else it says which are not."""
    era = {"entry": "launcher:main", "preload": ["json", "no_such_module.x", "sys", "os.path.x"]}
    folder = add_kernelspec(tmp_path, "alpha", era=era)
    missing = "modules are not installed: launcher, no_such_module.x, os.path.x"
    assert load_only(tmp_path).unavailable_reason == missing
    (folder / "launcher.py").touch()
    assert (
        load_only(tmp_path).unavailable_reason
        == "modules are not installed: no_such_module.x, os.path.x"
    )


def test_looking_for_modules_imports_none(tmp_path: Path) -> None:
    """Nothing of a launcher or a preload runs in the server."""
    folder = add_kernelspec(
        tmp_path, "alpha", era={"entry": "launcher:main", "preload": ["pack.part"]}
    )
    (folder / "launcher.py").write_text("raise SystemExit('imported')")
    (folder / "pack").mkdir()
    for name in ("__init__", "part"):
        (folder / "pack" / f"{name}.py").write_text("raise SystemExit('imported')")
    language = load_only(tmp_path)
    assert language.is_available
    assert language.version is not None
    assert "pack" not in sys.modules


def test_builtin_folder_is_there() -> None:
    """The kernelspecs of the package or of the source tree are found and are all valid."""
    assert builtin_dir().is_dir()
    Languages.load()


# ---------------------------------------------------------------- kernels that are only Jupyter's


def test_stock_kernelspec(tmp_path: Path) -> None:
    """A kernel.json with Jupyter's own keys has no fence, and can what Jupyter promises."""
    add_stock_kernelspec(tmp_path, "alpha", kernel_protocol_version="5.5", unknown=[1])
    kernelspec = load_only(tmp_path)
    assert (kernelspec.is_stock, kernelspec.fence) == (True, False)
    assert kernelspec.capabilities == STOCK_CAPABILITIES
    assert kernelspec.display_name == "alpha"
    assert kernelspec.is_available


@pytest.mark.parametrize(
    ("era", "fence"), [({}, True), ({"fence": True}, True), ({"fence": False}, False)]
)
def test_fence(tmp_path: Path, era: dict[str, Any], fence: bool) -> None:
    """A kernel with our metadata has a fence unless that says otherwise."""
    add_kernelspec(tmp_path, "alpha", era=era)
    assert (load_only(tmp_path).fence, load_only(tmp_path).is_stock) == (fence, False)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("R", "r"), ("C++17", "c++17"), ("Wolfram Language", "wolfram-language"), ("C#", "csharp"),
        ("Objective-C", "objective-c"), (".NET (F#)", "net-fsharp"), ("Français", "francais"),
        ("2048", "2048"), ("SAS/STAT", "sas-stat"), ("  Julia  1.9 ", "julia-1-9"), ("C++", "c++"),
        ("q_1", "q_1"), ("bash", "bash"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("add", [add_kernelspec, add_stock_kernelspec])
def test_language_of_any_spelling(tmp_path: Path, add: Any, spelling: str, name: str) -> None:
    """The id is lower case and without spaces; its own spelling finds the language, too."""
    add(tmp_path, "folder", language=spelling)
    (language,) = languages = load(tmp_path)
    assert (language.name, language.default.language) == (name, name)
    assert list(language.aliases) == ([] if spelling == name else [spelling])
    assert languages.resolve(spelling) is languages.resolve(name.upper()) is language


@pytest.mark.parametrize("language", ["", "!!!", "語", "+", "-_"])
def test_language_without_a_name(tmp_path: Path, language: str) -> None:
    """A spelling of which no id can be made is a mistake."""
    add_kernelspec(tmp_path, "alpha", language=language)
    with pytest.raises(StartError, match="language"):
        load(tmp_path)


def test_data_directory_of_jupyter(tmp_path: Path) -> None:
    """A folder with `kernels` in it is read there; what is broken is told and left out."""
    add_stock_kernelspec(tmp_path / "kernels", "ir", language="R")
    add_stock_kernelspec(tmp_path / "kernels", "no-argv", argv=[])
    add_kernelspec(tmp_path / "kernels", "mistake", era={"aliasses": []})
    (tmp_path / "kernels" / "no-json").mkdir()
    (tmp_path / "kernels" / "no-json" / "kernel.json").write_text("{")
    (tmp_path / "kernels" / "empty").mkdir()
    (tmp_path / "runtime").mkdir()
    found = find_kernelspecs(tmp_path)
    assert [one.name for one in found.kernelspecs] == ["ir"]
    assert len(found.problems) == 3
    for name in ("no-argv", "mistake", "no-json"):
        assert any(f"{name}/kernel.json" in problem for problem in found.problems)
    assert load(tmp_path).problems == found.problems


def test_kernels_may_be_the_name_of_a_kernelspec(tmp_path: Path) -> None:
    """A folder `kernels` with a kernel.json is a kernelspec of our own format."""
    add_kernelspec(tmp_path, "kernels")
    assert [one.name for one in find_kernelspecs(tmp_path).kernelspecs] == ["kernels"]
    add_kernelspec(tmp_path, "broken", argv=[])
    with pytest.raises(StartError, match="broken"):
        find_kernelspecs(tmp_path)


# ---------------------------------------------------------------- programs of other installations


def test_program_of_the_installation_that_the_kernelspec_lies_in(tmp_path: Path) -> None:
    """`python` in PREFIX/share/jupyter/kernels is PREFIX/bin/python, and its tools come first."""
    program = add_program(tmp_path / "bin", "python")
    data = tmp_path / "share" / "jupyter"
    add_stock_kernelspec(data / "kernels", "python3", argv=["python", "{prefix}", "{resource_dir}"])
    kernelspec = load_only(data)
    folder = data / "kernels" / "python3"
    assert kernelspec.command(Path()) == (str(program), str(tmp_path), str(folder))
    assert kernelspec.env["PATH"] == f"{tmp_path}/bin:${{PATH}}"
    assert set(kernelspec.readable_paths) == {folder, tmp_path}


def test_program_that_the_installation_lacks(tmp_path: Path) -> None:
    """What is not in the installation is looked for on the path of all kernels."""
    data = tmp_path / "share" / "jupyter"
    add_stock_kernelspec(data / "kernels", "python3", argv=[Path(sys.executable).name, "{prefix}"])
    assert load_only(data).command(Path()) == (sys.executable, str(tmp_path))


def test_program_by_an_absolute_path(tmp_path: Path) -> None:
    """The installation of such a program is readable, and its tools come first."""
    program = add_program(tmp_path / "there" / "bin", "lang")
    add_stock_kernelspec(tmp_path / "specs", "alpha", argv=[str(program)])
    kernelspec = load_only(tmp_path / "specs")
    assert kernelspec.command(Path()) == (str(program),)
    assert kernelspec.env == {"PATH": f"{program.parent}:${{PATH}}"}
    assert set(kernelspec.readable_paths) == {tmp_path / "specs" / "alpha", tmp_path / "there"}


@pytest.mark.parametrize("changes", [{"era": {}}, {"env": {"PATH": "mine"}}])
def test_path_that_the_kernelspec_sets(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A PATH of the kernelspec's own wins, and those of our own format get none."""
    program = add_program(tmp_path / "there" / "bin", "lang")
    add = add_kernelspec if "era" in changes else add_stock_kernelspec
    add(tmp_path / "specs", "alpha", argv=[str(program)], **changes)
    assert load_only(tmp_path / "specs").env == changes.get("env", {})


def test_links_to_a_program_are_followed(tmp_path: Path) -> None:
    """An environment's interpreter is a link: all installations on the way are readable."""
    real = add_program(tmp_path / "real" / "bin", "lang-1.2")
    for root, target in (("middle", real), ("env", tmp_path / "middle" / "bin" / "lang")):
        (tmp_path / root / "bin").mkdir(parents=True)
        (tmp_path / root / "bin" / "lang").symlink_to(target)
    program = tmp_path / "env" / "bin" / "lang"
    add_stock_kernelspec(tmp_path / "specs", "alpha", argv=[str(program)])
    kernelspec = load_only(tmp_path / "specs")
    assert kernelspec.command(Path()) == (str(program),)
    roots = {tmp_path / name for name in ("env", "middle", "real")}
    assert set(kernelspec.readable_paths) == {tmp_path / "specs" / "alpha", *roots}


def test_links_in_a_circle_are_a_missing_program(tmp_path: Path) -> None:
    """A link to itself leads to no program, and to no endless walk."""
    loop = tmp_path / "bin" / "lang"
    loop.parent.mkdir()
    loop.symlink_to(loop)
    add_stock_kernelspec(tmp_path / "specs", "alpha", argv=[str(loop)])
    kernelspec = load_only(tmp_path / "specs")
    assert kernelspec.unavailable_reason == f"the program {loop} is not installed"
    assert kernelspec.readable_paths


def test_home_directory_is_no_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in ~/bin makes that folder readable, and not the whole home directory."""
    home = tmp_path / "home" / "ada"
    monkeypatch.setenv("HOME", str(home))
    for folder in (home / "bin", home / ".local" / "bin", tmp_path / "home" / "bin"):
        program = add_program(folder, "lang")
        specs = folder.parent / "specs"
        add_stock_kernelspec(specs, "alpha", argv=[str(program)])
        assert set(load_only(specs).readable_paths) == {specs / "alpha", folder}


def test_installation_whose_program_is_deep_in_it(tmp_path: Path) -> None:
    """The whole installation that a kernelspec lies in is readable, wherever its program is."""
    program = add_program(tmp_path / "lib" / "R" / "bin", "R")  # as conda has it
    data = tmp_path / "share" / "jupyter"
    add_stock_kernelspec(data / "kernels", "ir", argv=[str(program)])
    assert tmp_path in load_only(data).readable_paths


def test_kernelspec_of_one_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernelspec in ~/.local makes only its own folder readable, and that of its program."""
    monkeypatch.setenv("HOME", str(tmp_path))
    data = tmp_path / ".local" / "share" / "jupyter"
    program = add_program(tmp_path / "there" / "bin", "lang")
    folder = add_stock_kernelspec(data / "kernels", "alpha", argv=[str(program)])
    assert set(load_only(data).readable_paths) == {folder, tmp_path / "there"}


def test_missing_program_makes_nothing_else_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare name that leads nowhere does not stand for the working directory."""
    monkeypatch.chdir(tmp_path)
    add_stock_kernelspec(tmp_path / "specs", "alpha", argv=["no-such-program-1"])
    assert load_only(tmp_path / "specs").readable_paths == (tmp_path / "specs" / "alpha",)


def test_tools_on_the_path_of_all_kernels_stay_where_they_are(tmp_path: Path) -> None:
    """A program of the system's folders changes no PATH."""
    program = Path(search_path().split(os.pathsep)[-1]) / "sh"
    add_stock_kernelspec(tmp_path, "alpha", argv=[str(program)])
    assert load_only(tmp_path).env == {}


def test_what_differs_from_kernel_to_kernel(tmp_path: Path) -> None:
    """How a kernel names its sockets and when its output ends is said in its folder."""
    add_kernelspec(tmp_path, "usual")
    add_kernelspec(tmp_path, "urls", era={"ipc_separator": ":", "settle_ms": 30})
    urls, usual = find_kernelspecs(tmp_path).kernelspecs
    assert (usual.ipc_separator, usual.settle) == ("-", 0)
    assert (urls.ipc_separator, urls.settle) == (":", 0.03)


@pytest.mark.parametrize(
    "wrong", [{"ipc_separator": "/"}, {"ipc_separator": ""}, {"settle_ms": -1}, {"settle_ms": 9999}]
)
def test_what_makes_no_sense(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """A separator that is no part of a name, and a silence that would be felt, are mistakes."""
    add_kernelspec(tmp_path, "odd", era=wrong)
    with pytest.raises(StartError, match=next(iter(wrong))):
        find_kernelspecs(tmp_path)
