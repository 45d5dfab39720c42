"""Builds the environment of a session's processes from empty: nothing of the server leaks in."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template

from era_kernels.models import SessionPaths


def search_path() -> str:
    """Returns the PATH of all sessions: tools of this installation, then those of the system."""
    bin_directory = Path(sys.executable).parent
    return f"{bin_directory}:/usr/local/bin:/usr/bin:/bin"


def fill_placeholders(template: str, values: Mapping[str, str]) -> str:
    """Replaces the placeholders in a text of a kernelspec; other braces stay.

    >>> fill_placeholders("{cache}/history {x}", {"{cache}": "/c"})
    '/c/history {x}'
    """
    for placeholder, value in values.items():
        template = template.replace(placeholder, value)
    return template


def build_environment(
    templates: Mapping[str, str], paths: SessionPaths, session_env: Mapping[str, str]
) -> dict[str, str]:
    """Returns the whole environment of a kernel; `paths` are as the kernel sees them.

    `templates` are the variables of its language, in which `{workspace}`, `{packages}` and
    `{cache}` stand for the session's directories, and `${PATH}` or `$PATH` for a variable that all
    languages get, as in Jupyter's kernelspecs; `session_env` are its own and win.
    """
    placeholders = {
        "{workspace}": str(paths.workspace),
        "{packages}": str(paths.packages),
        "{cache}": str(paths.cache),
    }
    common = _common_environment(paths)
    language_env = {
        name: Template(fill_placeholders(template, placeholders)).safe_substitute(common)
        for name, template in templates.items()
    }
    return {**common, **language_env, **session_env}


def _common_environment(paths: SessionPaths) -> dict[str, str]:
    """Returns what every language gets.

    Caches lie outside the workspace, which holds the user's files.
    """
    return {
        "PATH": search_path(),
        "HOME": str(paths.workspace),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(paths.temporary),
        "XDG_CACHE_HOME": str(paths.cache / "xdg"),
        "XDG_CONFIG_HOME": str(paths.cache / "config"),
        "XDG_DATA_HOME": str(paths.cache / "data"),
        "IPYTHONDIR": str(paths.cache / "ipython"),
        "JUPYTER_CONFIG_DIR": str(paths.cache / "jupyter" / "config"),
        "JUPYTER_DATA_DIR": str(paths.cache / "jupyter" / "data"),
        "JUPYTER_RUNTIME_DIR": str(paths.cache / "jupyter" / "runtime"),
        # 1: no kernel may end because its parent, the sandbox's init, is not the expected one.
        "JPY_PARENT_PID": "1",
    }
