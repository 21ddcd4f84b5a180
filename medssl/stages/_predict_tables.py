"""How large each label is: ``volumes.csv`` of volumes, ``areas.csv`` of pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from medssl.inference.writers import append_table, areas, volumes_mm3, write_table
from medssl.stages._cases import Case
from medssl.stages._predict_case import Prediction

_VOLUMES = ("record_id", "label", "name", "volume_mm3")
_AREAS = ("record_id", "label", "name", "area_px", "area_mm2")


class SizeTables:
    """Both tables of an output folder; each is written where there is such a case."""

    def __init__(self, out: Path, labels: Mapping[int, str]) -> None:
        self.labels = labels
        self.volumes, self.areas = out / "volumes.csv", out / "areas.csv"

    def begin(self, cases: Sequence[Case], kept: Collection[str]) -> None:
        """Start the tables with the rows of the records that are kept."""
        pictures = {case.record_id for case in cases if case.is_picture}
        if pictures:
            write_table(self.areas, [_AREAS, *_rows(self.areas, kept)])
        if len(pictures) < len(cases) or not cases:
            write_table(self.volumes, [_VOLUMES, *_rows(self.volumes, kept)])

    def add(self, case: Case, prediction: Prediction) -> None:
        """The rows of one case."""
        record_id, labels_DHW = case.record_id, prediction.labels_DHW
        if prediction.affine is None:
            sizes = areas(labels_DHW[0], prediction.spacing_mm, self.labels)
            rows: list[tuple[object, ...]] = [
                (record_id, k, self.labels[k], px, "" if mm2 is None else round(mm2, 3))
                for k, (px, mm2) in sizes.items()
            ]
            append_table(self.areas, rows)
            return
        volumes = volumes_mm3(labels_DHW, prediction.affine, self.labels)
        rows = [(record_id, k, self.labels[k], round(mm3, 3)) for k, mm3 in volumes.items()]
        append_table(self.volumes, rows)


def _rows(table: Path, kept: Collection[str]) -> list[list[str]]:
    if not kept or not table.exists():
        return []
    rows = csv.reader(io.StringIO(table.read_text(encoding="utf-8")))
    return [row for row in rows if row and row[0] in kept]
