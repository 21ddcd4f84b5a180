"""Every test file of pydicom: read, quarantined with a reason, or ignored by kind.

python -m pipelines.check_pydicom_files [../shared/data/dicom_codecs]
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pydicom.data
import typer

from pipelines._bench import write_table
from pipelines._references_pixels import against_pydicom, outcomes

TITLE = "The test files of pydicom"
NOTE = (
    "Every file ends as read (and its pixels decoded), quarantined with a reason, or ignored by "
    "kind; single slices of CT and MR are `too_few_slices` by design. *Pixels* compares each "
    "decoded image with pydicom's own choice of decoder after the same modality transform: equal, "
    "or the largest difference in grey levels (lossy colour). Files of the pydicom wheel first, "
    "then those that pydicom keeps elsewhere. Folders of one outcome are one row."
)
WHEEL = Path(pydicom.data.__file__).parent / "test_files"
_FEW = 3


def rows(root: Path, seen: set[str]) -> Iterator[list[str]]:
    """One row per file (each on its own) or per folder of one outcome."""
    folders: dict[Path, list[Path]] = defaultdict(list)
    for file in sorted(root.rglob("*")):
        if file.is_file() and file.name not in seen:
            folders[file.parent].append(file)
    for folder, files in sorted(folders.items()):
        together = root not in {folder, folder.parent}
        groups = [files] if together else [[file] for file in files]
        results = {k: v for group in groups for k, v in outcomes(group).items()}
        if set(results) != set(files):
            raise typer.Exit(1)
        name = folder.relative_to(root)
        if len(set(results.values())) == 1 and len(files) > _FEW:
            yield [f"`{name}/*` ({len(files)} files)", *next(iter(results.values())), ""]
            continue
        for file in files:
            yield [f"`{name / file.name}`", *results[file], against_pydicom(file)]


def main(more: Annotated[Path | None, typer.Argument()] = None) -> None:
    """Write docs/results/pydicom_files.md."""
    table = list(rows(WHEEL, set()))
    if more is not None:
        table += rows(more, {file.name for file in WHEEL.rglob("*")})
    head = ["file", "outcome", "kind or reason", "pixels"]
    write_table("pydicom_files", TITLE, head, table, NOTE, by="check_pydicom_files")


if __name__ == "__main__":
    typer.run(main)
