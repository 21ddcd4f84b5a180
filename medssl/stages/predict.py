"""Apply a fine-tuned model to every scan of a folder.

For each scan, below ``out`` and under the scan's own relative path (a DICOM series: its folder
and series number): ``<name>_seg.nii.gz`` on the scan's grid, ``<name>_seg.dcm`` (a DICOM SEG, for
the archive the scan came from) and ``<name>_preview.png``. For each picture, with an image
encoder: ``<name>_seg.png``, grey levels are label values as in the masks of the training, of the
picture's own size, and the preview. An image encoder takes volumes slice by slice. Besides:
``labels.json`` (label names), ``volumes.csv`` (mm³ per scan and label), ``areas.csv`` (pixels per
picture and label, and mm² where pixels have a size), ``run.json``,
``quarantine.jsonl`` (what could not be predicted and why) and ``paths.parquet`` (mode 0600: which
file a record id stands for). All but the last, the names of the results and the DICOM SEG, which
names the patient as its scan does, hold ids only.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import rich
from pydantic import Field
from rich.progress import Progress
from torch import nn

from medssl.archive.build import record_id_of
from medssl.archive.identity import load_salt
from medssl.archive.quarantine import Ledger
from medssl.core.config import Config
from medssl.core.errors import NothingUsableError, ReadError, ResourceError
from medssl.core.runlog import Run
from medssl.encoders.card import Card
from medssl.heads.segmentation import load_model
from medssl.inference.writers import write_label_names
from medssl.readers._base import Found, Refused
from medssl.stages._cases import Case, group_channels, name_cases, scan_input
from medssl.stages._predict_case import (
    Format,
    Outputs,
    Window,
    label_paths,
    outputs_of,
    predict_case,
    write_case,
)
from medssl.stages._predict_setup import check_unchanged, device_of, refuse_overlap, write_paths
from medssl.stages._predict_tables import SizeTables


class PredictConfig(Config):
    """What to predict, with what."""

    input: Path
    """Folder of scans, or one file."""
    out: Path
    checkpoint: Path
    """Run folder of finetune."""
    overlap: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Shared fraction of neighbouring windows."""
    batch_windows: int = Field(default=4, ge=1)
    """Windows per forward pass; lower it when memory runs out."""
    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes a GPU where there is one."""
    format: Format | None = None
    """``nifti``, ``dicom-seg`` or ``both``; default: NIfTI, plus DICOM SEG for DICOM scans."""
    hashed_names: bool = False
    """Name results by record id instead of by the scan's path."""
    resume: bool = False
    overwrite: bool = False


def run(config: PredictConfig) -> Run:
    """Predict every scan below ``config.input``; one bad scan does not stop the rest.

    Raises:
        UsageError: folders that overlap, no model, output in use.
        NothingUsableError: no scan could be predicted.
        ResourceError: disk full, or every scan ran out of memory.
    """
    refuse_overlap(config)
    device = device_of(config.device)
    model, card = load_model(config.checkpoint, device)
    finished = Run.open("predict", config.out, resume=config.resume, overwrite=config.overwrite)
    session = _Session(finished, config, model, card, device)
    with Progress(transient=True, disable=not rich.get_console().is_terminal) as progress:
        session.find(progress)
        for case in progress.track(session.todo(), description="predict"):
            session.predict(case)
    return session.finish()


class _Session:
    """One run: its cases, ledger and counts."""

    def __init__(
        self, run: Run, config: PredictConfig, model: nn.Module, card: Card, device: str
    ) -> None:
        self.run, self.config, self.model, self.card = run, config, model, card
        self.out = run.out
        self.window = Window(
            overlap=config.overlap, batch_windows=config.batch_windows, device=device
        )
        resolved = {"model": card.weights_sha256, "contract": card.contract.digest}
        check_unchanged(self.out, {**config.model_dump(), **resolved})
        run.save_config(config, resolved)
        write_label_names(self.out / "labels.json", card.labels)
        self.salt = load_salt(self.out)
        self.ledger = Ledger(self.out / "quarantine.jsonl")
        self.cases: list[Case] = []
        self.outputs: dict[str, Outputs] = {}
        self.tables = SizeTables(self.out, card.labels)
        self.done: set[str] = set()
        self.failed: Counter[str] = Counter()
        self.failed_ids: set[str] = set()
        self.skipped: Counter[str] = Counter()
        self.case_s: list[float] = []

    def find(self, progress: Progress) -> None:
        """Scan the input; what cannot be a case goes to the ledger."""
        task = progress.add_task("scan", total=None)
        scan, self.skipped = scan_input(
            self.config.input,
            lambda done, total: progress.update(task, completed=done, total=total),
            pictures=len(self.card.patch_size) == 2,
        )
        groups, misfits = group_channels(
            scan.found, self.card.in_channels, self.card.contract.picture_channels
        )
        self.cases = name_cases(
            groups,
            scan.root,
            lambda channels: self._record_id(channels, scan.root),
            hashed_names=self.config.hashed_names,
        )
        self._choose_outputs()
        rows = [
            (case.record_id, file, self._result(case))
            for case in self.cases
            for one in case.channels
            for file in one.files
        ]
        for bad in (*scan.refused, *misfits):
            record_id = self._record_id([bad], scan.root)
            rows += [(record_id, file, "") for file in bad.files]
            self._quarantine(record_id, bad.reason, bad.message)
        self.ledger.save()
        write_paths(self.out / "paths.parquet", rows)

    def todo(self) -> list[Case]:
        """Cases without a result; the volumes of those with one are kept."""
        exists = {case.record_id for case in self.cases if self._is_complete(case)}
        self.done = exists if self.config.resume else set()
        self.tables.begin(self.cases, self.done)
        wanted = (case for case in self.cases if any(self.outputs[case.record_id]))
        return [case for case in wanted if case.record_id not in self.done]

    def predict(self, case: Case) -> None:
        """Predict and write one case, or note why not."""
        started_s = time.perf_counter()
        try:
            prediction = predict_case(self.model, self.card, case.channels, self.window)
        except ReadError as error:
            self._quarantine(case.record_id, error.reason, error.what)
            self.ledger.save()
            return
        # Sizes first: a case counts as done once its label map exists.
        self.tables.add(case, prediction)
        failed = write_case(self.out, case, prediction, self.outputs[case.record_id], self.card)
        if failed is not None:
            self._without_seg(case, failed.reason, failed.what)
        self.case_s.append(time.perf_counter() - started_s)

    def finish(self) -> Run:
        """Write ``run.json``; raise if nothing was predicted."""
        self.ledger.keep("predict", {(record_id, "") for record_id in self.failed_ids})
        self.ledger.save()
        predicted = len(self.case_s)
        nothing = predicted + len(self.done) == 0
        if nothing:
            error = self._nothing()
            self.run.exit_code = error.exit_code
        elif self.failed:
            self.run.exit_code = 4
        self.run.finish(
            model=self.card.weights_sha256,
            device=str(self.window.device),
            predicted=predicted,
            kept=len(self.done),
            quarantined=dict(sorted(self.failed.items())),
            skipped=dict(sorted(self.skipped.items())),
            mean_case_s=round(sum(self.case_s) / max(predicted, 1), 3),
        )
        if nothing:
            raise error
        return self.run

    def _nothing(self) -> NothingUsableError | ResourceError:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(self.failed.items()))
        if self.failed and set(self.failed) == {"out_of_memory"}:
            fix = "lower batch_windows, or predict on a machine with more memory"
            return ResourceError(f"every scan ran out of memory ({reasons})", fix=fix)
        what = f"no scan could be predicted ({reasons or 'no scan found'})"
        return NothingUsableError(what, where=str(self.config.input))

    def _quarantine(self, record_id: str, reason: str, message: str) -> None:
        self.failed[reason] += 1
        self.failed_ids.add(record_id)
        self.ledger.add(record_id, "predict", reason, message)

    def _choose_outputs(self) -> None:
        for case in self.cases:
            outputs, refused = outputs_of(case, self.config.format)
            self.outputs[case.record_id] = outputs
            if refused is not None:
                self._without_seg(case, *refused)

    def _without_seg(self, case: Case, reason: str, message: str) -> None:
        """Note that a case has no DICOM SEG: a failure only where one was asked for."""
        if self.config.format is None:
            self.skipped[reason] += 1
        else:
            self._quarantine(case.record_id, reason, message)
            self.ledger.save()

    def _result(self, case: Case) -> str:
        """Name of a case's first label map; empty if it gets none."""
        paths = zip(label_paths(self.out, case), self.outputs[case.record_id], strict=True)
        names = (path.relative_to(self.out).as_posix() for path, wanted in paths if wanted)
        return next(names, "")

    def _is_complete(self, case: Case) -> bool:
        wanted = self.outputs[case.record_id]
        if self.config.format is None:
            wanted = Outputs(map=True, seg=False)
        pairs = zip(label_paths(self.out, case), wanted, strict=True)
        return any(wanted) and all(path.exists() for path, asked in pairs if asked)

    def _record_id(self, parts: Sequence[Found | Refused], root: Path) -> str:
        files = tuple(file for one in parts for file in one.files)
        part = ";".join(one.part for one in parts if isinstance(one, Found) and one.part)
        return record_id_of(files, root, self.salt, part)
