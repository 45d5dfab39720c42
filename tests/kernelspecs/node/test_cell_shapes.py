"""Cells of every shape: statements of all kinds, each before each, with and without line breaks."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from tests.kernelspecs.node.test_plain_node import execute
from tests.kernelspecs.node.toolchain import NODE, jupyter_kernelspec, requires_node
from tests.languages.jupyter_checks import JupyterKernel, open_kernel

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
PAIRS = [
    pair for pair in product(STATEMENTS, repeat=2) if not all("default" in one for one in pair)
]


def _cells() -> list[str]:
    """Returns pairs of statements behind each other, in lines of their own and in one line."""
    pairs = [[one.format(n=place) for one, place in zip(pair, "12", strict=True)] for pair in PAIRS]
    in_one_line = [
        "; ".join(part.replace("\n", "; ") for part in pair)
        for pair in pairs
        if not any(part.startswith("//") for part in pair)
    ]
    return ["\n".join(pair) for pair in pairs] + in_one_line


CELLS = _cells()


def _run_plain(directory: Path) -> list[str]:
    """Returns what plain Node prints for each cell as a module of its own."""
    imports = []
    for number, cell in enumerate(CELLS):
        (directory / f"cell{number}.mjs").write_text(cell)
        imports.append(f"console.log('\\0'); await import('./cell{number}.mjs')")
    (directory / "all.mjs").write_text("\n".join(imports))
    done = subprocess.run(
        [str(NODE), "all.mjs"], cwd=directory, capture_output=True, check=True, timeout=120
    )
    return re.split("^\0\n", done.stdout.decode(), flags=re.MULTILINE)[1:]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return _run_plain(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module", params=["node", "typescript"])
def kernel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[JupyterKernel]:
    directory = tmp_path_factory.mktemp("kernel")
    with open_kernel(jupyter_kernelspec(request.param, directory), directory, "ipc") as kernel:
        yield kernel


def test_shapes(kernel: JupyterKernel, printed: list[str]) -> None:
    """A cell prints what a module of the same text prints, after cells with the same names."""
    assert len(printed) == len(CELLS)
    failed = [
        (cell, result, expected)
        for cell, expected in zip(CELLS, printed, strict=True)
        if (result := execute(kernel, cell)[0]) != (expected, "", 0)
    ]
    assert not failed, f"{len(failed)} of {len(CELLS)}, of which are: {failed[:5]}"
