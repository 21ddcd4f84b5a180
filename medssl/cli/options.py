"""Options of commands: how one is made, and those that several commands have."""

from __future__ import annotations

from inspect import Parameter
from pathlib import Path
from typing import Annotated

import typer


def text(name: str, about: str) -> Parameter:
    """An option that takes a word."""
    annotation = Annotated[str | None, typer.Option(help=about)]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def path(name: str, about: str, *flags: str) -> Parameter:
    """An option that takes a file or folder."""
    annotation = Annotated[Path | None, typer.Option(*flags, help=about)]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _paths(name: str, about: str) -> Parameter:
    annotation = Annotated[list[Path] | None, typer.Option("--" + name, help=about)]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def flag(name: str, about: str) -> Parameter:
    """An option that is on or off."""
    option = typer.Option("--" + name.replace("_", "-"), help=about)
    annotation = Annotated[bool, option]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=annotation)


def paths(name: str, about: str) -> Parameter:
    """An option that may be given several times."""
    annotation = Annotated[list[Path] | None, typer.Option(help=about)]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _argument(name: str, about: str) -> Parameter:
    annotation = Annotated[Path, typer.Argument(help=about, show_default=False)]
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation)


ARCHIVE = _argument("archive", "Folder of scans.")
CATALOG = _argument("catalog", "Written by index.")
RUN = _argument("run", "Of pretrain or finetune.")
WORDS = Parameter(
    "words",
    Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE")],
)
OUT = path("out", "Where the results go.", "-o", "--out")
TASK = text("task", "Head, see `medssl info`.")
DATA = path("data", "Catalog, archive or labelled folder.")
ENCODER = text("encoder", "Encoder, see `medssl info`.")
RESUME = flag("resume", "Go on where the run stopped.")
OVERWRITE = flag("overwrite", "Replace an earlier run.")
OF_EVERY_STAGE = (
    text("config", "Name or path of a YAML file."),
    flag("debug", "Show the full traceback of an error."),
    flag("quiet", "Print errors only."),
)
