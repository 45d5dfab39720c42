"""Defines `era-kernels storage sql`, which runs SQL and shows its rows."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from era_kernels.errors import SqlReadOnly, StartError
from era_kernels.storage_commands.d1_client import Params, open_d1_client
from era_kernels.storage_commands.d1_tables import write_csv, write_lines
from era_kernels.storage_commands.options import opened, output_file, with_access
from era_kernels.storage_commands.row_formats import format_table, is_storable, parse_number


@click.command()
@with_access()
@click.argument("sql")
@click.argument("param", nargs=-1)
@click.option("--params", metavar="JSON", help="A list, or an object by names, instead of PARAM.")
@click.option("--write", is_flag=True, help="Let the SQL change something.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--json-lines", "as_lines", is_flag=True, help="Print a JSON object for each row.")
def sql(
    sql: str,
    param: tuple[str, ...],
    params: str | None,
    write: bool,
    as_csv: bool,
    as_lines: bool,
    **access: Any,
) -> None:
    """Run SQL on the database of a namespace, and print its rows as a table.

    Without --write nothing can change. SQL is `-` to read it from stdin. Each PARAM is the value
    of a `?`: a number where it looks like one, else text. Write -- before those that begin with -.
    """
    if as_csv and as_lines:
        raise click.UsageError("Choose --csv or --json-lines.")
    values = _values(param, params)
    try:
        text = sys.stdin.buffer.read().decode() if sql == "-" else sql
    except UnicodeDecodeError as error:
        raise click.UsageError(f"The SQL is no UTF-8 (byte {error.start}).") from error
    with opened(open_d1_client, access) as (databases, namespace):
        try:
            if write:
                answer = databases.execute(namespace, text, values)
            else:
                answer = databases.query(namespace, text, values)
        except SqlReadOnly as error:
            raise StartError("This SQL changes something: add --write to let it.") from error
    rows = answer.rows or []
    columns = list(rows[0]) if rows else []
    with output_file() as target:
        if as_csv:
            write_csv(target, columns, rows)
        elif as_lines:
            write_lines(target, columns, rows)
        elif rows:
            target.write(format_table(rows).encode() + b"\n")
    if write:
        click.echo(f"changes: {answer.meta['changes']}", err=True)
    elif not as_csv and not as_lines:
        click.echo(f"rows: {len(rows)}", err=True)


def _values(param: tuple[str, ...], params: str | None) -> Params:
    """Returns the values of the parameters, None for none. Raises click's UsageError."""
    if params is None:
        return [parse_number(one) for one in param] or None
    if param:
        raise click.UsageError("Give PARAM or --params, not both.")
    try:
        found = json.loads(params)
    except ValueError:
        found = None
    if not isinstance(found, list | dict):
        raise click.UsageError("--params wants a JSON list or object, such as '[1, null]'.")
    for value in found.values() if isinstance(found, dict) else found:
        if not is_storable(value):
            raise click.UsageError(
                "--params holds text, numbers (integers of 64 bits), booleans, null and blobs as "
                '{"base64": "…"}.'
            )
    return found
