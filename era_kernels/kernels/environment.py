"""The environment of a session's processes, built from empty: nothing of the server's leaks in."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from era_kernels.models import Place


def search_path() -> str:
    """PATH of all sessions: the tools of this installation first, then those of the system."""
    own = Path(sys.executable).parent
    return f"{own}:/usr/local/bin:/usr/bin:/bin"


def filled(template: str, values: Mapping[str, str]) -> str:
    """A kernelspec's text with its placeholders replaced; other braces stay.

    >>> filled("{cache}/history {x}", {"{cache}": "/c"})
    '/c/history {x}'
    """
    for placeholder, value in values.items():
        template = template.replace(placeholder, value)
    return template


def environment(
    templates: Mapping[str, str], place: Place, given: Mapping[str, str]
) -> dict[str, str]:
    """The whole environment of a kernel in that place, which is as the kernel sees it.

    `templates` are the variables of its language, in which `{workspace}`, `{packages}` and
    `{cache}` stand for the place's directories; `given` are the session's own and win.
    """
    places = {
        "{workspace}": str(place.workspace),
        "{packages}": str(place.packages),
        "{cache}": str(place.cache),
    }
    own = {name: filled(template, places) for name, template in templates.items()}
    return {**_common(place), **own, **given}


def _common(place: Place) -> dict[str, str]:
    """What every language gets. Caches lie outside the workspace, which holds the user's files."""
    return {
        "PATH": search_path(),
        "HOME": str(place.workspace),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(place.temporary),
        "XDG_CACHE_HOME": str(place.cache / "xdg"),
        "XDG_CONFIG_HOME": str(place.cache / "config"),
        "XDG_DATA_HOME": str(place.cache / "data"),
        "JUPYTER_CONFIG_DIR": str(place.cache / "jupyter" / "config"),
        "JUPYTER_DATA_DIR": str(place.cache / "jupyter" / "data"),
        "JUPYTER_RUNTIME_DIR": str(place.cache / "jupyter" / "runtime"),
        # 1: no kernel may end because its parent, the sandbox's init, is not who it expected.
        "JPY_PARENT_PID": "1",
    }
