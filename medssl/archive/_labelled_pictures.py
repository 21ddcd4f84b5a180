"""Pictures with masks: folders of equal names, and the two arrays of a case.

``images/`` beside ``masks/`` (or ``labels/``), or both below ``train/``, ``val/`` and ``test/``. A
mask is called as its picture, or has ``_mask``, ``_seg``, ``_segmentation`` or ``_label`` behind
the name. A mask may hold background only: a picture without the finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.archive._label_checks import check_names
from medssl.archive.cases import SPLITS, Case
from medssl.core.errors import ReadError, UsageError
from medssl.core.geometry import Geometry
from medssl.core.sample import Sample
from medssl.readers._label_grid import LabelMap
from medssl.readers._mask import is_picture, read_mask

_IMAGES, _MASKS = "images", ("masks", "labels")
MASK_ENDINGS = ("_mask", "_seg", "_segmentation", "_label")
"""What a mask's name may have behind that of its picture."""


def picture_cases(data: Path) -> list[Case]:
    """Cases of a folder of pictures and masks; empty if it is none.

    Raises:
        UsageError: a picture without mask or a mask without picture, or two of one name.
    """
    if _mask_folder(data):
        return list(_pairs(data, None))
    parts = [split for split in sorted(SPLITS) if _mask_folder(data / split)]
    return [case for split in parts for case in _pairs(data / split, split)]


def read_picture(
    case: Case, samples: Sequence[Sample], names: dict[int, str]
) -> tuple[npt.NDArray[Any], Geometry, LabelMap | None]:
    """Array (C, H, W), geometry, and labels (1, H, W) of a case.

    Raises:
        ReadError: ``channel_shape_mismatch``, ``label_shape_mismatch``, ``unknown_label_values``,
            those of :func:`medssl.readers._mask.read_mask` and of the picture.
    """
    first = samples[0]
    for one, where in zip(samples, case.images, strict=True):
        if one.kind != "image" or one.shape[1:] != first.shape[1:]:
            what = f"a channel has shape {one.shape}, the first one {first.shape}"
            raise ReadError("channel_shape_mismatch", what, where=str(where))
    array_CHW = np.concatenate([one.array for one in samples])
    if case.label is None:
        return array_CHW, first.geometry, None
    labels_HW, flags = read_mask(case.label)
    if labels_HW.shape != first.shape[1:]:
        what = f"the mask has {labels_HW.shape} pixels, the picture {first.shape[1:]}"
        fix = "masks lie pixel by pixel on their pictures: do not resize either"
        raise ReadError("label_shape_mismatch", what, where=str(case.label), fix=fix)
    check_names(labels_HW, names, case.label)
    drawn = LabelMap(labels_DHW=labels_HW[None], names=names, residual_mm=0.0, flags=flags)
    return array_CHW, first.geometry, drawn


def _mask_folder(folder: Path) -> Path | None:
    if not (folder / _IMAGES).is_dir():
        return None
    return next((folder / name for name in _MASKS if (folder / name).is_dir()), None)


def _pairs(folder: Path, split: str | None) -> Iterator[Case]:
    mask_folder = _mask_folder(folder)
    assert mask_folder is not None  # callers looked
    images, masks = _files(folder / _IMAGES), _files(mask_folder)
    for name, image in images.items():
        called = [name + ending for ending in ("", *MASK_ENDINGS) if name + ending in masks]
        if len(called) != 1:
            what = f"a picture has {len(called)} masks of its name"
            raise UsageError(what, where=str(image), fix="one mask of the same name for each")
        mask = masks.pop(called[0])
        unique = name if split is None else f"{split}/{name}"
        yield Case(
            name=unique.replace("/", "_"), images=(image,), label=mask, patient=unique, split=split
        )
    for mask in masks.values():
        fix = "add its picture, or move the mask away"
        raise UsageError("a mask has no picture of its name", where=str(mask), fix=fix)


def _files(folder: Path) -> dict[str, Path]:
    """Pictures below a folder by name without ending, sorted."""
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        if not is_picture(file) or file.name.startswith("."):
            continue
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise UsageError("two pictures of one name", where=f"{found[name]}, {file}")
        found[name] = file
    return found
