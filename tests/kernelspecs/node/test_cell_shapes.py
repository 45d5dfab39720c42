"""Cells of every shape: statements of all kinds, each before each, with and without line breaks."""

from __future__ import annotations

import re
import subprocess
from itertools import product
from pathlib import Path

import pytest

from tests.kernelspecs.node.test_plain_node import execute
from tests.kernelspecs.node.toolchain import NODE, requires_node
from tests.languages.jupyter_checks import JupyterKernel

pytestmark = requires_node

# Names end in the place of the statement in its cell, so that later cells declare them again.
STATEMENTS = [
    "var v{n} = 'var'\nconsole.log(v{n})",
    "var u{n}\nconsole.log(u{n} = 5)",
    "let l{n} = ['let']\nconsole.log(l{n})",
    "const {{ c{n}, ...r{n} }} = {{ c{n}: 1, d: 2 }}\nconsole.log(c{n}, r{n})",
    "function f{n}() {{ return 'f' }}\nconsole.log(f{n}())",
    "console.log(o{n}())\nfunction o{n}() {{ return 'hoisted' }}",
    "async function g{n}() {{ return 'g' }}\nconsole.log(await g{n}())",
    "async function* h{n}() {{ yield 1 }}\nfor await (const x of h{n}()) console.log(x)",
    "class K{n} {{ static s = 1 }}\nconsole.log(K{n}.s)",
    "for (let i = 0; i < 2; i++) console.log(await i)",
    "if (await true) console.log('then'); else console.log('else')",
    "{{ let inner = await 1; var out{n} = inner }}\nconsole.log(out{n})",
    "import {{ sep as s{n} }} from 'node:path'\nconsole.log(s{n})",
    "export const e{n} = 1\nconsole.log(e{n})",
    "export default function d{n}() {{ return 'default' }}\nconsole.log(d{n}())",
    "label{n}: for (const x of [1, 2]) {{ if (x > 1) break label{n}; console.log(await x) }}",
    "try {{ throw new Error('thrown') }} catch ({{ message }}) {{ console.log(message) }}",
    ";(() => console.log(`${{typeof 1}}`))()",
    "switch (await 1) {{ case 1: {{ const inner = 2; console.log(inner) }} }}",
    "var a{n} = async () => 1, b{n} = await a{n}()\nconsole.log(b{n})",
    "// a comment",
    "void 0",
]


def make_cells(statements: list[str]) -> list[str]:
    """Returns pairs of statements behind each other, in lines of their own and in one line."""
    cells = []
    for pair in product(statements, repeat=2):
        if all("export default" in one for one in pair):
            continue
        parts = [one.format(n=place) for one, place in zip(pair, "12", strict=True)]
        cells.append("\n".join(parts))
        if not any(part.startswith("//") for part in parts):
            cells.append("; ".join(part.replace("\n", "; ") for part in parts))
    return cells


def run_plain(directory: Path, command: list[str], ending: str, cells: list[str]) -> list[str]:
    """Returns what plain Node or Deno prints for each cell as a module of its own."""
    imports = []
    for number, cell in enumerate(cells):
        (directory / f"cell{number}.{ending}").write_text(cell)
        imports.append(f"console.log('\\0'); await import('./cell{number}.{ending}')")
    (directory / f"all.{ending}").write_text("\n".join(imports))
    command = [*command, f"all.{ending}"]
    done = subprocess.run(command, cwd=directory, capture_output=True, check=True, timeout=300)
    return re.split("^\0\n", done.stdout.decode(), flags=re.MULTILINE)[1:]


def check_shapes(kernel: JupyterKernel, cells: list[str], printed: list[str]) -> None:
    """Compares what cells print with what modules of the same texts have printed."""
    assert len(printed) == len(cells)
    failed = [
        (cell, result, expected)
        for cell, expected in zip(cells, printed, strict=True)
        if (result := execute(kernel, cell)[0]) != (expected, "", 0)
    ]
    assert not failed, f"{len(failed)} of {len(cells)}, of which are: {failed[:5]}"


CELLS = make_cells(STATEMENTS)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return run_plain(tmp_path_factory.mktemp("plain"), [str(NODE)], "mjs", CELLS)


def test_shapes(kernel: JupyterKernel, printed: list[str]) -> None:
    """A cell prints what a module of the same text prints, after cells with the same names."""
    check_shapes(kernel, CELLS, printed)
