"""Cells of every shape: the statements of TypeScript, each before each, beside plain Deno."""

from __future__ import annotations

import re
import subprocess
from itertools import product
from pathlib import Path

import pytest

from tests.kernelspecs.deno.toolchain import DENO, jupyter_kernelspec, requires_deno
from tests.kernelspecs.node.test_cell_shapes import STATEMENTS
from tests.kernelspecs.node.test_plain_node import execute
from tests.languages.jupyter_checks import open_kernel

pytestmark = requires_deno

TYPED = [
    "enum E{n} {{ A, B = 5 }}\nconsole.log(E{n}.B, E{n}[0])",
    "const enum X{n} {{ A = 'a' }}\nconsole.log(X{n}.A)",
    "interface I{n} {{ a: number }}\nconst i{n}: I{n} = {{ a: 1 }}\nconsole.log(i{n})",
    "type T{n} = string | number\nlet t{n}: T{n} = 't'\nconsole.log(t{n})",
    "namespace N{n} {{ export const value = 1 }}\nconsole.log(N{n}.value)",
    "class D{n} {{ constructor(private readonly x: number) {{}} }}\nconsole.log(new D{n}(3))",
    "abstract class B{n} {{ abstract area(): number; declare y: string }}\nconsole.log(B{n})",
    "using y{n} = {{ [Symbol.dispose]() {{ console.log('closed') }} }}\nconsole.log(typeof y{n})",
    "{{ await using q = {{ async [Symbol.asyncDispose]() {{ console.log('closed') }} }} }}",
    "import type {{ ParsedPath as P{n} }} from 'node:path'\nconsole.log(null as P{n} | null)",
    "import {{ type ParsedPath as Q{n}, sep as m{n} }} from 'node:path'\nconsole.log(m{n})",
    "const z{n} = {{ a: 1 }} satisfies Record<string, number>\nconsole.log(z{n}!.a)",
    "export type Y{n} = number\nexport enum F{n} {{ A = 2 }}\nconsole.log(F{n}.A)",
    "function w{n}(x: number): number\nfunction w{n}(x: any) {{ return x }}\nconsole.log(w{n}(1))",
    "declare const dd{n}: number\nconsole.log(typeof dd{n})",
    "const gen{n} = <T,>(x: T): T => x\nconsole.log(gen{n}<number>(1))",
    "export {{ sep as x{n} }} from 'node:path'\nconsole.log('again')",
    "import * as all{n} from 'node:path'\nconsole.log(all{n}.sep)",
]


def _cells(statements: list[str]) -> list[str]:
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


def _run_plain(directory: Path, cells: list[str]) -> list[str]:
    """Returns what plain Deno prints for each cell as a module of its own."""
    imports = []
    for number, cell in enumerate(cells):
        (directory / f"cell{number}.ts").write_text(cell)
        imports.append(f"console.log('\\0'); await import('./cell{number}.ts')")
    (directory / "all.ts").write_text("\n".join(imports))
    command = [str(DENO), "run", "-A", "all.ts"]
    done = subprocess.run(command, cwd=directory, capture_output=True, check=True, timeout=300)
    return re.split("^\0\n", done.stdout.decode(), flags=re.MULTILINE)[1:]


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(TYPED, id="typed"),
        pytest.param(STATEMENTS + TYPED, id="all", marks=pytest.mark.long),
    ],
)
def test_shapes(tmp_path: Path, statements: list[str]) -> None:
    """A cell prints what a module of the same text prints, after cells with the same names."""
    cells = _cells(statements)
    printed = _run_plain(tmp_path, cells)
    assert len(printed) == len(cells)
    with open_kernel(jupyter_kernelspec(tmp_path), tmp_path, "ipc") as kernel:
        failed = [
            (cell, result, expected)
            for cell, expected in zip(cells, printed, strict=True)
            if (result := execute(kernel, cell)[0]) != (expected, "", 0)
        ]
    assert not failed, f"{len(failed)} of {len(cells)}, of which are: {failed[:5]}"
