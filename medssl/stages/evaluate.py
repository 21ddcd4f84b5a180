"""Compare predictions with reference labels: per case, per label, and as means with intervals.

Pairs: the prediction ``<name>_seg.nii.gz`` or ``<name>.nii.gz`` (or ``.nii``) belongs to the
reference ``<name>.nii.gz`` in the same subfolder; ``<name>_0000_seg`` (nnU-Net channel suffix)
belongs to ``<name>`` too. Files whose names start with a dot are no cases. Where there is no such
NIfTI, a DICOM SEG or RTSTRUCT ``<name>.dcm`` is the reference: it is put on the prediction's grid,
and its segments are matched by label name.

Pictures: ``<name>_seg.png`` or ``<name>.png`` (TIFF too) belongs to the mask ``<name>`` with any
picture's ending, or ``<name>_mask``, ``_seg``, ``_segmentation``, ``_label``; previews are no
cases. Distances are in pixels, ``hd95_px``, because these files do not say how large a pixel is;
areas too, ``area_error_px``. A JPEG mask is cut at half of 255, and ``label_flags`` counts it.

Videos: predictions ``<video>/<frame>.png`` beside ``<video>_areas.csv``, as predict writes them,
and masks of some frames as references: ``<video>/<frame>.png``, or a table ``video,frame,mask``.
Frames without a reference do not count. Intervals are over videos, or over the table's patients.

The mean over labels is taken within each case first, then over cases. A label that occurs in any
case, or is named in ``labels``, counts in every case: absent from prediction and reference, it
scores Dice 1 and HD95 0. Intervals are 95 % percentile bootstrap over patients; ``low`` and
``high`` are null with a single patient.

``cases[].case`` is the reference's name below ``ref`` without its ending, as in the user's own
folders.

Probabilities and the quality of cases, where predict wrote them, are judged too
(:mod:`medssl.stages._evaluate_trust`), with a page beside the file, ``<name>_calibration.html``.

With ``probe`` no prediction is compared: see :mod:`medssl.stages._evaluate_probe`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medssl.core.config import Config
from medssl.core.errors import UsageError
from medssl.core.runlog import Run, write_text
from medssl.stages._calibration_page import calibration_page
from medssl.stages._evaluate_classes import evaluate_classes
from medssl.stages._evaluate_labels import evaluate_labels
from medssl.stages._evaluate_phases import evaluate_phases
from medssl.stages._evaluate_tools import evaluate_tools

_COMPARE = {
    "segmentation": evaluate_labels,
    "classification": evaluate_classes,
    "phase": evaluate_phases,
    "tools": evaluate_tools,
}
_TO_COMPARE = {"task", "pred", "ref"}


class EvaluateConfig(Config):
    """What to compare."""

    task: Literal["segmentation", "classification", "phase", "tools"] = "segmentation"
    pred: Path = Path()
    """Folder of predictions; of classes also the ``classes.csv`` itself."""
    ref: Path = Path()
    """Folder of reference labels with the same names; of classes a table or class folders; of
    phases label files or a table; of frames of videos masks or a table."""
    out: Path
    """The JSON file to write, e.g. ``metrics.json``."""
    labels: dict[int, str] | None = None
    """Label values and names; without it every value that occurs, named by its number."""
    fps: float = Field(default=25.0, gt=0)
    """Frames per second of references of videos that count frames, as Cholec80's do."""
    groups: Path | None = None
    """CSV file with the columns case,patient; without it every case is its own patient."""
    sites: Path | None = None
    """CSV file with the columns case,site: calibration by site too."""
    probe: Literal["knn", "linear", "attentive", "dense"] | None = None
    """Instead of ``task``: what labels read out of a frozen encoder, see docs/probes.md."""
    data: Path | None = None
    """Probe: labelled data set, as ``finetune`` takes it."""
    checkpoint: Path | None = None
    """Probe: run of ``pretrain`` or ``finetune``."""
    labelled: int | None = Field(default=None, ge=1)
    """Probe: learn from so many patients; default: all that are not tested or chosen by."""
    seeds: int = Field(default=3, ge=1)
    """Probe: repetitions with other folds, random weights and ``labelled`` patients."""
    store: Path | None = None
    """Probe: keep the preprocessed data set here; default: it is thrown away."""
    device: str = "auto"
    """Probe: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes a GPU where there is one."""
    overwrite: bool = False


def run(config: EvaluateConfig) -> Run:
    """Score every pair and write the metrics file; ``Run.result`` is its content.

    Raises:
        UsageError: output in use, folder missing, case without patient.
        MedsslError: a file without partner, other grid, labels that are no whole numbers.
        NothingUsableError: no case, or no label in any case.
    """
    page = config.out.with_name(f"{config.out.stem}_calibration.html")
    for path in (config.out, page) if config.probe is None else (config.out,):
        if path.is_dir() or (path.exists() and not config.overwrite):
            fix = "choose another file, or give --overwrite"
            raise UsageError("the output exists", where=str(path), fix=fix)
    finished = Run("evaluate", config.out)
    finished.result = _measured(config)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(config.out, json.dumps(finished.result, indent=1, allow_nan=False) + "\n")
    if "calibration" in finished.result or "selective" in finished.result:
        write_text(page, calibration_page(finished.result))
    return finished


def _measured(config: EvaluateConfig) -> dict[str, Any]:
    given = _TO_COMPARE & config.model_fields_set
    if config.probe is not None:
        if given:
            what = f"a probe makes its own predictions: {', '.join(sorted(given))} beside it"
            raise UsageError(
                what, fix="medssl evaluate --probe knn --data D --checkpoint RUN -o FILE"
            )
        from medssl.stages._evaluate_probe import evaluate_probe

        return evaluate_probe(config)
    if given != _TO_COMPARE:
        fix = "medssl evaluate --task TASK --pred FOLDER --ref FOLDER -o FILE, or --probe"
        raise UsageError("evaluate needs task, pred and ref, or a probe", fix=fix)
    return _COMPARE[config.task](config)
