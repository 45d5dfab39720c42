"""Go's programs for the conformance table: fragments, and a whole program that imports files."""

from __future__ import annotations

from tests.languages.kernel_programs import KernelPrograms

# Goroutines end with their program, so it is a process that goes on.
LATE = """import ("os"; "os/exec")
waiting := exec.Command("sh", "-c",
	"while [ ! -e next ]; do sleep 0.02; done; echo late; touch told")
waiting.Stdout = os.Stdout
waiting.Start()
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
PROGRAMS = KernelPrograms(
    column="go",
    language="go",
    capabilities=frozenset({"input", "interrupt", "rich_output", "state", "variables"}),
    not_expressible={
        "alternating_in_order": "two pipes do not tell the order of what was written",
        "c_call": "Go calls no native code unless a C compiler is there",
        "pending_await": "Go has no `await`: a program waits by blocking",
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
    failing_line=".go:3",
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
    import_module=(
        'package main\n\nimport (\n\t"fmt"\n\t"workspace/fresh"\n)\n\n'
        "func main() {\n\tfmt.Println(fresh.VALUE)\n}\n"
    ),
    write_module=(
        'import "os"\nos.Mkdir("fresh", 0755)\n'
        + WRITE.format(path="fresh/fresh.go", text="package fresh\nconst VALUE = {value}\n")
    ),
    sleep='import "time"\ntime.Sleep(time.Minute)',
    sleeping_line=2,
    busy_loop="for {\n}",
    pending_await=None,
    c_call=None,
    kill_self='import ("os"; "syscall")\nsyscall.Kill(os.Getppid(), syscall.SIGKILL)',
    segfault='import ("os"; "syscall")\nsyscall.Kill(os.Getppid(), syscall.SIGSEGV)',
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
    use_storage=(
        'import ("era/storage"; "fmt")\nstorage.KV.Set("shop", "flavour", "lemon")\n'
        'value, _, err := storage.KV.Get("shop", "flavour")\n'
        "if err != nil {\n\tpanic(err)\n}\nfmt.Println(value)"
    ),
    last_expression="6 * 7",
    display_html='display.HTML("<b>rich</b>")',
    ask=(
        'import ("bufio"; "fmt"; "os")\nfmt.Print("name? ")\n'
        "line, _ := bufio.NewReader(os.Stdin).ReadString('\\n')\n"
        'fmt.Print("hello " + line)'
    ),
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
