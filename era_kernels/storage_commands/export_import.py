"""Defines `era-kernels storage export` and `import`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from era_kernels.errors import StartError
from era_kernels.storage_commands import object_archives
from era_kernels.storage_commands.d1_client import open_d1_client
from era_kernels.storage_commands.d1_tables import (
    find_table,
    import_rows,
    read_table,
    write_csv,
    write_lines,
)
from era_kernels.storage_commands.kv_client import open_kv_client
from era_kernels.storage_commands.options import (
    PATH,
    input_file,
    only_for,
    opened,
    output_file,
    with_access,
)
from era_kernels.storage_commands.r2_client import open_r2_client
from era_kernels.storage_commands.row_formats import Row, read_csv, read_rows
from era_kernels.storage_commands.value_lines import export_values, import_values


@click.command("export")
@with_access("kv", "d1", "r2")
@click.argument("target", type=PATH)
@click.option("--table", help="The table or view of d1.")
@click.option("--sql", help="A query of d1, instead of a table.")
@click.option("--csv", "csv", is_flag=True, help="Of d1: CSV, as for a TARGET that ends in .csv.")
@click.option("--json-lines", "json_lines", is_flag=True, help="Of d1: else this.")
def export(
    type_: str,
    target: Path,
    table: str | None,
    sql: str | None,
    csv: bool,
    json_lines: bool,
    **access: Any,
) -> None:
    """Write a namespace, or a table of d1, to TARGET, which must not be there.

    Of kv, TARGET is a file of JSON lines; of d1, of CSV or JSON lines; `-` is stdout. Of r2 it is a
    directory, or a tar if it ends in .tar.
    """
    only_for("d1", type_, table=table, sql=sql, csv=csv, json_lines=json_lines)
    if type_ == "r2":
        with (
            opened(open_r2_client, access) as (objects, namespace),
            object_archives.creating(target) as it,
        ):
            count = object_archives.export_objects(objects, namespace, it)
    elif type_ == "kv":
        with opened(open_kv_client, access) as (values, namespace), output_file(target) as file:
            count = export_values(values, namespace, file)
    else:
        if (table is None) == (sql is None):
            raise click.UsageError("Name a --table, or give a query by --sql.")
        is_csv = _is_csv(target, csv, json_lines)
        count = _export_rows(target, table, sql, is_csv, access)
    click.echo(f"exported: {count}", err=True)


def _export_rows(
    target: Path, name: str | None, sql: str | None, is_csv: bool, access: dict[str, Any]
) -> int:
    write = write_csv if is_csv else write_lines
    with opened(open_d1_client, access) as (databases, namespace):
        if sql is not None:
            rows = databases.query(namespace, sql).rows or []
            with output_file(target) as file:
                return write(file, list(rows[0]) if rows else [], rows)
        assert name is not None
        table = find_table(databases, namespace, name)
        if table is None:
            raise StartError(f"There is no table {name} in {namespace}.")
        with output_file(target) as file:
            return write(file, table.columns, read_table(databases, namespace, table))


@click.command("import")
@with_access("kv", "d1", "r2")
@click.argument("source", type=PATH)
@click.option("--table", help="The table of d1; it is made if it is missing.")
@click.option("--csv", "csv", is_flag=True, help="Of d1: CSV, as for a SOURCE that ends in .csv.")
@click.option("--json-lines", "json_lines", is_flag=True, help="Of d1: else this.")
def import_(
    type_: str, source: Path, table: str | None, csv: bool, json_lines: bool, **access: Any
) -> None:
    """Store what an export holds; kv and d1 take `-` for stdin.

    Keys that are there already are replaced. Rows of d1 are added to the table, all or none.
    """
    only_for("d1", type_, table=table, csv=csv, json_lines=json_lines)
    if type_ == "r2":
        with (
            opened(open_r2_client, access) as (objects, namespace),
            object_archives.reading(source) as it,
        ):
            count = object_archives.import_objects(objects, namespace, it)
    elif type_ == "kv":
        with opened(open_kv_client, access) as (values, namespace), input_file(source) as (file, _):
            count = import_values(values, namespace, file)
    else:
        if table is None:
            raise click.UsageError("Name the --table that gets the rows.")
        is_csv = _is_csv(source, csv, json_lines)
        with opened(open_d1_client, access) as (databases, space), input_file(source) as (file, _):
            count = import_rows(databases, space, table, lambda: _read(file, is_csv))
    click.echo(f"imported: {count}", err=True)


def _read(file: BinaryIO, is_csv: bool) -> Iterator[tuple[int, Row]]:
    file.seek(0)
    return read_csv(file) if is_csv else read_rows(file)


def _is_csv(file: Path, csv: bool, json_lines: bool) -> bool:
    """Returns whether a file is CSV, by the flags or by its name. Raises click's UsageError."""
    if csv and json_lines:
        raise click.UsageError("Choose --csv or --json-lines.")
    return csv or (not json_lines and file.suffix.lower() == ".csv")
