"""Defines the command line: `era-kernels serve`, `install`, `doctor`, and adds the others.

Each command imports what it alone needs: most of the time of a short one goes into imports.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import logging
import os
import selectors
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from era_kernels import __version__, logs
from era_kernels.errors import EraError, InvalidSetting, StartError, UnsupportedLanguage
from era_kernels.open_files import raise_open_files
from era_kernels.setting_errors import env_variable, flag_name
from era_kernels.setting_types import format_default
from era_kernels.settings import Settings
from era_kernels.storage_commands.backup import backup, restore, set_aside
from era_kernels.storage_commands.commands import storage

if TYPE_CHECKING:
    from era_kernels.doctor import Finding
    from era_kernels.install.readiness import Readiness

log = logging.getLogger(__name__)

# Collections of the middle generation before a full one: it is made sooner, in a calm moment.
FULL_COLLECTION_THRESHOLD = 10_000

_COLOURS = {"ok": "green", "lacks": "yellow", "broken": "red"}


class CommandFailed(click.ClickException):
    """Ends a command that cannot be done now, with a sentence on stderr and exit code 1."""


class InvalidUsage(CommandFailed):
    """Ends a command whose input is wrong, with a sentence on stderr and exit code 2."""

    exit_code = 2


class CommandGroup(click.Group):
    """A group of commands that reports known errors in a sentence, not in a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (InvalidSetting, UnsupportedLanguage) as error:
            raise InvalidUsage(str(error)) from error
        except (StartError, EraError) as error:
            raise CommandFailed(str(error)) from error


def with_setting_flags(
    command: Callable[..., None], names: Collection[str] = tuple(Settings.model_fields)
) -> Callable[..., None]:
    """Adds a flag for every setting, or for these, to a command that gets them as keywords."""
    for name, field in reversed(Settings.model_fields.items()):
        if name not in names:
            continue
        flag = flag_name(name)
        spelling = f"{flag}/--no-{flag[2:]}" if field.annotation is bool else flag
        help_text = f"{field.description} [{env_variable(name)}; default: {format_default(field)}]"
        option: dict[str, Any] = {"default": None, "help": help_text}
        if field.annotation is not bool:
            option["metavar"] = "VALUE"
        command = click.option(spelling, name, **option)(command)
    return command


def _without_unset(flags: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in flags.items() if value is not None}


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="era-kernels")
def main() -> None:
    """An HTTP server that runs code in managed Jupyter kernels."""


for _command in (backup, restore, set_aside, storage):
    main.add_command(_command)


@main.command()
@with_setting_flags
def serve(**flags: object) -> None:
    """Run the server until SIGTERM or Ctrl-C.

    Every setting can be given as a flag, as a variable of the environment, or in a TOML file.
    """
    raise_open_files()
    settings = Settings.load(_without_unset(flags))
    logs.configure(settings.log_format)
    log.info("starting, which takes a few seconds", extra={"data_dir": str(settings.data_dir)})
    from era_kernels import app

    _tune_garbage_collection()
    with asyncio.Runner(loop_factory=_make_event_loop) as runner:
        runner.run(app.serve(settings, click.echo))


def _make_event_loop() -> asyncio.AbstractEventLoop:
    """Makes the server's loop: without epoll(7) where sessions may have the server's own user.

    Linux bounds the watches of each user (`fs.epoll.max_user_watches`), in whatever namespace, and
    code could take them all.
    """
    is_root = os.geteuid() == 0
    selector = selectors.DefaultSelector() if is_root else selectors.PollSelector()
    return asyncio.SelectorEventLoop(selector)


def _tune_garbage_collection() -> None:
    """Keeps large answers of kernels from triggering full collections, which stop everything.

    JSON holds no cycles, but a collection visits all of it: 70 ms for a million lists, several
    times while these are made. Objects that exist by now stay for good, so they are frozen.
    """
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_COLLECTION_THRESHOLD)


@main.command()
@click.argument("languages", nargs=-1, metavar="[LANGUAGE]...")
@partial(with_setting_flags, names=("kernelspec_dirs", "toolchain_dir", "system_tools"))
@click.option("--plain", is_flag=True, help="Print lines, no bars, also on a terminal.")
@click.option("--require-all", is_flag=True, help="End with 1 unless every language is ready.")
@click.option("--end-with", type=int, metavar="PID", help="End when that process does.")
def install(
    languages: tuple[str, ...],
    plain: bool,
    require_all: bool,
    end_with: int | None,
    **flags: object,
) -> None:
    """Make languages ready, all without a name: install what they need, and load it once.

    It can be called again at any time, and goes on where an earlier call ended. Ends with 1 when
    a language that was named is not ready, or when none is.
    """
    from era_kernels.install.parent_watch import end_with_process
    from era_kernels.install.progress import open_progress
    from era_kernels.install.readiness import make_ready, select_languages

    if end_with is not None:
        end_with_process(end_with)
    settings = Settings.load(_without_unset(flags))
    selected = select_languages(settings.kernelspec_dirs, languages, settings.toolchain_dir)
    with open_progress(plain) as progress:
        results = make_ready(selected, progress, prefers_system=settings.system_tools)
    for one in results:
        click.echo(_readiness_line(one))
    wanted = all if languages or require_all else any
    if not wanted(one.missing is None for one in results):
        raise click.exceptions.Exit(1)


@main.command()
@with_setting_flags
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool, **flags: object) -> None:
    """Say what this host has and lacks, and what to do about it.

    Ends with 0 when a server with these settings can run, else with 1.
    """
    from era_kernels.doctor import can_serve, run_checks

    findings = run_checks(Settings.load(_without_unset(flags)))
    is_able = can_serve(findings)
    if as_json:
        listed = [dataclasses.asdict(finding) for finding in findings]
        click.echo(json.dumps({"can_serve": is_able, "findings": listed}, indent=2))
    else:
        for finding in findings:
            click.echo(_finding_lines(finding))
        click.echo("The server can run." if is_able else "The server cannot run.")
    if not is_able:
        raise click.exceptions.Exit(1)


def _readiness_line(readiness: Readiness) -> str:
    name = f"{readiness.language} {readiness.version}" if readiness.version else readiness.language
    return f"{name}: {'ready' if readiness.missing is None else f'not ready: {readiness.missing}'}"


def _finding_lines(finding: Finding) -> str:
    level = click.style(f"{finding.level:7}", fg=_COLOURS[finding.level])
    advice = f"\n{'':8}{finding.advice}" if finding.advice else ""
    return f"{level} {finding.subject}: {finding.text}{advice}"
