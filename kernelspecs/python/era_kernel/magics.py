"""Magics that would lose errors, output or interrupts in the form that IPython has them in."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from subprocess import CalledProcessError

from IPython.core.displayhook import DisplayHook
from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from IPython.utils.capture import capture_output
from IPython.utils.process import arg_split

from era_kernel import shell_commands

_INTERPRETERS = ("bash", "perl", "pypy", "python", "python2", "python3", "ruby", "sh")


@magics_class
class EraMagics(Magics):
    """The magics of the same names in IPython; errors end the run, and interrupts too."""

    @cell_magic
    def capture(self, line: str, cell: str) -> None:
        """Run the cell, capturing stdout, stderr, and rich display calls in a variable.

        An error is reported as everywhere, and not captured.
        """
        from IPython.core.magic_arguments import parse_argstring
        from IPython.core.magics.execution import ExecutionMagics

        args = parse_argstring(ExecutionMagics.capture, line)
        flags = (not args.no_stdout, not args.no_stderr, not args.no_display)
        is_silent = DisplayHook.semicolon_at_end_of_expression(cell)
        with capture_output(*flags) as captured:
            if args.output and not is_silent:
                self.shell.user_ns[args.output] = captured
            self.shell.run_magic_body(cell)

    @line_magic
    def tb(self, line: str) -> None:
        """Print the last traceback."""
        error = getattr(sys, "last_value", None)
        if error is None:
            print("No traceback available to show.", file=sys.stderr)
        else:
            self.shell.on_error(error)

    @line_magic
    def edit(self, line: str) -> None:
        """Edit nothing: there is no terminal for an editor here."""
        raise UsageError("There is no editor here; %%writefile makes a file.")

    @cell_magic
    def script(self, line: str, cell: str) -> None:
        """Run the cell with the program that the line names, as `#!` does in a file.

        `--out NAME` and `--err NAME` put output into variables, `--no-raise-error` keeps a failure
        from ending the run, `--bg` does not wait for the end.
        """
        self._run_script(line, cell)

    def _run_script(self, line: str, cell: str) -> None:
        from IPython.core.magics.script import ScriptMagics

        args, command = ScriptMagics.shebang.parser.parse_known_args(arg_split(line))
        if not command:
            raise UsageError("%%script needs the name of a program.")
        if args.bg:
            self._background_magics = getattr(self, "_background_magics", ScriptMagics(self.shell))
            self._background_magics.shebang(line, cell)
            return
        texts: dict[str, list[str]] = {name: [] for name in (args.out, args.err) if name}
        data = (cell if cell.endswith("\n") else cell + "\n").encode(errors="replace")
        try:
            code = shell_commands.run_command(
                command, data, texts.get(args.out), texts.get(args.err)
            )
        except OSError as error:
            raise UsageError(f"{command[0]}: {os.strerror(error.errno or 0)}") from None
        finally:
            self.shell.user_ns.update({name: "".join(parts) for name, parts in texts.items()})
        if code and args.raise_error:
            raise CalledProcessError(code, cell)

    def make_script_magics(self) -> dict[str, Callable[[str, str], None]]:
        """Returns the cell magics that are named after an interpreter."""

        def make(name: str) -> Callable[[str, str], None]:
            def run(line: str, cell: str) -> None:
                self._run_script(f"{name} {line}", cell)

            run.__doc__ = f"Run the cell with {name} in a process of its own; see %%script."
            return run

        return {name: make(name) for name in _INTERPRETERS}
