"""Go's programs for the conformance table: pieces, as interpreters of Go take them."""

from __future__ import annotations

from tests.languages.kernel_programs import KernelPrograms

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
WAIT_FOR_LATE = """import ("fmt"; "os"; "time")
fmt.Println("first")
os.Create("next")
for n := 0; n < 100; n++ {
	if _, err := os.Stat("told"); err == nil {
		break
	}
	time.Sleep(50 * time.Millisecond)
}
fmt.Println("second")
"""
WRITE = """import "os"
file, _ := os.Create("{path}")
file.WriteString(`{text}`)
file.Close()
"""
ALTERNATING = """import ("fmt"; "os")
for n := 0; n < 20; n++ {
	fmt.Println("out", n)
	fmt.Fprintln(os.Stderr, "err", n)
}
"""
PANIC = "a panic ends with 1, not with 2, and its line is not told"
NO_ENV = "a kernel without a fence takes no variables for one run: 400"
OLD_GO = "gophernotes knows Go as it was before generics"
PIECES = "programs are pieces: `func main` is defined and not called"
ONLY_STANDARD = "gophernotes imports packages of the standard library only"

PROGRAMS = KernelPrograms(
    column="gophernotes",
    language="go",
    kernel="gophernotes",
    capabilities=frozenset({"rich_output", "state"}),
    not_expressible={
        "alternating_in_order": "two pipes do not tell the order of what was written",
        "segfault": "the runtime of Go makes a panic of every crash",
        "c_call": "Go calls no native code unless a C compiler is there",
        "pending_await": "Go has no `await`: a program waits by blocking",
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
    hello='import "fmt"\nfmt.Println("hello")',
    to_stderr='import ("fmt"; "os")\nfmt.Fprintln(os.Stderr, "problem")',
    alternating=ALTERNATING,
    alternating_in_order=None,
    one_big_write='import ("os"; "strings")\nos.Stdout.WriteString(strings.Repeat("x", 1000000))',
    many_lines=(
        'import ("fmt"; "strings")\nfor n := 0; n < 100000; n++ {\n'
        '\tfmt.Printf("%08d%s\\n", n, strings.Repeat(".", 91))\n}'
    ),
    set_state="x := 41",
    use_state='import "fmt"\nfmt.Println(x + 1)',
    fail='y := 1\n\npanic("boom")',
    fail_code=2,
    failing_line=":3",
    syntax_error="var a = 1\nvar b = (",
    syntax_error_text=":2:",
    exit_with='import "os"\nos.Exit({code})',
    exit_nested=(
        'import ("fmt"; "os")\n'
        "func outer() {\n\tinner := func() {\n\t\tos.Exit(3)\n\t}\n\tinner()\n}\n"
        'outer()\nfmt.Println("after")'
    ),
    read_env=(
        'import ("fmt"; "os")\nvalue, found := os.LookupEnv("{name}")\n'
        'if !found {{\n\tvalue = "absent"\n}}\nfmt.Println(value)'
    ),
    read_env_in_child=(
        'import ("fmt"; "os/exec")\n'
        'text, _ := exec.Command("sh", "-c", "echo ${{{name}-absent}}").Output()\n'
        "fmt.Print(string(text))"
    ),
    print_cwd_and_home=(
        'import ("fmt"; "os")\nplace, _ := os.Getwd()\nhome, _ := os.UserHomeDir()\n'
        "fmt.Println(place)\nfmt.Println(home)"
    ),
    write_file=WRITE.format(path="made.txt", text="data"),
    module_name="fresh/fresh.go",
    module_text="package fresh\n\nconst VALUE = {value}\n",
    import_module='import ("fmt"; "./fresh")\nfmt.Println(fresh.VALUE)',
    write_module=(
        'import "os"\nos.Mkdir("fresh", 0755)\n'
        + WRITE.format(path="fresh/fresh.go", text="package fresh\nconst VALUE = {value}\n")
    ),
    sleep='import "time"\ntime.Sleep(time.Minute)',
    sleeping_line=2,
    busy_loop="for {\n}",
    pending_await=None,
    c_call=None,
    kill_self='import "os"\nself, _ := os.FindProcess(os.Getpid())\nself.Signal(os.Kill)',
    segfault=None,
    take_memory=(
        'import "bytes"\nvar taken [][]byte\n'
        'for {\n\ttaken = append(taken, bytes.Repeat([]byte("x"), 50000000))\n}'
    ),
    child_output=(
        'import ("fmt"; "os"; "os/exec")\nfmt.Println("a")\n'
        'child := exec.Command("echo", "b")\nchild.Stdout = os.Stdout\nchild.Run()\n'
        'fmt.Println("c")'
    ),
    read_stdin=(
        'import ("fmt"; "io/ioutil"; "os")\ntext, _ := ioutil.ReadAll(os.Stdin)\n'
        'fmt.Println("[" + string(text) + "]")'
    ),
    late_output=LATE,
    wait_for_late=WAIT_FOR_LATE,
    slow_print=(
        'import ("fmt"; "time")\nfmt.Println("first")\ntime.Sleep(time.Second)\n'
        'fmt.Println("second")'
    ),
    unicode='import "fmt"\nfmt.Println("naïve ☃ 😀")',
    nul='import "fmt"\nfmt.Println("a\\x00b")',
    invalid_utf8='import "os"\nos.Stdout.Write([]byte{0x61, 0xff, 0x62})',
    use_storage=STORAGE,
    last_expression="6 * 7",
    display_html='display.HTML("<b>rich</b>")',
    ask=None,
    print_hello_world='import "fmt"\nfmt.Println("Hello World")',
    print_session=(
        'import ("fmt"; "os")\nfmt.Println("Session: " + os.Getenv("ERA_SESSION_ID"))\n'
        'fmt.Println("API Key: " + os.Getenv("API_KEY"))'
    ),
    print_slowly=(
        'import ("fmt"; "time")\nfor i := 0; i < 5; i++ {\n\tfmt.Println("Processing", i)\n'
        "\ttime.Sleep(500 * time.Millisecond)\n}"
    ),
    write_results=(
        WRITE.format(path="data.json", text="{}") + WRITE.format(path="output.txt", text="shown")
    ),
)
