"""``medssl quarantine ls|retry|export``: the ledger of a catalog or of a run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medssl.archive.quarantine import Entry
    from medssl.stages.quarantine import Row

app = typer.Typer(no_args_is_help=True, help="What could not be used: list, try again, hand on.")

Folder = Annotated[Path, typer.Argument(metavar="CATALOG", show_default=False)]
Reason = Annotated[str | None, typer.Option(help="Only this reason code.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")]


@app.command()
def ls(
    folder: Folder,
    reason: Reason = None,
    paths: Annotated[bool, typer.Option("--paths", help="Show the files, here only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
    debug: Debug = False,
) -> None:
    """Count the entries by reason, with what each reason means."""
    from medssl.cli.exits import exit_with

    exit_with(lambda: _list(folder, reason, paths=paths, as_json=as_json), out=None, debug=debug)


@app.command()
def retry(
    folder: Folder,
    reason: Reason = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
    debug: Debug = False,
) -> None:
    """Read the files again now, and have the next run of a stage try its entries again."""
    from medssl.cli.exits import exit_with

    exit_with(lambda: _retry(folder, reason, quiet=quiet), out=None, debug=debug)


@app.command()
def export(
    folder: Folder,
    out: Annotated[Path, typer.Option("-o", "--out", help="A .csv or .json file.")],
    reason: Reason = None,
    debug: Debug = False,
) -> None:
    """Write ids, hashes, reasons and meanings to a file; it holds no path and no name."""
    from medssl.cli.exits import exit_with

    exit_with(lambda: _export(folder, reason, out), out=None, debug=debug)


def _list(folder: Path, reason: str | None, *, paths: bool, as_json: bool) -> int:
    from medssl.stages import quarantine as stage

    entries = stage.select(stage.open_ledger(folder), reason)
    rows = stage.overview(entries)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=1))
        return 0
    if not rows:
        typer.echo("nothing is quarantined")
        return 0
    _print_table(rows)
    if paths:
        _print_paths(folder, entries)
    return 0


def _print_table(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("reason", "stage", "items", "seen", "meaning and what to do", show_lines=True)
    table.columns[0].overflow = "fold"
    for row in rows:
        days = dict.fromkeys((row.first_seen[:10], row.last_seen[:10]))
        about = f"{row.what}.\n{row.fix[0].upper()}{row.fix[1:]}."
        cells = (row.reason, row.stage, f"{row.items:,}", " to ".join(days), about)
        table.add_row(*map(escape, cells))
    Console().print(table)


def _print_paths(folder: Path, entries: list[Entry]) -> None:
    from medssl.stages import quarantine as stage

    found = stage.paths_of(folder, entries)
    typer.echo("files (from the catalog's private table; not for passing on):")
    for entry, files in found:
        for file in files:
            typer.echo(f"  {entry.reason}  {str(file).encode('utf-8', 'replace').decode()}")


def _retry(folder: Path, reason: str | None, *, quiet: bool) -> int:
    from medssl.stages import quarantine as stage

    done = stage.retry(folder, reason, quiet=quiet)
    if not quiet:
        typer.echo(f"tried again: {done.tried}, cured: {done.cured}")
        if done.waiting:
            typer.echo(f"forgotten until the next run of their stage: {done.waiting}")
        typer.echo(f"still quarantined: {done.left}")
    return 4 if done.left else 0


def _export(folder: Path, reason: str | None, out: Path) -> int:
    from medssl.stages import quarantine as stage

    entries = stage.select(stage.open_ledger(folder), reason)
    stage.export(entries, out)
    typer.echo(f"{len(entries)} entries: {out}")
    return 0
