"""Pieces of Go go on from what earlier pieces have left."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.client import Client, SessionClient
from tests.kernelspecs.go.toolchain import requires_go
from tests.languages.rows.table_rows import check

pytestmark = requires_go

GENERIC = """func dMap[T, U any](s []T, f func(T) U) (r []U) {
	for _, v := range s {
		r = append(r, f(v))
	}
	return
}
d := []D{{4}, {5}}"""
# Series of runs in one session, each with what it prints. Names differ, for all share the session.
SERIES: dict[str, list[tuple[str, str]]] = {
    "numbers and texts": [
        ('a1 := 5\na2 := "x"\nvar a3 float64', ""),
        ("fmt.Println(a1, a2, a3)\na1++\na3 = 1.5", "5 x 0\n"),
        ("fmt.Println(a1, a3)", "6 1.5\n"),
    ],
    "declared again, with another type": [
        ("b := 1", ""),
        ('b := "s"\nfmt.Println(b)', "s\n"),
        ("b := len(b)\nfmt.Println(b)", "1\n"),
        ("b, b2 := 2.5, true\nfmt.Println(b, b2)", "2.5 true\n"),
        ("var b []int\nfmt.Println(b == nil)", "true\n"),
    ],
    "a function is defined anew": [
        ("func c() int { return 1 }\nfunc c2() int { return c() + 1 }", ""),
        ("fmt.Println(c2())", "2\n"),
        ("func c() int { return 10 }\nfmt.Println(c2())", "11\n"),
        ("fmt.Println(c())", "10\n"),
    ],
    "types, methods, generics": [
        ("type D struct{ N int }\nfunc (d D) Double() int { return d.N * 2 }", ""),
        (GENERIC, ""),
        ("fmt.Println(dMap(d, D.Double))", "[8 10]\n"),
        ("type D struct{ Name string }\nfmt.Println(D{`new`})\nd = nil", "{new}\n"),
    ],
    "references": [
        ("e := 1\ne1 := &e\nvar e2 any = []int{1, 2}\ne3 := map[string][]int{}", ""),
        ('*e1 = 7\ne3["k"] = append(e3["k"], e)', ""),
        ("fmt.Println(e, *e1, e2, e3)", "7 7 [1 2] map[k:[7]]\n"),
    ],
    "a cycle": [
        ("type F struct {\n\tnext *F\n\tv   int\n}\nf := &F{v: 1}\nf.next = &F{f, 2}", ""),
        ("f.next.next.v = 3", ""),
        ("fmt.Println(f.v, f.next.v, f.next.next == f)", "3 2 true\n"),
    ],
    "a long list": [
        ("type Q struct{ next *Q }\nvar q *Q\nfor range 300_000 {\n\tq = &Q{q}\n}", ""),
        ("q1 := 0\nfor p := q; p != nil; p = p.next {\n\tq1++\n}\nfmt.Println(q1)", "300000\n"),
    ],
    "functions in variables": [
        ("g := 0\ng1 := func() int {\n\tg++\n\treturn g\n}", ""),
        ("g1()\nfmt.Println(g1(), g)", "2 2\n"),
        ("fmt.Println(g1())", "3\n"),
        ("if g > 0 {\n\tg1 = func() int { return -1 }\n}\nfmt.Println(g1())", "-1\n"),
        ("fmt.Println(g1 == nil)", "true\n"),
    ],
    "channels with what is in them": [
        ("h := make(chan int, 3)\nh <- 1\nh <- 2", ""),
        ("fmt.Println(<-h, len(h))", "1 1\n"),
        ("close(h)\nfmt.Println(<-h)", "2\n"),
    ],
    "errors and times": [
        ('i, i1 := strconv.Atoi("x")\ni2 := time.Unix(0, 5).UTC()\ni3 := big.NewInt(99)', ""),
        ("fmt.Println(i, i1 != nil, i2.Nanosecond(), i3)", "0 true 5 99\n"),
    ],
    "constants and groups": [
        ("const (\n\tj0 = iota\n\tj1\n)\ntype (\n\tJ int\n\tJ2 string\n)", ""),
        ('type J string\nj1 := "other"\nfmt.Println(j0, j1, J("q"), J2("r"))', "0 other q r\n"),
    ],
    "imports are kept, and found": [
        ('import str "strings"', ""),
        ('fmt.Println(str.ToUpper("a"), slices.Max([]int{1, 3}), math.MaxInt8)', "A 3 127\n"),
        ('import (\n\t"math/rand/v2"\n\t. "strings"\n)', ""),
        ('fmt.Println(rand.IntN(1), Repeat("x", 2))', "0 xx\n"),
    ],
    "control flow": [
        ("l := 0\nfor l = range 4 {\n\tif l == 2 {\n\t\tbreak\n\t}\n}\nfmt.Println(l)", "2\n"),
        ('defer fmt.Println("deferred")\nfmt.Println("first")\nreturn', "first\ndeferred\n"),
        ('func() {\n\tfmt.Println("called")\n}()', "called\n"),
        ("switch {\ncase l > 1:\n\tfmt.Println(l)\ndefault:\n\tfmt.Println(`no`)\n}", "2\n"),
    ],
    "main and init": [
        ('func init() { print(1) }\nfunc main() { fmt.Println("main") }', "main\n"),
        ('fmt.Println("neither")', "neither\n"),
    ],
    "nothing but declarations, comments or blanks": [
        ("// nothing", ""),
        ("/* nothing\n*/ \n", ""),
        ("var (\n\tm, m1 = 1, 2\n\tm2    string\n)\n", ""),
        ("fmt.Println(m, m1, m2 == ``)", "1 2 true\n"),
    ],
    "a goroutine ends with its run": [
        ("n := 0\ngo func() {\n\ttime.Sleep(time.Hour)\n\tn = 1\n}()", ""),
        ("fmt.Println(n)", "0\n"),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def session(client: Client) -> Iterator[SessionClient]:
    session = client.session("go")
    yield session
    session.delete()


@pytest.mark.parametrize("name", SERIES)
def test_series(session: SessionClient, name: str) -> None:
    """Each run of a series prints what it should, with what the runs before it have left."""
    for code, stdout in SERIES[name]:
        answer = session.run(code)
        check(answer, stdout=stdout, exit_code=0, results=[])


@pytest.mark.parametrize(
    ("code", "text"),
    {
        "6 * 7": "42",
        "x := 20\nx + 1": "21",
        '"a" + "b"': "ab",
        "[]int{1, 2}": "[1 2]",
        "strings.ToUpper(`abc`)": "ABC",
        "type P struct{ A, B int }\n&P{1, 2}": "&{1 2}",
        "len(`abc`)": "3",
        "errors.New(`told`)": "told",
        "<-time.After(0) == time.Time{}": "false",
    }.items(),
)
def test_result(session: SessionClient, code: str, text: str) -> None:
    """The value of a last expression is the result."""
    [result] = session.run(code)["results"]
    assert result["type"] == "execute_result"
    assert result["data"]["text/plain"] == text


@pytest.mark.parametrize(
    "code",
    [
        'fmt.Println("a")',
        "x := 1",
        "6 * 7; x := 1",
        "len(`abc`);",
        "os.Chdir(`.`)",
        "func() {}()",
        "var none error\nnone",
    ],
)
def test_no_result(session: SessionClient, code: str) -> None:
    """Statements, what a semicolon ends, several values and nil are no results."""
    assert session.run(code)["results"] == []


@pytest.mark.parametrize(
    ("code", "stderr"),
    {
        "y := 1\nz := undefined": "./cellN.go:2:6: undefined: undefined\n",
        'y := 1\nvar s string = y\ns + 1 + "a"': (
            "./cellN.go:2:16: cannot use y (variable of type int) as string value in variable"
            " declaration\n"
        ),
        "func wrong() int {\n\treturn `s`\n}": "./cellN.go:2:9: cannot use ",
        "for {\n\tk := 1\n}": "./cellN.go:2:2: declared and not used: k\n",
        "1 + 1\n2 + 2": "./cellN.go:1:1: 1 + 1 (untyped int constant 2) is not used\n",
        "var a = 1\nvar b = (": "./cellN.go:2:10: syntax error: unexpected end of the code\n",
        "x := 1\n}": "./cellN.go:2:1: syntax error: unexpected }\n",
        "strings.NoSuch()": "./cellN.go:1:9: undefined: strings.NoSuch\n",
        'import "no/such"\nsuch.F()': "package no/such is not in std",
    }.items(),
)
def test_errors(session: SessionClient, code: str, stderr: str) -> None:
    """What cannot be built is told with the fragment's own lines, and nothing is left of it."""
    session.run("kept := 41")
    answer = session.run(code)
    check(answer, exit_code=1, stdout="", state="preserved")
    assert stderr in re.sub(r"cell\d+", "cellN", answer["stderr"])
    check(session.run("fmt.Println(kept + 1)"), stdout="42\n", stderr="")


@pytest.mark.parametrize(
    ("code", "exit_code", "value"),
    [
        ('v = 2\npanic("boom")', 2, 2),
        ("v = 2\nos.Exit(3)", 3, 2),
        ("v = 2\nlog.Fatal(`over`)", 1, 2),
        ("v = 2\nfunc() { os.Exit(0) }()", 0, 2),
        ("v = 2\nsyscall.Kill(os.Getpid(), syscall.SIGKILL)", 137, 1),
        ("v = 2\nsyscall.Kill(os.Getpid(), syscall.SIGTERM)\nselect {}", 143, 1),
        ("v = 2\ngo func() { panic(`elsewhere`) }()\nselect {}", 2, 1),
        ("v = 2\nvar missing *int\n_ = *missing", 2, 2),
        ("v = 2\nsyscall.Kill(os.Getpid(), syscall.SIGSEGV)\nselect {}", 2, 1),
    ],
)  # fmt: skip
def test_ends(session: SessionClient, code: str, exit_code: int, value: int) -> None:
    """A run that the program ends leaves what it had; one that is killed what was there before."""
    session.run("v := 1\nfunc only() int { return 1 }")
    check(session.run(f"{code}\nfunc only() int {{ return 2 }}"), exit_code=exit_code)
    check(session.run("fmt.Println(v, only())"), stdout=f"{value} {value}\n", exit_code=0)


def test_lost_values(session: SessionClient) -> None:
    """A value that cannot be kept is told when it is used, and the others are kept."""
    session.run("o, err := os.Create(`o.txt`)\no2 := 5\no3 := strings.NewReplacer(`a`, `b`)")
    answer = session.run("fmt.Println(o == nil, o2, err)")
    check(answer, stdout="true 5 <nil>\n", exit_code=0)
    assert "note: o has lost its value" in answer["stderr"]
    assert "o3" not in answer["stderr"]


def test_variables(client: Client) -> None:
    """The variables are listed with types, sizes and values, as far as JSON has them."""
    session = client.session("go")
    session.run(
        'a := 41\nb := []string{"x"}\nc := make(chan int, 2)\nd := math.NaN()\ne := func() {}'
    )
    answer = session.http.get(f"{session.path}/variables").raise_for_status().json()
    listed = {one["name"]: one for one in answer["variables"]}
    assert (listed["a"]["type"], listed["a"]["value"]) == ("int", 41)
    assert (listed["b"]["type"], listed["b"]["size"], listed["b"]["value"]) == (
        "[]string",
        1,
        ["x"],
    )
    assert "value" not in listed["c"]
    assert "value" not in listed["d"]
    session.delete()


def test_packages_of_the_workspace(session: SessionClient) -> None:
    """A fragment imports packages below the workspace, as they are now."""
    for value in (1, 2):
        text = f"package near\n\ntype T struct{{ N int }}\n\nconst Value = {value}\n"
        session.http.put(f"{session.path}/files/near/near.go", content=text.encode())
        code = 'import "workspace/near"\np := near.T{near.Value}\nfmt.Println(p)'
        check(session.run(code), stdout=f"{{{value}}}\n", exit_code=0)
    check(session.run("fmt.Println(p.N)"), stdout="2\n")
