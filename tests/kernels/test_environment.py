"""The environment of kernels is built from empty."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from era_kernels.kernels.environment import build_environment, fill_placeholders, search_path
from era_kernels.models import SessionPaths


@pytest.fixture
def place(tmp_path: Path) -> SessionPaths:
    return SessionPaths(tmp_path / "workspace", tmp_path / "packages", tmp_path / "cache")


def test_nothing_of_the_server_leaks_in(
    place: SessionPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable of the server is in no kernel's environment."""
    monkeypatch.setenv("ERA_API_TOKENS", "a secret")
    monkeypatch.setenv("LD_PRELOAD", "evil.so")
    env = build_environment({}, place, {"ERA_SESSION": "true"})
    assert env["ERA_SESSION"] == "true"
    assert not {"ERA_API_TOKENS", "LD_PRELOAD"} & set(env)
    assert "a secret" not in str(env)


def test_home_is_the_workspace_and_caches_are_not_in_it(place: SessionPaths) -> None:
    """Code is at home in its workspace; what tools keep for themselves lies elsewhere."""
    env = build_environment({}, place, {})
    assert env["HOME"] == str(place.workspace)
    names_with_workspace = [name for name, value in env.items() if str(place.workspace) in value]
    assert names_with_workspace == ["HOME"]
    assert Path(env["XDG_CACHE_HOME"]).is_relative_to(place.cache)


def test_templates_of_the_language_are_filled(place: SessionPaths) -> None:
    """A kernelspec names its caches relative to the session's directories."""
    env = build_environment({"MINE": "{cache}/m:{packages}:{workspace}:{other}"}, place, {})
    assert env["MINE"] == f"{place.cache}/m:{place.packages}:{place.workspace}:{{other}}"


def test_the_session_wins_over_the_language(place: SessionPaths) -> None:
    """What the session gives replaces what the kernelspec says."""
    assert build_environment({"A": "spec"}, place, {"A": "session"})["A"] == "session"


def test_tools_of_this_installation_come_first() -> None:
    """PATH finds the interpreter that runs the server, and the system's tools."""
    assert shutil.which(Path(sys.executable).name, path=search_path()) == sys.executable
    assert shutil.which("sh", path=search_path()) is not None
    assert os.environ["PATH"] != search_path()


def test_values_are_not_templates() -> None:
    """A value that fills a placeholder is not filled again itself."""
    assert fill_placeholders("{a}", {"{a}": "{0!r}"}) == "{0!r}"


def test_variables_of_all_languages_can_be_named(place: SessionPaths) -> None:
    """As in Jupyter's kernelspecs `${PATH}` is the path that all have; what is unknown stays."""
    templates = {"PATH": "/mine:${PATH}", "A": "$HOME/a", "B": "${NOTHING} $5", "C": "${ERA_X}"}
    env = build_environment(templates, place, {"ERA_X": "secret"})
    assert env["PATH"] == f"/mine:{search_path()}"
    assert (env["A"], env["B"], env["C"]) == (
        f"{place.workspace}/a",
        "${NOTHING} $5",
        "${ERA_X}",
    )
