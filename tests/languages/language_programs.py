"""The programs that one language brings to the conformance table, one field per row."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LanguagePrograms:
    """Programs of one language, a field per row.

    A field that is None is a row that does not apply, with the reason in `inapplicable_reasons`.
    """

    language: str
    hello: str  # prints "hello"
    to_stderr: str  # prints "problem" to stderr
    alternating: str  # 20 pairs: out N to stdout, err N to stderr
    one_big_write: str  # 1 MB of "x" in one write, no newline
    many_lines: str  # 100 000 lines of 99 characters: "%08d" and 91 dots
    set_state: str  # x = 41
    use_state: str  # prints x + 1
    fail: str  # an uncaught error "boom" on line 3
    failing_line: str  # how its traceback names line 3
    syntax_error: str
    syntax_error_text: str
    exit_with: str  # exits with {code}
    exit_nested: str  # exits with 3 inside a function inside a function
    read_env: str  # prints the variable {name}, or "absent"
    read_env_in_child: str  # the same from a child process
    print_cwd_and_home: str
    write_file: str  # writes "data" to made.txt
    import_module: str  # prints VALUE of the module that write_module made
    write_module: str  # writes the module so that VALUE is {value}
    sleep: str  # sleeps for a minute
    busy_loop: str
    pending_await: str
    c_call: str  # a minute in native code that looks at no signal
    kill_self: str  # SIGKILL to itself
    segfault: str
    child_output: str  # prints a, a child prints b, prints c
    read_stdin: str  # prints what it reads from stdin between brackets
    late_output: str  # a background task that prints "late" after half a second
    slow_print: str  # prints "first", sleeps a second, prints "second"
    unicode: str  # prints "naïve ☃ 😀"
    nul: str  # prints a, NUL, b
    invalid_utf8: str  # writes bytes 61 ff 62
    last_expression: str  # a program that ends in the expression 6 * 7
    inapplicable_reasons: dict[str, str] = field(default_factory=dict)
