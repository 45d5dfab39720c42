"""Rows about what programs of Go do, with the programs themselves."""

from __future__ import annotations

from tests.client import SessionClient
from tests.languages.rows.table_rows import check, program_row, row

GO = ("go",)
MODERN = """package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"
)

type Number interface{ ~int | ~float64 }

func Sum[T Number](all ...T) (sum T) {
	for _, one := range all {
		sum += one
	}
	return
}

func Count(n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

func main() {
	fmt.Println(Sum(1, 2), Sum(0.5, 1), min(3, 1, 2), max(1.5, 1))
	for i := range Count(2) {
		fmt.Print(i, " ")
	}
	ages := map[string]int{"b": 2, "a": 1}
	names := slices.SortedFunc(maps.Keys(ages), cmp.Compare)
	clear(ages)
	fmt.Println(names, len(ages), errors.Is(errors.Join(io.EOF, io.ErrClosedPipe), io.EOF))
	once := sync.OnceValue(func() int { fmt.Print("once "); return 7 })
	fmt.Println(once(), once())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "served ", r.URL.Path)
	}))
	defer server.Close()
	answer, err := http.Get(server.URL + "/here")
	text, _ := io.ReadAll(answer.Body)
	fmt.Println(string(text), err)
	ended, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	select {
	case <-ended.Done():
		fmt.Println(ended.Err())
	case <-time.After(time.Minute):
	}
}
"""
MODERN_OUTPUT = """3 1.5 1 1.5
0 1 [a b] 0 true
once 7 7
served /here <nil>
context deadline exceeded
"""


def _main(body: str, *imports: str) -> str:
    """Returns a whole program, whose `main` begins in line 4."""
    names = "; ".join(f'"{name}"' for name in imports)
    return f"package main\nimport ({names})\nfunc main() {{\n{body}\n}}\n"


program_row(
    "go_modern_programs",
    "Whole programs of today's Go run: generics, iterators, `slices`, `net/http`, `select`.",
    GO,
    (MODERN, MODERN_OUTPUT),
)
program_row(
    "go_exits",
    "`os.Exit` and a program that cannot be built have their exit codes.",
    GO,
    (_main("fmt.Println(1); os.Exit(3)", "fmt", "os"), "1\n", 3),
    (_main("fmt.Println(undefined)", "fmt"), "", 1),
    (_main("fmt.Println(os.Args[1:])", "fmt", "os"), "[]\n"),
)


@row(leaves_nothing=True, languages=GO)
def go_deaths(session: SessionClient) -> None:
    """A panic, a deadlock and a fault of the runtime end with 2, and say where."""
    for body, words in (
        ('panic("no")', ("panic: no", "goroutine 1 [running]:", "main.go:4")),
        ("var wait chan int\n<-wait", ("all goroutines are asleep - deadlock!",)),
        ("var none map[string]int\nnone[`a`] = 1", ("assignment to entry in nil map",)),
        ("list, n := []int{}, 1\n_ = list[n]", ("index out of range [1] with length 0",)),
    ):
        answer = session.run(_main(body))
        check(answer, exit_code=2, stdout="")
        assert all(word in answer["stderr"] for word in words), answer


@row(leaves_nothing=True, languages=GO)
def go_compile_errors(session: SessionClient) -> None:
    """What the compiler refuses is told with line and column: names, types, unused ones."""
    for program, words in (
        (_main("x := 1"), "main.go:4:1: declared and not used: x"),
        (_main("", "fmt"), 'main.go:2:9: "fmt" imported and not used'),
        (_main('var n int = "text"\n_ = n'), "main.go:4:13: cannot use"),
        (_main("fmt.Println(missing)", "fmt"), "main.go:4:13: undefined: missing"),
    ):
        answer = session.run(program)
        check(answer, exit_code=1, stdout="")
        assert words in answer["stderr"], answer


program_row(
    "go_state",
    "Numbers, texts, slices, maps, structs, pointers, functions and generics stay for later.",
    GO,
    ("type Point struct{ X, Y int }\nn, text, list := 5, `five`, []int{1, 2}", ""),
    ("ages := map[string]int{`a`: 1}\nat := &Point{3, 4}", ""),
    ("double := func(n int) int { return 2 * n }", ""),
    ("func (p Point) Sum() int { return p.X + p.Y }\nat.X++; list = append(list, n)", ""),
    ("fmt.Println(n, text, list, ages, at.Sum(), double(n))", "5 five [1 2 5] map[a:1] 8 10\n"),
    ("func Last[T any](all []T) T { return all[len(all)-1] }", ""),
    ("fmt.Println(Last(list), Last([]string{text}))", "5 five\n"),
    leaves_nothing=False,  # each fragment of the session would be compiled with all of this
)
program_row(
    "go_redefinitions",
    "A function, a type and a variable can be defined anew; an error leaves what was there.",
    GO,
    ('import "fmt"\ntype Shape struct{ Size int }', ""),
    ("func told() string { return `first` }\nvalue := 1", ""),
    ("type Shape struct{ Name string }\nfunc told() string { return `second` }", ""),
    ("value := `text`\nfmt.Println(told(), value, Shape{`x`})", "second text {x}\n"),
    ("value = `lost`\nfmt.Println(nothing)", "", 1),
    ("fmt.Println(value)", "text\n"),
    leaves_nothing=False,
)
