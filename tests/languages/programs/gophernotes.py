"""Programs of gophernotes for the conformance table: Go's, where its interpreter takes them."""

from __future__ import annotations

from dataclasses import replace

from tests.languages.programs.go import PROGRAMS as GO

# KV by its HTTP API, on a port of the session or on a unix socket.
STORAGE = """import ("context"; "fmt"; "io/ioutil"; "net"; "net/http"; "net/url"; "os"; "strings")
base := os.Getenv("ERA_STORAGE_URL")
client := &http.Client{}
if strings.HasPrefix(base, "http+unix://") {
	socket, _ := url.PathUnescape(strings.TrimPrefix(base, "http+unix://"))
	base = "http://localhost"
	client.Transport = &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}
}
func call(method, body string) string {
	path := "/api/storage/kv/shop?key=flavour"
	request, err := http.NewRequest(method, base+path, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	answer, err := client.Do(request)
	if err != nil {
		panic(err)
	}
	text, _ := ioutil.ReadAll(answer.Body)
	return string(text)
}
call("PUT", `{"value": "lemon"}`)
if strings.Contains(call("GET", ""), `"value":"lemon"`) {
	fmt.Println("lemon")
}
"""
LATE = """import ("fmt"; "os"; "time")
go func() {
	for {
		if _, err := os.Stat("next"); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	fmt.Println("late")
	os.Create("told")
}()
"""
PANIC = "a panic ends with 1, not with 2, and its line is not told"
NO_ENV = "a kernel without a fence takes no variables for one run: 400"
OLD_GO = "gophernotes knows Go as it was before generics"
PIECES = "programs are pieces: `func main` is defined and not called"
ONLY_STANDARD = "gophernotes imports packages of the standard library only"

PROGRAMS = replace(
    GO,
    column="gophernotes",
    kernel="gophernotes",
    capabilities=frozenset({"rich_output", "state"}),
    not_expressible={
        **GO.not_expressible,
        "segfault": "the runtime of Go makes a panic of every crash",
        "ask": "Go has no prompt: a program reads standard input, which is at its end",
    },
    does_not_hold={
        "uncaught_error": PANIC,
        "failure_keeps_state": PANIC,
        "hello": "what `fmt.Println` returns is a result, as of any last expression",
        "late_output": "what a goroutine prints becomes part of the run under way",
        "exit_keeps_state": "a program that exits ends its kernel",
        "environment": NO_ENV,
        "previous_environment": NO_ENV,
        "era_variables_hold": NO_ENV,
        "uploaded_module": ONLY_STANDARD,
        "edited_module": ONLY_STANDARD,
        "go_modern_programs": OLD_GO,
        "go_state": OLD_GO,
        "go_exits": PIECES,
        "go_deaths": PIECES,
        "go_compile_errors": PIECES,
    },
    failing_line=":3",
    import_module='import ("fmt"; "./fresh")\nfmt.Println(fresh.VALUE)',
    kill_self='import "os"\nself, _ := os.FindProcess(os.Getpid())\nself.Signal(os.Kill)',
    segfault=None,
    late_output=LATE,
    use_storage=STORAGE,
    ask=None,
)
