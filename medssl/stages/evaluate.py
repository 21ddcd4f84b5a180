"""Compare predictions with reference labels: per case, per label, and as means with intervals.

Pairs: the prediction ``<name>_seg.nii.gz`` or ``<name>.nii.gz`` (or ``.nii``) belongs to the
reference ``<name>.nii.gz`` in the same subfolder; ``<name>_0000_seg`` (nnU-Net channel suffix)
belongs to ``<name>`` too. Files whose names start with a dot are no cases. Where there is no such
NIfTI, a DICOM SEG or RTSTRUCT ``<name>.dcm`` is the reference: it is put on the prediction's grid,
and its segments are matched by label name.

The mean over labels is taken within each case first, then over cases. A label that occurs in any
case, or is named in ``labels``, counts in every case: absent from prediction and reference, it
scores Dice 1 and HD95 0. Intervals are 95 % percentile bootstrap over patients; ``low`` and
``high`` are null with a single patient.

``cases[].case`` is the reference's name below ``ref`` without its ending, as in the user's own
folders.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import rich
from rich.progress import track

from medssl.core.config import Config
from medssl.core.errors import MedsslError, NothingUsableError, UsageError
from medssl.core.geometry import GRID_TOLERANCE_MM, grid_distance_mm
from medssl.core.runlog import Run, write_text
from medssl.evaluation.bootstrap import Interval, bootstrap_mean
from medssl.evaluation.segmentation import BOTH_EMPTY, LabelScore, score_labels
from medssl.readers import _read
from medssl.readers.labels import labels_on_grid
from medssl.stages._evaluate_classes import evaluate_classes

Scores = dict[str, dict[int, LabelScore]]


# What predict writes beside its results.
LABELS_NAME = "labels.json"
DICOM_ENDING = ".dcm"


class EvaluateConfig(Config):
    """What to compare."""

    task: Literal["segmentation", "classification"]
    pred: Path
    """Folder of predictions; of classes also the ``classes.csv`` itself."""
    ref: Path
    """Folder of reference labels with the same names; of classes a table or class folders."""
    out: Path
    """The JSON file to write, e.g. ``metrics.json``."""
    labels: dict[int, str] | None = None
    """Label values and names; without it every value that occurs, named by its number."""
    groups: Path | None = None
    """CSV file with the columns case,patient; without it every case is its own patient."""
    overwrite: bool = False


class Pair(NamedTuple):
    """One case: its name and its two files."""

    case: str
    pred: Path
    ref: Path


def run(config: EvaluateConfig) -> Run:
    """Score every pair and write the metrics file; ``Run.result`` is its content.

    Raises:
        UsageError: output in use, folder missing, case without patient.
        MedsslError: a file without partner, other grid, labels that are no whole numbers.
        NothingUsableError: no case, or no label in any case.
    """
    if config.out.is_dir() or (config.out.exists() and not config.overwrite):
        fix = "choose another file, or give --overwrite"
        raise UsageError("the output exists", where=str(config.out), fix=fix)
    finished = Run("evaluate", config.out)
    compare = evaluate_classes if config.task == "classification" else _evaluate_labels
    finished.result = compare(config)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(config.out, json.dumps(finished.result, indent=1, allow_nan=False) + "\n")
    return finished


def _evaluate_labels(config: EvaluateConfig) -> dict[str, Any]:
    pairs = pair_files(config.pred, config.ref)
    patients = _patients(config.groups, pairs)
    shown = track(pairs, "evaluate", transient=True, disable=not rich.get_console().is_terminal)
    stated = _stated_labels(config)
    scores = {pair.case: score_pair(pair, stated) for pair in shown}
    return summarise(scores, patients, _label_names(stated, pairs, scores))


def pair_files(pred: Path, ref: Path) -> list[Pair]:
    """All cases by name.

    Raises:
        MedsslError: naming the first file without partner, or with two.
    """
    predictions, references = _nifti_files(pred), {**_dicom_files(ref), **_nifti_files(ref)}
    if not predictions and not references:
        raise NothingUsableError("no NIfTI file to compare", where=f"{pred}, {ref}")
    partner: dict[str, str] = {}
    for name in predictions:
        found = next((n for n in _reference_names(name) if n in references), None)
        if found is None:
            raise _unpaired("prediction", "reference", predictions[name])
        if found in partner:
            what = "two predictions belong to one reference"
            raise MedsslError(what, where=f"{predictions[partner[found]]}, {predictions[name]}")
        partner[found] = name
    for name, file in references.items():
        if name not in partner:
            raise _unpaired("reference", "prediction", file)
    return [Pair(name, predictions[partner[name]], file) for name, file in references.items()]


def score_pair(pair: Pair, names: dict[int, str] | None = None) -> dict[int, LabelScore]:
    """Scores of the labels that occur in one case.

    Args:
        pair: the two files.
        names: label values and names; needed where the reference is DICOM.

    Raises:
        MedsslError: other grid, or labels that are no whole numbers.
        ReadError: a file that cannot be read.
    """
    if pair.ref.suffix == DICOM_ENDING:
        return _score_dicom(pair, names)
    pred, ref = _read.read(pair.pred), _read.read(pair.ref)
    affine, other = pred.geometry.affine, ref.geometry.affine
    where = f"{pair.pred} and {pair.ref}"
    if affine is None or other is None:
        raise MedsslError("a label map without geometry cannot be measured in mm", where=where)
    if pred.shape != ref.shape:
        shapes = f"{pred.shape[1:]} and {ref.shape[1:]}"
        raise MedsslError(f"prediction and reference differ in shape: {shapes}", where=where)
    apart_mm = grid_distance_mm(affine, other, ref.shape[1:])
    if apart_mm > GRID_TOLERANCE_MM:
        what = f"prediction and reference lie {apart_mm:.3g} mm apart at a corner"
        raise MedsslError(what, where=where, fix="predict on the grid that was labelled")
    return score_labels(_labels(pred.array, pair.pred), _labels(ref.array, pair.ref), other)


def _score_dicom(pair: Pair, names: dict[int, str] | None) -> dict[int, LabelScore]:
    if names is None:
        what = "a DICOM reference has names, the predictions have numbers only"
        raise MedsslError(what, where=str(pair.ref), fix="give labels={1: name}")
    pred = _read.read(pair.pred)
    d, h, w = pred.shape[1:]
    ref = labels_on_grid(pair.ref, pred.geometry, (d, h, w), names=names)
    assert pred.geometry.affine is not None  # checked by labels_on_grid
    labels_DHW = ref.labels_DHW.astype(np.int32)
    return score_labels(_labels(pred.array, pair.pred), labels_DHW, pred.geometry.affine)


def summarise(scores: Scores, patients: list[str], names: dict[int, str]) -> dict[str, Any]:
    """The content of the metrics file; ``patients`` in the order of ``scores``."""
    summary: dict[str, Any] = {}
    for metric in ("dice", "hd95_mm"):
        values_NK = np.array([
            [getattr(found.get(k, BOTH_EMPTY), metric) for k in names] for found in scores.values()
        ])  # fmt: skip
        per_label = {
            name: _as_json(bootstrap_mean(values_N, patients))
            for name, values_N in zip(names.values(), values_NK.T, strict=True)
        }
        overall = bootstrap_mean(values_NK.mean(axis=1), patients)
        summary[metric] = {**_as_json(overall), "per_label": per_label}
    summary["cases"] = [
        {"case": case, "label": name, **found.get(k, BOTH_EMPTY)._asdict()}
        for case, found in scores.items()
        for k, name in names.items()
    ]
    return summary


def _as_json(interval: Interval) -> dict[str, float | int | None]:
    # JSON knows no NaN.
    return {k: None if math.isnan(v) else v for k, v in interval._asdict().items()}


def _nifti_files(folder: Path) -> dict[str, Path]:
    """Files by relative name without ending, sorted."""
    if not folder.is_dir():
        raise UsageError("the folder does not exist", where=str(folder))
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        name = file.name.removesuffix(".gz").removesuffix(".nii")
        if file.name not in {f"{name}.nii", f"{name}.nii.gz"} or name.startswith("."):
            continue
        key = (file.parent.relative_to(folder) / name).as_posix()
        if key in found:
            raise MedsslError("one case twice", where=f"{found[key]}, {file}")
        found[key] = file
    return found


def _dicom_files(folder: Path) -> dict[str, Path]:
    files = (file for file in sorted(folder.rglob(f"*{DICOM_ENDING}")) if file.name[0] != ".")
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def _reference_names(prediction: str) -> Iterable[str]:
    """Names of the reference a prediction may belong to, first choice first."""
    name = prediction.removesuffix("_seg")
    yield from (prediction, name)
    stem, _, channel = name.rpartition("_")
    if len(channel) == 4 and channel.isdigit():
        yield stem


def _unpaired(one: str, other: str, file: Path) -> MedsslError:
    fix = f"add its {other}, or move the {one} away"
    return MedsslError(f"a {one} has no {other} of the same name", where=str(file), fix=fix)


def _labels(array_CDHW: npt.NDArray[Any], file: Path) -> npt.NDArray[np.int32]:
    if array_CDHW.shape[0] != 1:
        what = f"a label map has {array_CDHW.shape[0]} channels, not one"
        raise MedsslError(what, where=str(file))
    labels = np.asarray(np.nan_to_num(array_CDHW[0], nan=0.5)).astype(np.int32)
    if not np.array_equal(labels, array_CDHW[0]) or labels.min() < 0:
        what = "label values are not whole numbers from 0"
        raise MedsslError(what, where=str(file), fix="is this an image, or a probability map?")
    return labels


def _stated_labels(config: EvaluateConfig) -> dict[int, str] | None:
    """Label names as given, or as predict wrote them beside its results."""
    beside = config.pred / LABELS_NAME
    if config.labels is not None or not beside.is_file():
        return config.labels
    return {int(k): str(v) for k, v in json.loads(beside.read_text(encoding="utf-8")).items()}


def _label_names(given: dict[int, str] | None, pairs: list[Pair], scores: Scores) -> dict[int, str]:
    if given is None:
        names = {k: str(k) for k in sorted({k for found in scores.values() for k in found})}
    else:
        names = {k: name for k, name in given.items() if k != 0}
    if not names:
        fix = "give labels={1: name}"
        raise NothingUsableError("no label in any prediction or reference", fix=fix)
    for pair in pairs:
        unknown = sorted(scores[pair.case].keys() - names.keys())
        if unknown:
            what = f"label value {unknown[0]} is not among labels"
            raise MedsslError(what, where=f"{pair.pred} or {pair.ref}", fix="add it to labels")
    return names


def _patients(groups: Path | None, pairs: list[Pair]) -> list[str]:
    if groups is None:
        return [pair.case for pair in pairs]
    if not groups.is_file():
        raise UsageError("the file of groups does not exist", where=str(groups))
    with groups.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        if not {"case", "patient"} <= set(table.fieldnames or ()):
            raise UsageError("groups need the columns case,patient", where=str(groups))
        patient_of = {row["case"]: row["patient"] for row in table}
    found = []
    for pair in pairs:
        names = (n for n in _reference_names(pair.case) if n in patient_of)
        name = next(names, None)
        if name is None:
            raise UsageError("a case has no patient", where=f"{groups}: {pair.case}")
        found.append(patient_of[name])
    return found
