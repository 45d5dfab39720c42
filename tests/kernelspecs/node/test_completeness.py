"""Whether code is whole, as a console asks at the end of each line: a table for both languages."""

from __future__ import annotations

import pytest

from tests.kernelspecs.node.toolchain import requires_node
from tests.languages.jupyter_checks import JupyterKernel

pytestmark = requires_node

BEGUN = [
    "function f(",
    "function f() {",
    "a +",
    "foo(",
    "[1,",
    "`abc",
    "`a${",
    "/* x",
    "x = {",
    "if (x)",
    "if (x) {",
    "for (let i = 0",
    "while (x)",
    "try {",
    "try {}",
    "class A {",
    "class A { m() {",
    "const x",
    "let x =",
    "async () => {",
    "import { a } from",
    "import x",
    "export {",
    "switch (a) { case 1:",
    "label:",
    "a.",
    "a?.",
    "() =>",
    "new",
    "'abc\\",
    "return {",
    "do {",
    "do x(); while (",
    "x ? 1",
    "x ? 1 :",
    "function* g() { yield",
]
WRONG = [
    "let class = 1",
    "foo)",
    "'abc",
    "/abc",
    "a b",
    "let x = )",
    "}",
    "if (x) ]",
    "let a; let a",
    "1 = 2",
    "for (;;))",
    "const 1x",
]
WHOLE = [
    "var a = 1",
    "6*7",
    "{}",
    "if (x) {}",
    "`a`",
    "/* c */",
    "// c",
    "",
    "await x",
    "return 1",
    "import a from 'b'",
    "x\n",
    "class A {}",
    "label: for(;;){}",
    "a\n/* b */",
]
TYPED_BEGUN = [
    "let x: ",
    "let x: Array<",
    "type A =",
    "type A = {",
    "interface A {",
    "enum E {",
    "namespace N {",
    "function f(a: string",
    "function f<T",
    "function f<T>(a: T): T {",
    "let a: number =",
    "x as",
    "x satisfies",
    "const a = <T>(",
    "class A { private",
    "class A { constructor(private a: number",
    "@dec",
    "abstract class A {",
    "type T = A |",
    "type T = A extends B ?",
    "let f: (a: number) =>",
    "import type {",
    "declare module 'x' {",
    "let x: { a: number",
    "let s: `a",
    "let x: number /* y",
    "const x: Foo<Bar<",
    "function f(a?: number): a is",
    "export type {",
    "let t: [number,",
    "let a: keyof",
]
TYPED_WRONG = [
    "let x: = 1",
    "type = 5 6",
    "let x: number = )",
    "interface 1 {}",
    "enum { A } }",
    "let s: string = 'abc",
]
TYPED_WHOLE = [
    "let x: number = 1",
    "type A = string",
    "interface A { a: number }",
    "enum E { A }",
    "f<string>()",
    "const x = a!",
    "x as const",
    "import type { A } from 'b'",
    "declare const x: number",
    "abstract class A { abstract m(): void }",
    "class A { constructor(private a: number) {} }",
    "@dec class A {}",
    "namespace N { export const x = 1 }",
    "function f(a: number): a is 1 { return true }",
    "let x = <T,>(a: T) => a",
    "import fs = require('fs')",
    "let v: unique symbol",
]

CODE = {"incomplete": BEGUN, "invalid": WRONG, "complete": WHOLE}
TYPED_CODE = {"incomplete": TYPED_BEGUN, "invalid": TYPED_WRONG, "complete": TYPED_WHOLE}


@pytest.mark.parametrize("status", CODE)
def test_status(kernel: JupyterKernel, language: str, status: str) -> None:
    """Code that is begun, wrong or whole is told as such, in each language by its syntax."""
    codes = CODE[status] + (TYPED_CODE[status] if language == "typescript" else [])
    told = {code: ask(kernel, code)["status"] for code in codes}
    assert {code: found for code, found in told.items() if found != status} == {}


def test_indent(kernel: JupyterKernel) -> None:
    """The next line stands as the last one does, and further in behind an opening bracket."""
    assert ask(kernel, "  if (x) {")["indent"] == "    "
    assert ask(kernel, "f(() => {\n  g(1,")["indent"] == "  "
    assert ask(kernel, "x = `")["indent"] == ""


def ask(kernel: JupyterKernel, code: str) -> dict[str, str]:
    content: dict[str, str] = kernel.request("is_complete_request", {"code": code}).content
    return content
