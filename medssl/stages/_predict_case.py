"""One scan: read, prepare, sliding window, back to the scan's own grid, write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from medssl.core.errors import ReadError, ResourceError
from medssl.core.geometry import Geometry, cut_axis
from medssl.core.preprocess import Prepared, prepare, restore_labels, restore_scores
from medssl.core.sample import UNKNOWN
from medssl.encoders.card import Card
from medssl.evaluation.calibration import temper
from medssl.inference.preview import write_picture_preview, write_preview
from medssl.inference.seg import tilt_problem, write_seg
from medssl.inference.sliding import predict_probabilities, predict_scores
from medssl.inference.writers import (
    PROBABILITIES,
    write_mask,
    write_probabilities,
    write_segmentation,
)
from medssl.readers._dicom_sources import slice_sources
from medssl.readers._dispatch import sample
from medssl.readers._source import local_file
from medssl.stages._calibrate import quality_of, temperature_of
from medssl.stages._cases import Case, Channels

Format = Literal["nifti", "dicom-seg", "both"]


@dataclass(frozen=True, kw_only=True)
class Window:
    """How the model is slid over a volume."""

    overlap: float = 0.5
    batch_windows: int = 4
    device: str | torch.device = "cpu"


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """Labels (D, H, W) on the scan's grid, and the scan (C, D, H, W) itself; D = 1 for a picture.

    A picture has no affine, and maybe no spacing.

    Attributes:
        dice_K: expected Dice of every label but the background.
        p_KDHW: probabilities on the scan's grid, where they were asked for.
    """

    labels_DHW: npt.NDArray[np.uint8]
    scan_CDHW: npt.NDArray[Any]
    affine: npt.NDArray[np.float64] | None
    spacing_mm: tuple[float, ...] | None
    dice_K: npt.NDArray[np.float64]
    p_KDHW: npt.NDArray[np.floating[Any]] | None = None


def predict_case(
    model: nn.Module,
    card: Card,
    channels: Channels,
    window: Window,
    *,
    probabilities: bool = False,
) -> Prediction:
    """Predict one scan.

    Args:
        model: (B, C, *window) float32 -> logits (B, K, *window).
        card: the model's input contract and window size.
        channels: records of the scan, see :class:`medssl.stages._cases.Case`.
        window: overlap, batch and device.
        probabilities: keep those of each voxel.

    Raises:
        ReadError: the scan cannot be read or does not fit the model; ``reason`` says why.
    """
    p_KDHW = None
    with _memory_named(channels):
        scan_CDHW, geometry, prepared = _prepared(card, channels)
        scores_KDHW = predict_scores(model, prepared.array, **_windows(card, prepared, window))
        values = np.array(sorted(card.labels), dtype=np.uint8)
        labels_DHW = values[restore_labels(scores_KDHW, prepared)]
        dice_K = quality_of(scores_KDHW, card)
        if probabilities:
            p_KDHW = temper(restore_scores(scores_KDHW, prepared), temperature_of(card), axis=0)
    if geometry.kind == "image":
        scan_CDHW = scan_CDHW[:, None]
    return Prediction(
        labels_DHW=labels_DHW,
        scan_CDHW=scan_CDHW,
        affine=geometry.affine,
        spacing_mm=geometry.spacing_mm,
        dice_K=dice_K,
        p_KDHW=p_KDHW,
    )


def classify_case(
    model: nn.Module, card: Card, channels: Channels, window: Window
) -> npt.NDArray[np.float32]:
    """Class probabilities (K,) of one scan, in the order of the card's labels.

    Args:
        model: (B, C, *window) float32 -> logits (B, K).
        card: the model's input contract and window size.
        channels: records of the scan, see :class:`medssl.stages._cases.Case`.
        window: overlap, batch and device.

    Raises:
        ReadError: the scan cannot be read or does not fit the model; ``reason`` says why.
    """
    with _memory_named(channels):
        _, _, prepared = _prepared(card, channels)
        return predict_probabilities(model, prepared.array, **_windows(card, prepared, window))


class Outputs(NamedTuple):
    """Which label maps a case gets: a NIfTI or PNG ``map``, a DICOM SEG."""

    map: bool
    seg: bool


def outputs_of(case: Case, asked: Format | None) -> tuple[Outputs, tuple[str, str] | None]:
    """The label maps of a case; also reason and message if a DICOM SEG cannot be among them.

    Args:
        case: the scan.
        asked: ``None`` = NIfTI, and DICOM SEG where the scan is DICOM. Pictures get a PNG.
    """
    first = case.channels[0]
    if case.is_picture:
        outputs = Outputs(map=True, seg=False)
        if asked in (None, "nifti"):
            return outputs, None
        return outputs, ("seg_not_possible", "a picture gets a PNG, no DICOM SEG")
    own = asked != "dicom-seg"
    if asked == "nifti" or (asked is None and first.format != "dicom"):
        return Outputs(map=True, seg=False), None
    if first.format != "dicom":
        what = "a DICOM SEG refers to DICOM images; this scan is in another format"
        return Outputs(map=own, seg=False), ("no_dicom_source", what)
    problem = "" if first.geometry.affine is None else tilt_problem(first.geometry.affine)
    if problem:
        return Outputs(map=True, seg=False), ("seg_not_possible", problem)
    return Outputs(map=own, seg=True), None


def write_case(
    out: Path, case: Case, prediction: Prediction, outputs: Outputs, card: Card
) -> ReadError | None:
    """Write preview and label maps, the DICOM SEG first: where all exist, the case is complete.

    Returns:
        Why the DICOM SEG could not be written, if so; then there is a NIfTI in any case.

    Raises:
        ResourceError: the disk is full.
    """
    own, seg = label_paths(out, case)
    own.parent.mkdir(parents=True, exist_ok=True)
    if prediction.p_KDHW is not None:
        write_probabilities(out / f"{case.name}{PROBABILITIES}", prediction.p_KDHW)
    labels_DHW, affine = prediction.labels_DHW, prediction.affine
    preview = out / f"{case.name}_preview.png"
    if affine is None:
        write_picture_preview(preview, prediction.scan_CDHW[:, 0], labels_DHW[0])
        write_mask(own, labels_DHW[0])
        return None
    write_preview(preview, prediction.scan_CDHW[0], labels_DHW, affine)
    failed = None
    if outputs.seg:
        failed = _write_seg(seg, case, labels_DHW, affine, card)
    if not outputs.map and failed is None:
        return None
    first = case.channels[0]
    if first.format == "nifti":
        with local_file(Path(first.files[0])) as like:
            write_segmentation(own, labels_DHW, affine, like=like)
    else:
        write_segmentation(own, labels_DHW, affine)
    return failed


def label_paths(out: Path, case: Case) -> tuple[Path, Path]:
    """Where NIfTI (or PNG) and DICOM SEG of a case lie."""
    ending = "png" if case.is_picture else "nii.gz"
    return out / f"{case.name}_seg.{ending}", out / f"{case.name}_seg.dcm"


def _write_seg(
    path: Path,
    case: Case,
    labels_DHW: npt.NDArray[np.uint8],
    affine: npt.NDArray[np.float64],
    card: Card,
) -> ReadError | None:
    try:
        write_seg(
            path,
            labels_DHW,
            affine,
            slice_sources(case.channels[0]),
            card.labels,
            weights_sha256=card.weights_sha256,
        )
    except ReadError as error:
        return error
    return None


@contextmanager
def _memory_named(channels: Channels) -> Iterator[None]:
    """A scan that does not fit into memory costs one scan."""
    try:
        yield
    except MemoryError as error:
        what = f"out of memory for a scan of {channels[0].shape} voxels"
        raise ReadError("out_of_memory", what) from error
    except ResourceError as error:
        raise ReadError("too_large", error.what, fix=error.fix) from error


def _prepared(card: Card, channels: Channels) -> tuple[npt.NDArray[Any], Geometry, Prepared]:
    _check(card, channels)
    scan_CDHW, geometry = _read(channels)
    return scan_CDHW, geometry, prepare(scan_CDHW, geometry, card.modality, card.contract)


def _windows(card: Card, prepared: Prepared, window: Window) -> dict[str, Any]:
    return {
        "patch_size": card.patch_size,
        "overlap": window.overlap,
        "batch_windows": window.batch_windows,
        "device": window.device,
        "fill": prepared.fill,
        "axis": cut_axis(card.plane, prepared.array.shape[1:], prepared.spacing_mm),
    }


def _check(card: Card, channels: Channels) -> None:
    for one in channels:
        if one.geometry.kind != "volume" and len(card.patch_size) == 3:
            raise ReadError("not_a_volume", f"a {one.geometry.kind}, the model takes volumes")
    check_modality(card, channels)


def check_modality(card: Card, channels: Channels) -> None:
    """Refuse a scan or video that says it is of another modality than the model's.

    Raises:
        ReadError: ``modality_mismatch``.
    """
    for one in channels:
        if UNKNOWN not in {one.modality, card.modality} and one.modality != card.modality:
            # The scan's own modality is free text of its header: it stays out of the ledger.
            what = f"the model was trained on {card.modality}, the scan says otherwise"
            raise ReadError("modality_mismatch", what, fix="use a model of the scan's modality")


def _read(channels: Channels) -> tuple[npt.NDArray[Any], Geometry]:
    arrays = [sample(one).array for one in channels]
    scan_CDHW = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return scan_CDHW, channels[0].geometry
