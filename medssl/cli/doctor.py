"""``medssl doctor``: a look at an archive, shown here or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def doctor(
    archive: Annotated[Path, typer.Argument(help="Folder of scans.", show_default=False)],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for the page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON only.")] = False,
    samples: Annotated[int, typer.Option(help="Records to decode for a look.")] = 24,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier page.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback.")] = False,
) -> None:
    """Say what an archive holds and what is wrong with it, before anything else runs."""
    from medssl.cli.exits import exit_with

    values = {"archive": archive, "out": out, "samples": samples, "overwrite": overwrite}
    hidden = {"quiet": quiet or as_json}
    exit_with(lambda: _doctor(values | hidden, as_json=as_json), out=out, debug=debug)


def _doctor(values: dict[str, Any], *, as_json: bool) -> int:
    from rich.console import Console

    from medssl.stages import run_stage
    from medssl.stages._doctor_page import show

    run = run_stage("doctor", None, values)
    if as_json:
        typer.echo(json.dumps(run.result, indent=1))
    elif not values["quiet"]:
        show(run.result, Console())
        if values["out"] is not None:
            typer.echo(f"page: {run.out / 'doctor.html'}")
    return run.exit_code
