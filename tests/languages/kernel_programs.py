"""The programs that one kernel brings to the conformance table: its column."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

# Adds a kernel below a directory; returns what the server gets as one of `kernelspec_dirs`.
Add = Callable[[Path], Path]


@dataclass(frozen=True, kw_only=True)
class KernelPrograms:
    """Programs of one kernel, and what is expected of them. Rows name the fields that they need.

    A field that is None is a program that cannot be written in this language; the reason is in
    `not_expressible`. A row that does not hold is in `does_not_hold`, with the reason in words that
    a user of the kernel understands. A row that takes too long, or whose outcome depends on how
    busy the machine is, is in `untried`.
    """

    column: str  # the kernel's name in the table
    language: str
    kernel: str | None = None  # asked for at creation; None: the language's default
    capabilities: frozenset[str]  # as its kernel.json claims; rows of other ones are not run
    add_to: Add | None = None  # None: the kernel comes with the package
    not_expressible: Mapping[str, str] = field(default_factory=dict)  # by field
    does_not_hold: Mapping[str, str] = field(default_factory=dict)  # by row
    untried: Mapping[str, str] = field(default_factory=dict)  # by row, why

    hello: str | None  # prints "hello"
    to_stderr: str | None  # prints "problem" to stderr
    alternating: str | None  # 20 pairs: out N to stdout, err N to stderr
    alternating_in_order: str | None  # the same, where the order among the two can be kept
    one_big_write: str | None  # 1 MB of "x" in one write, no newline
    many_lines: str | None  # 100 000 lines of 99 characters: "%08d" and 91 dots
    set_state: str | None  # x = 41
    use_state: str | None  # prints x + 1, and fails without x
    fail: str | None  # an uncaught error "boom" on line 3
    fail_code: int = 1  # what the language's plain interpreter ends with then
    failing_line: str | None  # how it names line 3
    exception_value: str | None = "boom"  # its text in `exception`
    syntax_error: str | None
    syntax_error_code: int = 1
    syntax_error_text: str | None
    exit_with: str | None  # exits with {code}
    exit_nested: str | None  # exits with 3 inside a function inside a function
    read_env: str | None  # prints the variable {name}, or "absent"
    read_env_in_child: str | None  # the same from a child process
    print_cwd_and_home: str | None
    write_file: str | None  # writes "data" to made.txt
    module_name: str | None  # of a file that import_module finds
    module_text: str | None  # its contents: VALUE is {value}
    import_module: str | None  # prints VALUE of that module
    write_module: str | None  # writes the module so that VALUE is {value}
    sleep: str | None  # sleeps for a minute
    sleeping_line: int = 1  # where
    busy_loop: str | None
    pending_await: str | None
    c_call: str | None  # a minute in native code that looks at no signal
    kill_self: str | None  # SIGKILL to itself
    segfault: str | None
    take_memory: str | None  # takes memory until it gets no more
    memory_mb: int = 256  # of which it may take so many
    child_output: str | None  # prints a, a child prints b, prints c
    read_stdin: str | None  # prints what it reads from stdin between brackets
    late_output: str | None  # a background task: prints "late" once `next` exists, makes `told`
    wait_for_late: str | None  # prints "first", makes `next`, awaits `told`, prints "second"
    slow_print: str | None  # prints "first", sleeps a second, prints "second"
    unicode: str | None  # prints "naïve ☃ 😀"
    nul: str | None  # prints a, NUL, b
    invalid_utf8: str | None  # writes bytes 61 ff 62
    use_storage: str | None  # puts "lemon" under the key "flavour" of KV's "shop", and prints it
    last_expression: str | None  # a program that ends in the expression 6 * 7
    display_html: str | None  # displays <b>rich</b> as HTML
    ask: str | None  # asks for input with the prompt "name? ", prints "hello NAME"

    # What the examples of the reference page do (tests/contract/test_reference.py).
    print_hello_world: str | None
    print_session: str | None  # "Session: " and ERA_SESSION_ID, "API Key: " and API_KEY
    print_slowly: str | None  # "Processing 0" to 4, each before half a second
    write_results: str | None  # {} into data.json and "shown" into output.txt

    def reason_against(self, needed: tuple[str, ...]) -> str | None:
        """Returns why there can be no program for a row that needs these fields, if so."""
        reasons = [self.not_expressible[name] for name in needed if getattr(self, name) is None]
        return reasons[0] if reasons else None

    @property
    def missing(self) -> list[str]:
        """The fields without a program."""
        return [one.name for one in fields(self)[8:] if getattr(self, one.name) is None]
