"""``medssl predict`` with a classification model: a row of ``classes.csv`` per scan or video."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection

import numpy as np

from medssl.core.geometry import Kind
from medssl.evaluation.calibration import temper
from medssl.inference.writers import append_table, write_table
from medssl.stages import _class_table
from medssl.stages._calibrate import temperature_of
from medssl.stages._cases import Case
from medssl.stages._clip_windows import clip_probabilities, file_clip
from medssl.stages._predict_case import classify_case
from medssl.stages._predict_session import Session


class ClassSession(Session):
    """Probabilities of the classes, by record id."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return super().kinds if self.card.clip is None else ("clip",)

    def begin(self) -> None:
        self.table = self.out / _class_table.NAME
        self.header = _class_table.columns(self.card.labels)
        self.rows: dict[str, list[str]] = {}
        if self.config.resume and self.table.exists():
            text = self.table.read_text(encoding="utf-8")
            # The end of the file may be a row that a crash has torn.
            whole = text[: text.rfind("\n") + 1]
            rows = csv.reader(io.StringIO(whole))
            self.rows = {row[0]: row for row in rows if len(row) == len(self.header)}

    def begin_tables(self, kept: Collection[str]) -> None:
        rows = [row for record_id, row in self.rows.items() if record_id in kept]
        write_table(self.table, [self.header, *rows])

    def result_of(self, case: Case) -> str:  # noqa: ARG002
        return _class_table.NAME

    def is_complete(self, case: Case) -> bool:
        return case.record_id in self.rows

    def write(self, case: Case) -> None:
        if self.card.clip is None:
            p_K = classify_case(self.model, self.card, case.channels, self.window)
        else:
            [found] = case.channels
            clip = file_clip(found, self.card)
            p_K = clip_probabilities(self.model, clip, self.card, self.window)
        fitted_K = temper(p_K.astype(np.float64), temperature_of(self.card))
        self.quality.add(case.record_id, float(fitted_K.max()))
        append_table(self.table, [_class_table.row(case.record_id, fitted_K, self.card.labels)])
