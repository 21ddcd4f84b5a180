"""Options that pipelines on a Decathlon folder share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[Path, typer.Option(help="Folder with dataset.json and split.json.")]
Out = Annotated[Path, typer.Option(help="Where the runs go.")]
Jobs = Annotated[int, typer.Option(help="Trainings at a time, one thread each.")]
Results = Annotated[Path, typer.Option(help="Markdown file to write.")]
