"""Programs are processes of their own: signals, input, environment, children, modules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client import Client, SessionClient
from tests.kernelspecs.go.toolchain import requires_go
from tests.languages.rows.table_rows import check
from tests.waiting import wait_until

pytestmark = requires_go

ECHO = """package main

import (
	"bufio"
	"fmt"
	"os"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for range 2 {
		fmt.Print("more? ")
		if lines.Scan() {
			fmt.Println("got", lines.Text())
		}
	}
	fmt.Println("end")
}
"""
ON_INTERRUPT = """package main

import (
	"fmt"
	"os"
	"os/signal"
)

func main() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt)
	os.Create("ready")
	<-signals
	fmt.Println("cleaned up")
	os.Exit(9)
}
"""
MODULE = """module demo

go 1.24

require example.com/near v0.0.0

replace example.com/near => ./near
"""
USE_MODULE = """package main

import (
	"fmt"

	"demo/inner"
	"example.com/near"
)

func main() {
	fmt.Println(near.Name, inner.Name)
}
"""


@pytest.fixture
def session(client: Client) -> Iterator[SessionClient]:
    session = client.session("go")
    yield session
    session.delete()


def start(session: SessionClient, code: str) -> str:
    """Starts code in the background; returns the path of its execution."""
    body = {"code": code, "background": True}
    answer = session.http.post(f"{session.path}/run", json=body).raise_for_status().json()
    return f"{session.path}/executions/{answer['execution_id']}"


def has_file(session: SessionClient, name: str) -> bool:
    files = session.http.get(f"{session.path}/files").json()["files"]
    return name in [file["path"] for file in files]


def put(session: SessionClient, name: str, text: str) -> None:
    session.http.put(f"{session.path}/files/{name}", content=text.encode()).raise_for_status()


def test_program_handles_an_interrupt(session: SessionClient) -> None:
    """A program that handles SIGINT ends as it wishes."""
    execution = start(session, ON_INTERRUPT)
    assert wait_until(lambda: has_file(session, "ready"))
    check(session.http.post(f"{execution}/interrupt").json(), success=True, state="preserved")
    check(session.http.get(execution).json(), exit_code=9, stdout="cleaned up\n")


@pytest.mark.parametrize(
    "ignore", ["signal.Ignore(os.Interrupt)", "signal.Notify(make(chan os.Signal, 9))"]
)
def test_program_ignores_interrupts(session: SessionClient, ignore: str) -> None:
    """A program that does not care for SIGINT is killed, and the state is that before it."""
    session.run("x := 1")
    answer = session.run(f"x = 2\n{ignore}\ntime.Sleep(time.Minute)", timeout=0.5)
    check(answer, exit_code=124, state="preserved")
    check(session.run("fmt.Println(x)"), stdout="1\n", started_from="live")


def test_interrupt_while_compiling(session: SessionClient) -> None:
    """A run that is interrupted before its program begins ends as any other."""
    session.run("")
    for _ in range(3):
        execution = start(session, 'fmt.Println("x")\ntime.Sleep(time.Minute)')
        check(session.http.post(f"{execution}/interrupt").json(), success=True, state="preserved")
        check(session.http.get(execution).json(), exit_code=130)
    check(session.run("fmt.Println(1)"), stdout="1\n", started_from="live")


@pytest.mark.parametrize(
    ("code", "exit_code", "stderr"),
    [
        ("SIGKILL", 137, "signal: killed\n"),
        ("SIGTERM", 143, "signal: terminated\n"),
        ("SIGINT", 130, "signal: interrupt\n"),
        ("SIGHUP", 129, "signal: hangup\n"),
    ],
)
def test_program_dies_of_a_signal(
    session: SessionClient, code: str, exit_code: int, stderr: str
) -> None:
    """A signal that ends a program is told as by the go command; the session lives on."""
    program = f"signal.Reset()\nsyscall.Kill(os.Getpid(), syscall.{code})\ntime.Sleep(time.Minute)"
    check(session.run(program), exit_code=exit_code, stderr=stderr, state="preserved")


def test_input_of_several_lines(session: SessionClient) -> None:
    """A program that reads on is asked again, with what it printed last as the prompt."""
    with session.open_stream(ECHO) as events:
        execution = None
        texts, prompts = [], []
        for event in events:
            if event.event == "stdout":
                texts.append(event.data["content"])
            elif event.event == "input_request":
                prompts.append(event.data["prompt"])
                if execution is None:
                    listed = session.http.get(f"{session.path}/executions").json()["executions"]
                    execution = f"{session.path}/executions/{listed[-1]['execution_id']}"
                line = {"value": f"line {len(prompts)}"}
                session.http.post(f"{execution}/input", json=line).raise_for_status()
    assert "".join(texts).count("got line ") == 2
    assert "".join(texts).endswith("end\n")
    assert prompts == ["more? "] * 2


READ_LINE = """input := bufio.NewReaderSize(os.Stdin, 1<<20)
line, _ := input.ReadString(10)
fmt.Println(len(line))"""
READ_BYTE = "os.Stdin.Read(make([]byte, 1))\nfor { time.Sleep(time.Second) }"


def test_large_input(session: SessionClient) -> None:
    """An answer may be more than a pipe holds; who reads no further can still be interrupted."""
    for code, stdout, exit_code in ((READ_LINE, "300001\n", 0), (READ_BYTE, "", 124)):
        texts = []
        with session.open_stream(code, timeout=3) as events:
            for event in events:
                if event.event == "stdout":
                    texts.append(event.data["content"])
                elif event.event == "input_request":
                    listed = session.http.get(f"{session.path}/executions").json()["executions"]
                    path = f"{session.path}/executions/{listed[-1]['execution_id']}/input"
                    session.http.post(path, json={"value": "x" * 300_000}).raise_for_status()
        assert ("".join(texts), event.data["exit_code"]) == (stdout, exit_code)
        assert event.data["state"] == "preserved"


def test_input_of_a_child(session: SessionClient) -> None:
    """A child that reads the program's input finds its end, too, when nobody answers."""
    code = 'child := exec.Command("cat")\nchild.Stdin = os.Stdin\nfmt.Println(child.Run())'
    check(session.run(code, timeout=20), stdout="<nil>\n", exit_code=0)


def test_module(session: SessionClient) -> None:
    """A go.mod in the workspace counts, with modules of other places."""
    put(session, "go.mod", MODULE)
    put(session, "near/go.mod", "module example.com/near\n")
    put(session, "near/near.go", 'package near\n\nconst Name = "near"\n')
    put(session, "inner/inner.go", 'package inner\n\nconst Name = "inner"\n')
    put(session, "main.go", "package main\n\nfunc main() { not built }\n")
    check(session.run(USE_MODULE), stdout="near inner\n", stderr="", exit_code=0)
    code = 'import "example.com/near"\nfmt.Println(near.Name)'
    check(session.run(code), stdout="near\n", exit_code=0)
    check(session.run(USE_MODULE.replace("near.Name", "near.None")), exit_code=1)


def test_go_command(session: SessionClient) -> None:
    """The go command is there for exec, and finds the packages of the session."""
    put(
        session,
        "a.go",
        'package main\n\nimport "era/display"\n\nfunc main() { display.Text("t") }\n',
    )
    for argv in (
        ["go", "run", "a.go"],
        ["go", "build", "-o", "a", "a.go"],
        ["gofmt", "-l", "a.go"],
    ):
        answer = session.http.post(f"{session.path}/exec", json={"argv": argv}).json()
        assert answer["exit_code"] == 0, (argv, answer)


def test_late_output_of_children(session: SessionClient) -> None:
    """A child that outlives its run writes into the log, and into no other run."""
    child = 'exec.Command("sh", "-c", "sleep 1; echo late; touch told")'
    session.run(f"child := {child}\nchild.Stdout = os.Stdout\nchild.Start()")
    check(session.run('fmt.Println("next")'), stdout="next\n")
    assert wait_until(lambda: has_file(session, "told"))
    assert wait_until(lambda: "late" in session.http.get(f"{session.path}/log").text)


def test_displays_in_order(session: SessionClient) -> None:
    """Displays stand among the output where the program showed them."""
    code = (
        'for i := range 3 {\n\tfmt.Print("<", i)\n\tdisplay.HTML(fmt.Sprint(i))\n'
        '\tfmt.Print(">")\n}\n'
        "display.JSON(map[string]int{`a`: 1})\ndisplay.PNG([]byte(`png`))\n"
        'display.Show(display.Bundle{"text/plain": "t", "application/x-own": []int{1}})'
    )
    shown = []
    for event in session.stream(code):
        if event.event == "stdout":
            shown.append(event.data["content"])
        elif event.event == "display":
            shown.append(event.data["data"])
    text = [one for one in shown if isinstance(one, str)]
    assert "".join(text) == "<0><1><2>"
    assert [one for one in shown if not isinstance(one, str)] == [
        *({"text/html": str(i)} for i in range(3)),
        {"application/json": {"a": 1}},
        {"image/png": "cG5n"},
        {"text/plain": "t", "application/x-own": [1]},
    ]
    assert shown.index({"text/html": "1"}) > shown.index({"text/html": "0"}) + 1


def test_image_as_result(session: SessionClient) -> None:
    """An image as the last expression is shown as PNG."""
    [result] = session.run("image.NewGray(image.Rect(0, 0, 2, 2))")["results"]
    assert result["data"]["image/png"].startswith("iVBOR")


def test_storage(session: SessionClient) -> None:
    """A program uses all three kinds of storage by `era/storage`."""
    code = """
check := func(err error) {
	if err != nil {
		panic(err)
	}
}
space := "go-test"
check(storage.KV.Set(space, "a/../b", "x", storage.Metadata(map[string]any{"n": 1})))
value, metadata, found, err := storage.KV.GetWithMetadata(space, "a/../b")
fmt.Println(value, metadata, found, err)
_, found, err = storage.KV.Get(space, "none")
fmt.Println(found, err)
keys, err := storage.KV.List(space, storage.Prefix("a"))
fmt.Println(keys, err)
check(storage.KV.Delete(space, "a/../b"))
_, err = storage.D1.Exec(space, "CREATE TABLE IF NOT EXISTS t (a, b, c)")
check(err)
done, err := storage.D1.Exec(space, "INSERT INTO t VALUES (?, ?, ?)", 1, 2.5, []byte{0, 1})
fmt.Println(done.Meta.Changes, err)
rows, err := storage.D1.Query(space, "SELECT * FROM t WHERE a = :a", map[string]any{"a": 1})
fmt.Println(rows, err)
results, err := storage.D1.Batch(space, storage.Statement{SQL: "DELETE FROM t"})
fmt.Println(len(results), err)
check(storage.R2.Put(space, "o", []byte("data"), storage.Metadata(map[string]string{"k": "v"})))
content, found, err := storage.R2.Get(space, "o")
fmt.Println(string(content), found, err)
objects, err := storage.R2.List(space)
fmt.Println(len(objects), objects[0].Key, objects[0].Size, err)
check(storage.R2.Delete(space, "o"))
_, err = storage.D1.Query(space, "SELECT nonsense")
var failed *storage.Error
fmt.Println(errors.As(err, &failed), failed.Status)
"""
    answer = session.run(code, timeout=60)
    check(answer, stderr="", exit_code=0)
    assert answer["stdout"].splitlines() == [
        "x map[n:1] true <nil>",
        "false <nil>",
        "[{a/../b map[n:1]}] <nil>",
        "1 <nil>",
        "[map[a:1 b:2.5 c:[0 1]]] <nil>",
        "1 <nil>",
        "data true <nil>",
        "1 o 4 <nil>",
        "true 400",
    ]


def test_many_runs_leave_nothing(session: SessionClient) -> None:
    """A run leaves no file behind outside the workspace but its state."""
    session.run("x := 1")
    count = 'found, _ := filepath.Glob(os.TempDir() + "/go-*/*")\nfmt.Println(len(found))'
    first = session.run(count)["stdout"]
    for number in range(5):
        session.run(f"y := {number}")
    assert session.run(count)["stdout"] == first
