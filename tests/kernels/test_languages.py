"""Kernelspec folders: what is read, what is refused, what is available here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from era_kernels.errors import LanguageUnavailable, StartError, UnsupportedLanguage
from era_kernels.kernels.kernelspecs import Kernelspec, builtin_dir
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


def test_names_and_aliases_are_found_in_any_case(tmp_path: Path) -> None:
    """A language is resolved by its name or an alias, however it is written."""
    add_kernelspec(tmp_path, "alpha", era={"aliases": ["Al"]})
    languages = load(tmp_path)
    assert {languages.resolve(name).name for name in ("alpha", "ALPHA", "al", "AL")} == {"alpha"}


def test_unknown_language_lists_the_known_ones(tmp_path: Path) -> None:
    """The error for an unknown language lists the known ones."""
    add_kernelspec(tmp_path, "beta")
    add_kernelspec(tmp_path, "alpha")
    with pytest.raises(UnsupportedLanguage, match="alpha, beta") as caught:
        load(tmp_path).resolve("x" * 1000)
    assert caught.value.details == {"supported": ["alpha", "beta"]}
    assert len(caught.value.message) < 200


def test_folders_of_the_settings_win(tmp_path: Path) -> None:
    """The same language in an earlier folder replaces the later one completely."""
    add_kernelspec(tmp_path / "mine", "alpha", era={"aliases": ["mine"]})
    add_kernelspec(tmp_path / "builtin", "alpha", era={"aliases": ["theirs"]})
    add_kernelspec(tmp_path / "builtin", "beta")
    languages = load(tmp_path / "mine", tmp_path / "builtin")
    assert [language.name for language in languages] == ["alpha", "beta"]
    assert languages.resolve("alpha").aliases == ("mine",)


def test_two_languages_cannot_share_an_alias(tmp_path: Path) -> None:
    """An alias that would be ambiguous is refused, naming both folders."""
    add_kernelspec(tmp_path, "alpha", era={"aliases": ["x"]})
    add_kernelspec(tmp_path, "beta", era={"aliases": ["X"]})
    with pytest.raises(StartError, match=r"alpha.*beta"):
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
        ({"era": {"aliasses": ["x"]}}, "aliasses"),
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


def test_missing_folder_of_the_settings_is_named(tmp_path: Path) -> None:
    """A setting that points nowhere is not silently nothing."""
    with pytest.raises(StartError, match="nowhere"):
        Languages.load([tmp_path / "nowhere"], tmp_path)


# ---------------------------------------------------------------- what this host has


def test_program_that_is_missing_makes_a_language_unavailable(tmp_path: Path) -> None:
    """A known language that cannot run says what is missing, to those who ask for it."""
    add_kernelspec(tmp_path, "alpha", argv=["no-such-program-1"])
    languages = load(tmp_path)
    assert (
        languages.resolve("alpha").default.unavailable_reason
        == "the program no-such-program-1 is not installed"
    )
    with pytest.raises(LanguageUnavailable, match="no-such-program-1"):
        languages.resolve("alpha").available_kernel(None)


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


def test_preload_is_that_of_all_available_forked_languages(tmp_path: Path) -> None:
    """The zygote gets each module once, and nothing of languages that cannot run."""
    add_kernelspec(tmp_path, "alpha", era={"entry": "one:main", "preload": ["json", "email"]})
    add_kernelspec(tmp_path, "beta", era={"entry": "two:main", "preload": ["json", "csv"]})
    add_kernelspec(tmp_path, "gamma", era={"entry": "missing:main", "preload": ["wave"]})
    add_kernelspec(tmp_path, "delta", era={"preload": ["queue"]})
    (tmp_path / "alpha" / "one.py").touch()
    (tmp_path / "beta" / "two.py").touch()
    languages = load(tmp_path)
    assert languages.preload == ("json", "email", "csv")
    assert languages.entry_paths == (tmp_path / "alpha", tmp_path / "beta")


def test_description_is_what_the_api_lists(tmp_path: Path) -> None:
    """A description has a reason only where there is one."""
    add_kernelspec(tmp_path, "alpha")
    add_kernelspec(tmp_path, "beta", argv=["no-such-program-1"])
    alpha, beta = (language.describe() for language in load(tmp_path))
    assert alpha == {
        "name": "alpha",
        "aliases": [],
        "available": True,
        "version": None,
        "kernels": ["alpha"],
        "capabilities": [],
    }
    assert beta["available"] is False
    assert beta["reason"]


def test_builtin_folder_is_there() -> None:
    """The kernelspecs of the package or of the source tree are found and are all valid."""
    assert builtin_dir().is_dir()
    Languages.load()
