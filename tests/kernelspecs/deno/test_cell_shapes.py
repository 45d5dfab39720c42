"""Cells of every shape: the statements of TypeScript, each before each, beside plain Deno."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernelspecs.deno.toolchain import DENO, requires_deno
from tests.kernelspecs.node.test_cell_shapes import (
    STATEMENTS,
    check_shapes,
    make_cells,
    run_plain,
)
from tests.languages.jupyter_checks import JupyterKernel

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


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(TYPED, id="typed"),
        pytest.param(STATEMENTS + TYPED, id="all", marks=pytest.mark.long),
    ],
)
def test_shapes(kernel: JupyterKernel, tmp_path: Path, statements: list[str]) -> None:
    """A cell prints what a module of the same text prints, after cells with the same names."""
    cells = make_cells(statements)
    check_shapes(kernel, cells, run_plain(tmp_path, [str(DENO), "run", "-A"], "ts", cells))
