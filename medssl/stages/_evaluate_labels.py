"""Scores of predicted label maps: of every pair, and as means with intervals."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import rich
from rich.progress import track

from medssl.core.errors import MedsslError, NothingUsableError, UsageError
from medssl.core.geometry import GRID_TOLERANCE_MM, grid_distance_mm
from medssl.evaluation.bootstrap import bootstrap_mean
from medssl.evaluation.calibration_summary import Summary
from medssl.evaluation.segmentation import LabelScore, PictureScore, score_labels, score_pictures
from medssl.inference.writers import read_probabilities
from medssl.readers import _read
from medssl.readers._mask import is_picture, read_mask
from medssl.readers.labels import labels_on_grid
from medssl.stages._calibrate import region
from medssl.stages._evaluate_trust import Trust, quality_of_results
from medssl.stages._frame_pairs import are_of_videos, pair_frames
from medssl.stages._pairs import (
    DICOM_ENDING,
    Pair,
    pair_files,
    patients_of,
    probabilities_of,
)

if TYPE_CHECKING:
    from medssl.stages.evaluate import EvaluateConfig

Found = dict[int, LabelScore] | dict[int, PictureScore]
Scores = dict[str, Found]

# What predict writes beside its results.
LABELS_NAME = "labels.json"


def evaluate_labels(config: EvaluateConfig) -> dict[str, Any]:
    """The content of the metrics file.

    Raises:
        UsageError: a folder is missing, or a case without patient.
        MedsslError: a file without partner, other grid, labels that are no whole numbers.
        NothingUsableError: no case, or no label in any case.
    """
    if are_of_videos(config.pred):
        pairs, patients = pair_frames(config)
    else:
        pairs = pair_files(config.pred, config.ref)
        patients = patients_of(config.groups, pairs)
    shown = track(pairs, "evaluate", transient=True, disable=not rich.get_console().is_terminal)
    stated = _stated_labels(config)
    flags: Counter[str] = Counter()
    scores = {pair.case: _score(pair, stated, flags) for pair in shown}
    score = PictureScore if is_picture(pairs[0].ref) else LabelScore
    names = _label_names(stated, pairs, scores)
    summary = summarise(scores, patients, names, score)
    summary |= _trust(config, pairs, summary["cases"], names)
    return {**summary, **({"label_flags": dict(flags)} if flags else {})}


def _trust(
    config: EvaluateConfig, pairs: list[Pair], rows: list[dict[str, Any]], names: dict[int, str]
) -> dict[str, Any]:
    """Calibration of voxels, and what the quality of predict was worth."""
    values = np.array([0, *sorted(names)])
    trust = Trust(config.sites, lambda: Summary(["background", *(names[k] for k in values[1:])]))
    quality = quality_of_results(config.pred)
    dice_NK = np.array([row["dice"] for row in rows]).reshape(len(pairs), -1)
    for pair, dice_K in zip(pairs, dice_NK, strict=True):
        known = quality.get(pair.pred.relative_to(config.pred).as_posix())
        if known is not None:
            trust.note(float(known["quality"]), float(dice_K.mean()), known["refer"])
        file = probabilities_of(pair.pred)
        if file.is_file():
            p_KDHW = read_probabilities(file)
            if len(p_KDHW) != len(values):
                what = f"probabilities are of {len(p_KDHW)} classes, labels of {len(values)}"
                raise UsageError(what, where=str(file), fix="give all labels of the model")
            label_DHW = np.searchsorted(values, _reference(pair, names, p_KDHW.shape[1:]))
            box = region(p_KDHW.argmax(0))
            p_NK = p_KDHW[(slice(None), *box)].reshape(len(p_KDHW), -1).T
            trust.add(pair.case, p_NK, label_DHW[box].ravel())
    return trust.as_json()


def _reference(
    pair: Pair, names: dict[int, str], shape_DHW: tuple[int, ...]
) -> npt.NDArray[np.integer[Any]]:
    """Reference labels (D, H, W) on the grid of the prediction, which was compared before."""
    if is_picture(pair.ref):
        return read_mask(pair.ref)[0][None]
    if pair.ref.suffix == DICOM_ENDING:
        geometry = _read.read(pair.pred).geometry
        d, h, w = shape_DHW
        return labels_on_grid(pair.ref, geometry, (d, h, w), names=names).labels_DHW
    return _labels(_read.read(pair.ref).array, pair.ref)


def _score(pair: Pair, names: dict[int, str] | None, flags: Counter[str]) -> Found:
    return score_picture(pair, flags) if is_picture(pair.ref) else score_pair(pair, names)


def score_picture(pair: Pair, flags: Counter[str]) -> dict[int, PictureScore]:
    """Scores of the labels that occur in one picture; remarks on its masks are counted.

    Raises:
        MedsslError: other size.
        ReadError: a file that cannot be read, or is no label map.
    """
    (pred_HW, _), (ref_HW, remarks) = read_mask(pair.pred), read_mask(pair.ref)
    if pred_HW.shape != ref_HW.shape:
        what = f"prediction and reference differ in size: {pred_HW.shape} and {ref_HW.shape}"
        raise MedsslError(what, where=f"{pair.pred} and {pair.ref}")
    flags.update(remarks)
    return score_pictures(pred_HW, ref_HW)


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


def summarise(
    scores: Scores,
    patients: list[str],
    names: dict[int, str],
    score: type[LabelScore] | type[PictureScore],
) -> dict[str, Any]:
    """The content of the metrics file; ``patients`` in the order of ``scores``."""
    summary: dict[str, Any] = {}
    absent = score.both_empty()
    for metric in score._fields[:2]:
        values_NK = np.array([
            [getattr(found.get(k, absent), metric) for k in names] for found in scores.values()
        ])  # fmt: skip
        per_label = {
            name: bootstrap_mean(values_N, patients).as_json()
            for name, values_N in zip(names.values(), values_NK.T, strict=True)
        }
        overall = bootstrap_mean(values_NK.mean(axis=1), patients)
        summary[metric] = {**overall.as_json(), "per_label": per_label}
    summary["cases"] = [
        {"case": case, "label": name, **found.get(k, absent)._asdict()}
        for case, found in scores.items()
        for k, name in names.items()
    ]
    return summary


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
