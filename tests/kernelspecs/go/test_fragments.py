"""Pieces of Go go on from what earlier pieces have left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest

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
ANY_TYPES = "type V struct{ N int }\ntype VP[K comparable, T any] struct {\n\tKey K\n\tV   T\n}"
# Values that interfaces hold, and how they are shown.
ANY_VALUES = {
    "[]V{{1}}": "[{1}]",
    'map[string]V{"a": {2}}': "map[a:{2}]",
    "[2]int{1, 2}": "[1 2]",
    "map[int]bool{1: true}": "map[1:true]",
    "time.Second": "1s",
    "time.Unix(0, 0).UTC()": "1970-01-01 00:00:00 +0000 UTC",
    "big.NewInt(7)": "7",
    'json.Number("12")': "12",
    'VP[string, int]{"a", 1}': "{a 1}",
    "&VP[int, V]{1, V{2}}": "&{1 {2}}",
    "struct{ X, y int }{1, 2}": "{1 2}",
    "[][]V{{{1}}}": "[[{1}]]",
    "[]error{io.EOF}": "[EOF]",
    "int8(3)": "3",
    'url.Values{"a": {"b"}}': "map[a:[b]]",
}  # fmt: skip
ANY_SHOWN = " ".join(ANY_VALUES.values()) + "\n"
SHADOWED = "1 2 3 5 6 a 4 text [1] <nil>\n"
P_CHANGED = {
    "pa": "its type has changed",
    "pb": "its type has changed",
    "pc": "the type of a value in it has changed",
}
NOT_FOUND = "open /none: no such file or directory"
# Series of runs, each with what it prints. Names differ, for all run side by side: the first runs
# of all are one fragment, then the second ones, for each fragment is compiled.
SIDE_BY_SIDE: dict[str, list[tuple[str, str]]] = {
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
    "constraints": [
        ("type R interface{ ~int | ~float64 }\ntype R1 = R\ntype R2 interface{ comparable }", ""),
        ("type R3[T R] struct{ V T }\nfunc rSum[T R1](x, y T) T { return x + y }", ""),
        ("r := R3[int]{rSum(1, 2)}", ""),
        ("fmt.Println(r, rSum(1, r.V))", "{3} 4\n"),
    ],
    "values in interfaces": [
        (f"{ANY_TYPES}\nany1 := []any{{{', '.join(ANY_VALUES)}}}\nfmt.Println(any1...)", ANY_SHOWN),
        ("an1 := 1", ""),
        ("fmt.Println(any1...)", ANY_SHOWN),
        ("fmt.Println(any1[0].([]V)[0].N, any1[4].(time.Duration) == time.Second)", "1 true\n"),
        (
            "type V struct{ N int }\nany1[0] = 0\nfmt.Println(any1[1].(map[string]V))",
            "map[a:{2}]\n",
        ),
    ],
    "functions by their names": [
        (
            "func u(a, b int) int { return a + b }\ntype U int\nfunc (x U) M() U { return x * 2 }",
            "",
        ),
        ("func uSame[T any](x T) T { return x }", ""),
        ("u1 := u\nu2, u3 := strings.ToUpper, U.M\nu4 := uSame[int]\nvar u5 func(U) U = uSame", ""),
        ('fmt.Println(u1(1, 2), u2("x"), u3(4), u4(5), u5(6))', "3 X 8 5 6\n"),
        ("func u(a, b int) int { return a * b }\nfmt.Println(u1(3, 4))", "12\n"),
    ],
    "errors are the same": [
        (
            "w := io.EOF\n_, w1 := os.Open(`/none`)\nErrW := errors.New(`w`)\nw2 := []any{ErrW, io.EOF}",  # noqa: E501
            "",
        ),
        ("w3 := fmt.Errorf(`a: %w`, ErrW)\nw4 := errors.Join(ErrW, context.Canceled)", ""),
        ("var w5 any = sql.ErrNoRows\nw6 := context.DeadlineExceeded", ""),
        (
            "fmt.Println(w == io.EOF, errors.Is(w1, fs.ErrNotExist), w2[1] == any(w))",
            "true true true\n",
        ),
        (
            "fmt.Println(errors.Is(w3, ErrW), errors.Is(w4, ErrW), w2[0] == any(ErrW))",
            "true true true\n",
        ),
        ("fmt.Println(errors.Is(w4, context.Canceled), w5 == any(sql.ErrNoRows))", "true true\n"),
        ("fmt.Println(w6 == context.DeadlineExceeded, w1)", f"true {NOT_FOUND}\n"),
        ("fmt.Println(w3)", "a: w\n"),
    ],
}  # fmt: skip
# Series that are about the form of a fragment, its end, or names that mean something else later.
SERIES: dict[str, list[tuple[str, str]]] = {
    "a function is defined anew": [
        ("func c() int { return 1 }\nfunc c2() int { return c() + 1 }", ""),
        ("fmt.Println(c2())", "2\n"),
        ("func c() int { return 10 }\nfmt.Println(c2())", "11\n"),
        ("fmt.Println(c())", "10\n"),
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
    "groups of nothing": [
        ("type ()\nconst ()\nvar ()", ""),
        ("import ()\nfmt.Println(1)", "1\n"),
    ],
    "a goroutine ends with its run": [
        ("n := 0\ngo func() {\n\ttime.Sleep(time.Hour)\n\tn = 1\n}()", ""),
        ("fmt.Println(n)", "0\n"),
    ],
    "predeclared names are declared": [
        ('s := "text"\ns1 := []int{1}\nvar s2 error\ntype s3 struct{ new float64 }', ""),
        ("new, panic, len, print := 1, 2, 3, 4\nnil, true := 5, 6", ""),
        ('string := "a"\nint := 4', ""),
        ("error, any := 7, 8\nfmt.Println(string, int, error, any)", "a 4 7 8\n"),
        ("fmt.Println(new, panic, len, nil, true, string, int, s, s1, s2)", SHADOWED),
        ("type byte struct{ B uint8 }\ns5 := byte{1}\ns6 := []uint8{2}", ""),
        ("fmt.Println(s5, s6)", "{1} [2]\n"),
    ],
    "names of packages, of main and init": [
        ("t := time.Second\nstrings := 1", ""),
        ("time := 3\nfmt.Println(time, t, strings)", "3 1s 1\n"),
        (
            'import "strings"\nimport "time"\nfmt.Println(strings.ToUpper("a"), time.Minute, t)',
            "A 1m0s 1s\n",
        ),
        ("main := 4\ninit := 3", ""),
        ("main := 4\nfmt.Println(main, t)", "4 1s\n"),
    ],
}  # fmt: skip


@pytest.fixture
def session(client: Client) -> Iterator[SessionClient]:
    """A session of its own for each test: all that there is already is compiled with each run."""
    session = client.session("go")
    yield session
    session.delete()


def test_side_by_side(session: SessionClient) -> None:
    """What a fragment declares and changes is there in the next one, whatever kind it is of."""
    for runs in zip_longest(*SIDE_BY_SIDE.values(), fillvalue=("", "")):
        answer = session.run("\n".join(code for code, _ in runs))
        stdout = "".join(stdout for _, stdout in runs)
        check(answer, stdout=stdout, exit_code=0, results=[])


@pytest.mark.parametrize("name", SERIES)
def test_series(session: SessionClient, name: str) -> None:
    """Each run of a series prints what it should, with what the runs before it have left."""
    for code, stdout in SERIES[name]:
        check(session.run(code), stdout=stdout, exit_code=0, results=[])


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
        "x := int32(1)\nunsafe.Sizeof(x)": "4",
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
        "1 << 70": "./cellN.go:1:1: cannot use 1 << 70 (untyped int constant 1180591620717411303424)"  # noqa: E501
        " as int value (overflows)\n",
        'import "no/such"\nsuch.F()': "package no/such is not in std",
    }.items(),
)
def test_errors(session: SessionClient, code: str, stderr: str) -> None:
    """What cannot be built is told with the fragment's own lines."""
    answer = session.run(code)
    check(answer, exit_code=1, stdout="", state="preserved")
    assert stderr in re.sub(r"cell\d+", "cellN", answer["stderr"])


def test_nothing_is_left_of_errors(session: SessionClient) -> None:
    """Of what cannot be built no name is left, and what was there is as it was."""
    session.run("kept := 41")
    for code in ("kept := 1\nunbuilt := undefined", "unbuilt := 1\nvar b = ("):
        check(session.run(code), exit_code=1)
    assert "undefined: unbuilt" in session.run("unbuilt")["stderr"]
    check(session.run("fmt.Println(kept + 1)"), stdout="42\n", stderr="")


# How programs end themselves → exit code, and whether what they have changed before is kept.
ENDS = {
    'panic("boom")': (2, True),
    "os.Exit(3)": (3, True),
    "log.Fatal(`over`)": (1, True),
    "func() { os.Exit(0) }()": (0, True),
    "syscall.Kill(os.Getpid(), syscall.SIGKILL)": (137, False),
    "syscall.Kill(os.Getpid(), syscall.SIGTERM)\nselect {}": (143, False),
    "go func() { panic(`elsewhere`) }()\nselect {}": (2, False),
    "var missing *int\n_ = *missing": (2, True),
    "syscall.Kill(os.Getpid(), syscall.SIGSEGV)\nselect {}": (2, False),
}


def test_ends(session: SessionClient) -> None:
    """A run that the program ends leaves what it had; one that is killed what was there before."""
    session.run("v := 0\nfunc only() int { return 0 }")
    value = 0
    for number, (code, (exit_code, is_kept)) in enumerate(ENDS.items(), 1):
        changed = f"v = {number}\n{code}\nfunc only() int {{ return {number} }}"
        check(session.run(changed), exit_code=exit_code)
        value = number if is_kept else value
        check(session.run("fmt.Println(v, only())"), stdout=f"{value} {value}\n", exit_code=0)


def test_lost_values(session: SessionClient) -> None:
    """A value that cannot be kept is told when it is used, and the others are kept."""
    session.run("o, err := os.Create(`o.txt`)\no2 := 5\no3 := strings.NewReplacer(`a`, `b`)")
    answer = session.run("fmt.Println(o == nil, o2, err)")
    check(answer, stdout="true 5 <nil>\n", exit_code=0)
    assert "note: o has lost its value" in answer["stderr"]
    assert "o3" not in answer["stderr"]


@pytest.mark.parametrize(
    ("code", "notes"),
    [
        ("7", []),
        ("p1()", ["p has lost its value: a os.File cannot be kept between runs"]),
        ("p == nil", ["p has lost its value: a os.File cannot be kept between runs"]),
        ('fmt.Print("p P P1")', []),
        ("p := os.Stdin\np == nil", []),
        ("p = os.Stdin\np == nil", []),
        (
            "type P struct{ B string }",
            [f"{name} has lost its value: {P_CHANGED[name]}" for name in P_CHANGED],
        ),
        ("func (p P) String() string { return `` }", []),
    ],
)
def test_notes(session: SessionClient, code: str, notes: list[str]) -> None:
    """Lost values are told by each run that uses them, until there are new ones; never silently gone."""  # noqa: E501
    session.run(
        "type P struct{ A int }\np, _ := os.Create(`p.txt`)\npa := P{1}\npb := map[string]P{}\n"
        "pc := []any{P{1}}\npd := 5\nfunc p1() bool { return p == nil }"
    )
    session.run("pd++")
    assert sorted(session.run(code)["stderr"].splitlines()) == [f"note: {note}" for note in notes]
    later = session.run("p = nil\nfmt.Println(pa, pd)")
    assert later["stdout"].endswith(" 6\n")
    assert ("pa has lost" in later["stderr"]) == ("struct" in code)
    check(session.run("p"), stderr="", exit_code=0)


@pytest.mark.parametrize(
    ("damage", "note"),
    {
        'os.WriteFile(d+"/current/declarations.json", []byte("{"), 0o600)': "what earlier code has left",  # noqa: E501
        'os.WriteFile(d+"/current/declarations.json", []byte(`{"Decls": [{"Src": "("}]}`), 0o600)': "what",  # noqa: E501
        'os.WriteFile(d+"/current/values", []byte("\\xff\\xff"), 0o600)': "q has lost its value: the saved",  # noqa: E501
        'os.Remove(d + "/current/values")': "q has lost its value: the saved variables are damaged",
        "os.RemoveAll(d)": "",
    }.items(),
)
def test_damaged_state(session: SessionClient, damage: str, note: str) -> None:
    """What cannot be read is told once, and the session goes on."""
    session.run("q := 1")
    program = f"""package main
import ("os"; "path/filepath")
func main() {{
	exe, _ := os.Executable()
	d := filepath.Join(filepath.Dir(exe), "../../state")
	if _, err := os.Stat(d); err != nil {{ panic(err) }}
	{damage}
}}"""
    check(session.run(program), exit_code=0, stderr="")
    answer = session.run("q2 := 2")
    check(answer, exit_code=0)
    assert note in answer["stderr"]
    assert bool(note) == bool(answer["stderr"])
    check(session.run("q2"), exit_code=0, stderr="")


def test_variables(session: SessionClient) -> None:
    """The variables are listed with types, sizes and values, as far as JSON has them."""
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


def test_packages_of_the_workspace(session: SessionClient) -> None:
    """A fragment imports packages below the workspace, as they are now."""
    for value in (1, 2):
        text = f"package near\n\ntype T struct{{ N int }}\n\nconst Value = {value}\n"
        session.http.put(f"{session.path}/files/near/near.go", content=text.encode())
        code = 'import "workspace/near"\nnear1 := near.T{near.Value}\nfmt.Println(near1)'
        check(session.run(code), stdout=f"{{{value}}}\n", exit_code=0)
    check(session.run("fmt.Println(near1.N)"), stdout="2\n")
