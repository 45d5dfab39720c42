"""The documentation agrees with the code, and the README's examples run.

`python -m tests.docs.test_docs` prints the table for docs/settings.md.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Protocol

import pytest

from era_kernels.errors import EraError
from era_kernels.services.executions.last_events import ERROR_LABELS
from era_kernels.setting_errors import env_variable, flag_name
from era_kernels.setting_types import format_default
from era_kernels.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
TIMEOUT = "EXECUTION_TIMEOUT"  # a response with an error's fields, but no class in errors.py
ADDRESS = "http://127.0.0.1:8787"
# Each with the output that is shown below it, if any; "…" stands for what is left out there.
EXAMPLES = re.findall(
    r"```bash\n(.*?)```(?:\n```\w*\n(.*?)```)?",
    (ROOT / "README.md").read_text("utf-8"),
    re.DOTALL,
)


class ServerAddress(Protocol):
    """The part of the server under test that is used here."""

    @property
    def base_url(self) -> str: ...


def settings_table() -> str:
    """Returns every setting as a row of a table in Markdown."""
    rows = ["| setting | default | flag | environment | what it is |", "|---|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        flag, variable, default = flag_name(name), env_variable(name), format_default(field)
        rows.append(f"| `{name}` | {default} | `{flag}` | `{variable}` | {field.description} |")
    return "\n".join(rows)


def test_settings_are_documented() -> None:
    """docs/settings.md lists every setting as the code describes it."""
    assert settings_table() in (ROOT / "docs" / "settings.md").read_text("utf-8")


def test_errors_are_documented() -> None:
    """docs/errors.md lists every error class with its status, and the errors that end a run."""
    page = (ROOT / "docs" / "errors.md").read_text("utf-8")
    waiting, kinds = [EraError], set()
    while waiting:
        kind = waiting.pop()
        waiting += [one for one in kind.__subclasses__() if one.__module__ == kind.__module__]
        kinds.add((str(kind.status), kind.code))
    assert {*re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.MULTILINE)} == {
        *kinds,
        ("408", TIMEOUT),
    }
    ends = {*re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)}
    assert ends == ERROR_LABELS.keys() - {TIMEOUT}


def test_commands_are_documented() -> None:
    """The README names the two commands that a newcomer needs."""
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "make serve" in readme
    assert "make test" in readme


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    """A link from one page to another has a target."""
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_there_are_examples() -> None:
    """The README has at least five examples, as it promises."""
    assert len(EXAMPLES) >= 5


def test_examples_run(server: ServerAddress) -> None:
    """The README's examples work as they are printed, and give what is printed below them."""
    for example, shown in EXAMPLES:
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", example.replace(ADDRESS, server.base_url)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout, example
        assert '"error":' not in done.stdout, (example, done.stdout)
        parts = [re.escape(part.strip()) for part in shown.split("…")]
        # Lines that a busy machine sends late are in one frame with those after them.
        parts = [part.replace('\\\\n"', '\\\\n[^"]*"') for part in parts]
        assert re.search(".*".join(parts), done.stdout, re.DOTALL), (shown, done.stdout)


if __name__ == "__main__":
    print(settings_table())
