"""``medssl predict`` with a segmentation model: label maps, previews and sizes."""

from __future__ import annotations

from collections.abc import Collection

from medssl.stages._cases import Case
from medssl.stages._predict_case import (
    Outputs,
    label_paths,
    outputs_of,
    predict_case,
    write_case,
)
from medssl.stages._predict_session import Session, foreground
from medssl.stages._predict_tables import SizeTables


class SegmentationSession(Session):
    """Label maps on the grid of each scan or picture."""

    @property
    def measured(self) -> tuple[str, ...]:
        return foreground(self.card)

    def begin(self) -> None:
        self.tables = SizeTables(self.out, self.card.labels)
        self.outputs: dict[str, Outputs] = {}
        for case in self.cases:
            outputs, refused = outputs_of(case, self.config.format)
            self.outputs[case.record_id] = outputs
            if refused is not None:
                self._without_seg(case, *refused)

    def begin_tables(self, kept: Collection[str]) -> None:
        self.tables.begin(self.cases, kept)

    def result_of(self, case: Case) -> str:
        paths = zip(label_paths(self.out, case), self.outputs[case.record_id], strict=True)
        names = (path.relative_to(self.out).as_posix() for path, wanted in paths if wanted)
        return next(names, "")

    def is_complete(self, case: Case) -> bool:
        wanted = self.outputs[case.record_id]
        if self.config.format is None:
            wanted = Outputs(map=True, seg=False)
        pairs = zip(label_paths(self.out, case), wanted, strict=True)
        return any(wanted) and all(path.exists() for path, asked in pairs if asked)

    def write(self, case: Case) -> None:
        prediction = predict_case(
            self.model,
            self.card,
            case.channels,
            self.window,
            probabilities=self.config.probabilities,
        )
        # Sizes first: a case counts as done once its label map exists.
        self.tables.add(case, prediction)
        self.quality.add(case.record_id, prediction.dice_K.mean(), prediction.dice_K.tolist())
        failed = write_case(self.out, case, prediction, self.outputs[case.record_id], self.card)
        if failed is not None:
            self._without_seg(case, failed.reason, failed.what)

    def _without_seg(self, case: Case, reason: str, message: str) -> None:
        """Note that a case has no DICOM SEG: a failure only where one was asked for."""
        if self.config.format is None:
            self.skipped[reason] += 1
        else:
            self.quarantine(case.record_id, reason, message)
            self.ledger.save()
