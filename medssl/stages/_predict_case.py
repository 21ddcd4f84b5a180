"""One scan: read, prepare, sliding window, back to the scan's own grid, write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from medssl.core.errors import ReadError, ResourceError
from medssl.core.geometry import Geometry
from medssl.core.preprocess import prepare, restore_labels
from medssl.core.sample import UNKNOWN
from medssl.encoders.card import Card
from medssl.inference.preview import write_preview
from medssl.inference.sliding import predict_scores
from medssl.inference.writers import write_segmentation
from medssl.readers._dispatch import sample
from medssl.stages._cases import Case, Channels


@dataclass(frozen=True, kw_only=True)
class Window:
    """How the model is slid over a volume."""

    overlap: float = 0.5
    batch_windows: int = 4
    device: str | torch.device = "cpu"


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """Labels (D, H, W) on the scan's grid, and the scan (C, D, H, W) itself."""

    labels_DHW: npt.NDArray[np.uint8]
    scan_CDHW: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]


def predict_case(model: nn.Module, card: Card, channels: Channels, window: Window) -> Prediction:
    """Predict one scan.

    Args:
        model: (B, C, D, H, W) float32 -> logits (B, K, D, H, W).
        card: the model's input contract and window size.
        channels: records of the scan, see :class:`medssl.stages._cases.Case`.
        window: overlap, batch and device.

    Raises:
        ReadError: the scan cannot be read or does not fit the model; ``reason`` says why.
    """
    try:
        _check(card, channels)
        scan_CDHW, geometry = _read(channels)
        prepared = prepare(scan_CDHW, geometry, card.modality, card.contract)
        scores_KDHW = predict_scores(
            model,
            prepared.array,
            patch_size=card.patch_size,
            overlap=window.overlap,
            batch_windows=window.batch_windows,
            device=window.device,
        )
        values = np.array(sorted(card.labels), dtype=np.uint8)
        labels_DHW = values[restore_labels(scores_KDHW, prepared)]
    except MemoryError as error:
        what = f"out of memory for a scan of {channels[0].shape} voxels"
        raise ReadError("out_of_memory", what) from error
    except ResourceError as error:
        raise ReadError("too_large", error.what, fix=error.fix) from error
    assert geometry.affine is not None  # prepare refuses unknown geometry
    return Prediction(labels_DHW=labels_DHW, scan_CDHW=scan_CDHW, affine=geometry.affine)


def write_case(out: Path, case: Case, prediction: Prediction) -> None:
    """Write preview and label map, the label map last: where it exists, the case is complete.

    Raises:
        ResourceError: the disk is full.
    """
    target = segmentation_path(out, case)
    target.parent.mkdir(parents=True, exist_ok=True)
    first = case.channels[0]
    labels_DHW, affine = prediction.labels_DHW, prediction.affine
    preview = out / f"{case.name}_preview.png"
    write_preview(preview, prediction.scan_CDHW[0], labels_DHW, affine)
    like = Path(first.files[0]) if first.format == "nifti" else None
    write_segmentation(target, labels_DHW, affine, like=like)


def segmentation_path(out: Path, case: Case) -> Path:
    """Where the label map of a case lies."""
    return out / f"{case.name}_seg.nii.gz"


def _check(card: Card, channels: Channels) -> None:
    for one in channels:
        if one.geometry.kind != "volume":
            raise ReadError("not_a_volume", f"a {one.geometry.kind}, the model takes volumes")
        if UNKNOWN not in {one.modality, card.modality} and one.modality != card.modality:
            # The scan's own modality is free text of its header: it stays out of the ledger.
            what = f"the model was trained on {card.modality}, the scan says otherwise"
            raise ReadError("modality_mismatch", what, fix="use a model of the scan's modality")


def _read(channels: Channels) -> tuple[npt.NDArray[Any], Geometry]:
    arrays = [sample(one).array for one in channels]
    scan_CDHW = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return scan_CDHW, channels[0].geometry
