"""Languages: found by name and alias, their kernels, what this host has of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from era_kernels.errors import (
    InvalidRequest,
    LanguageUnavailable,
    StartError,
    UnsupportedLanguage,
)
from era_kernels.kernels.languages import REFRESH_INTERVAL, Languages
from tests.kernels.test_kernelspecs import (
    add_kernelspec,
    add_program,
    add_stock_kernelspec,
    load,
)


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


def test_missing_folder_of_the_settings_is_named(tmp_path: Path) -> None:
    """A setting that points nowhere is not silently nothing."""
    with pytest.raises(StartError, match="nowhere"):
        Languages.load([tmp_path / "nowhere"], tmp_path)


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
        "kernel_details": [
            {
                "name": "alpha",
                "display_name": "alpha",
                "available": True,
                "version": None,
                "capabilities": [],
                "fence": True,
            }
        ],
    }
    assert beta["available"] is False
    assert beta["reason"]


# ---------------------------------------------------------------- several kernels of a language


def test_kernels_of_a_language(tmp_path: Path) -> None:
    """Folders with one language are its kernels; the one that is named like it is the default."""
    add_kernelspec(tmp_path / "mine", "other", language="alpha")
    add_kernelspec(tmp_path / "builtin", "alpha")
    (language,) = load(tmp_path / "mine", tmp_path / "builtin")
    assert [one.name for one in language.kernels] == ["alpha", "other"]
    assert language.kernel(None) is language.default is language.kernels[0]
    assert language.kernel("other") is language.kernel("OTHER") is language.kernels[1]
    with pytest.raises(InvalidRequest, match="must be one of alpha, other"):
        language.kernel("third")


def test_first_found_is_the_default_where_none_has_the_name(tmp_path: Path) -> None:
    """Without a folder that is named as the language, the first found is the default."""
    add_kernelspec(tmp_path / "a", "second", language="alpha")
    add_kernelspec(tmp_path / "b", "first", language="alpha")
    (language,) = load(tmp_path / "a", tmp_path / "b")
    assert [one.name for one in language.kernels] == ["second", "first"]


@pytest.mark.parametrize("spelling", ["Al", "al", "AL", "Alpha", "Alpha Script"])
def test_stock_kernel_of_an_alias(tmp_path: Path, spelling: str) -> None:
    """A stock kernel that calls its language by an alias is a further kernel of that language."""
    add_stock_kernelspec(tmp_path / "data" / "kernels", "other", language=spelling)
    add_kernelspec(tmp_path / "builtin", "alpha", era={"aliases": ["Al", "alpha script"]})
    (language,) = languages = load(tmp_path / "data", tmp_path / "builtin")
    assert [one.name for one in language.kernels] == ["alpha", "other"]
    assert {one.language for one in language.kernels} == {"alpha"}
    assert languages.resolve(spelling) is language


def test_spellings_of_one_language(tmp_path: Path) -> None:
    """Stock kernels that spell their language differently are kernels of one."""
    for name, spelling in (
        ("one", "Wolfram Language"),
        ("two", "wolfram language"),
        ("three", "R"),
    ):
        add_stock_kernelspec(tmp_path, name, language=spelling)
    r, wolfram = load(tmp_path)
    assert (r.name, len(r.kernels)) == ("r", 1)
    assert (wolfram.name, len(wolfram.kernels)) == ("wolfram-language", 2)


# ---------------------------------------------------------------- what is installed later


async def test_what_is_installed_later_runs_without_a_restart(tmp_path: Path) -> None:
    """A kernel that is unavailable is looked at again when somebody wants it."""
    program = tmp_path / "bin" / "lang"
    add_stock_kernelspec(tmp_path / "specs", "alpha", argv=[str(program)])
    languages = load(tmp_path / "specs")
    with pytest.raises(LanguageUnavailable, match="not installed"):
        await languages.available_kernel("alpha")
    add_program(program.parent, program.name)
    await asyncio.sleep(REFRESH_INTERVAL)
    kernelspec = await languages.available_kernel("ALPHA")
    assert kernelspec.is_available
    assert [one.default for one in languages] == [kernelspec]
    assert languages.resolve("alpha").default is kernelspec


async def test_refresh_looks_seldom(tmp_path: Path) -> None:
    """What is asked for all the time is looked for twice a second at most."""
    program = tmp_path / "bin" / "lang"
    add_stock_kernelspec(tmp_path / "specs", "alpha", argv=[str(program)])
    languages = load(tmp_path / "specs")
    await languages.refresh()
    add_program(program.parent, program.name)
    await languages.refresh()
    assert not languages.resolve("alpha").default.is_available
    await asyncio.sleep(REFRESH_INTERVAL)
    await asyncio.gather(*(languages.refresh() for _ in range(20)))
    assert languages.resolve("alpha").default.is_available


async def test_kernel_that_is_gone(tmp_path: Path) -> None:
    """A kernel that a session was created with, and that is no more, is unavailable."""
    add_kernelspec(tmp_path, "alpha")
    with pytest.raises(LanguageUnavailable, match="no kernel other"):
        await load(tmp_path).available_kernel("alpha", "other")


def test_readable_paths_are_those_of_all_kernels(tmp_path: Path) -> None:
    """Kernels that lack something may get it while the server runs; only folders count."""
    add_kernelspec(tmp_path / "specs", "alpha", argv=["no-such-program-1"])
    add_kernelspec(tmp_path / "specs", "beta", argv=[str(tmp_path / "later" / "bin" / "lang")])
    add_program(tmp_path / "there" / "bin", "lang")
    add_kernelspec(
        tmp_path / "specs", "other", language="alpha", argv=[str(tmp_path / "there/bin/lang")]
    )
    specs = tmp_path / "specs"
    readable = load(specs).readable_paths
    assert set(readable) == {specs / "alpha", specs / "beta", specs / "other", tmp_path / "there"}
