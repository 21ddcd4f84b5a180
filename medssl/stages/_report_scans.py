"""Predicted scans as slices with their labels, and predicted videos as ribbons, for a report."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from medssl.archive.quality import pixel_flags
from medssl.core.errors import MedsslError, UsageError
from medssl.inference.preview import COLOURS, OPACITY
from medssl.pages.page import Picture
from medssl.pages.picture import data_uri, overlay_uri, png_uri
from medssl.pages.viewer import Slice, Stack
from medssl.readers import _read
from medssl.readers._base import Found
from medssl.readers._dispatch import group_headers, read_header, sample
from medssl.readers._mask import read_mask
from medssl.stages._doctor_samples import windowed
from medssl.stages._slices import turned, upright

SIDE_PX = 256
_MOST_SLICES = 16
_MAP, _PICTURE, _PHASES = "_seg.nii.gz", "_seg.png", "_phases.csv"


class Predicted(NamedTuple):
    """One case of a folder that predict wrote; ``dice`` where evaluate compared it."""

    record_id: str
    files: list[Path]
    result: Path
    dice: float | None


def predicted(folder: Path, dice: Mapping[str, float]) -> list[Predicted]:
    """All cases with a result, worst Dice first, then those that were not compared.

    Args:
        folder: that predict wrote.
        dice: mean over labels, by name of the case.

    Raises:
        UsageError: predict did not write this folder.
    """
    path = folder / "paths.parquet"
    if not path.is_file():
        raise UsageError("no folder of medssl predict", where=str(folder))
    files: dict[tuple[str, bytes], list[Path]] = defaultdict(list)
    for record_id, file, result in pl.read_parquet(path).iter_rows():
        if result:
            files[record_id, result].append(Path(os.fsdecode(file)))
    cases = []
    for (record_id, result), own in files.items():
        name = os.fsdecode(result)
        ending = next((e for e in (_MAP, _PICTURE) if name.endswith(e)), "")
        score = dice.get(name.removesuffix(ending))
        cases.append(Predicted(record_id, own, folder / name, score))
    return sorted(cases, key=lambda one: (one.dice is None, one.dice or 0.0, one.record_id))


def spread(cases: Sequence[Predicted], most: int) -> list[Predicted]:
    """Some of them, the first and the last among them."""
    if len(cases) <= most:
        return list(cases)
    places = np.linspace(0, len(cases) - 1, most).round().astype(int)
    return [cases[k] for k in dict.fromkeys(places.tolist())]


def stack_of(case: Predicted, number: int) -> Stack | None:
    """Slices of a segmented scan; ``None`` for a result that is no label map."""
    kind = next((e for e in (_MAP, _PICTURE) if case.result.name.endswith(e)), None)
    if kind is None:
        return None
    title = f"case {number}" if case.dice is None else f"case {number}: Dice {case.dice:.3f}"
    if not case.result.is_file():
        return Stack(title=title, caption=case.record_id, hidden="the label map is gone")
    try:
        slices, first, what = _picture(case) if kind == _PICTURE else _volume(case)
    except MedsslError as error:
        return Stack(title=title, caption=case.record_id, hidden=error.what)
    hidden = "" if slices else what
    caption = case.record_id if hidden else f"{what} · {case.record_id}"
    return Stack(title=title, caption=caption, slices=slices, first=first, hidden=hidden)


def ribbon_of(case: Predicted, number: int) -> Picture | None:
    """Phases of a video over time; ``None`` where there is no such picture."""
    path = case.result.with_suffix(".png")
    if not case.result.name.endswith(_PHASES) or not path.is_file():
        return None
    caption, uri = f"phases over time · {case.record_id}", png_uri(path.read_bytes())
    return Picture(title=f"video {number}", caption=caption, data_uri=uri)


def _volume(case: Predicted) -> tuple[list[Slice], int, str]:
    labels_DHW = _read.read(case.result).array[0]
    one = _found(case, labels_DHW.shape)
    x_CDHW = windowed(sample(one).array[:1], one.units)
    both = np.concatenate([x_CDHW, labels_DHW[None]])
    both, spacing_mm, across = turned(both, one.geometry.affine, one.geometry.spacing_mm)
    both = np.moveaxis(both, 1 + across, 1)
    sizes = (both[1] > 0).sum((1, 2))
    chosen = _chosen(sizes)
    slices = [
        _slice(
            upright(both[0, k], spacing_mm, across)[None],
            upright(both[1, k], spacing_mm, across, order=0).astype(np.uint8),
        )
        for k in chosen
    ]
    first = int(np.argmax(sizes[chosen]))
    size = " x ".join(map(str, one.shape[1:]))
    return slices, first, f"{size} voxels, {len(chosen)} of {len(sizes)} slices"


def _picture(case: Predicted) -> tuple[list[Slice], int, str]:
    labels_HW, _ = read_mask(case.result)
    one = _found(case, labels_HW.shape)
    x_CHW = sample(one).array
    if "burned_in_text" in pixel_flags(x_CHW, "image", ""):
        return [], 0, "burned-in text found"
    size = " x ".join(map(str, labels_HW.shape))
    return [_slice(windowed(x_CHW, one.units), labels_HW)], 0, f"{size} pixels"


def _slice(x_CHW: npt.NDArray[Any], labels_HW: npt.NDArray[np.uint8]) -> Slice:
    over = overlay_uri(labels_HW, COLOURS, OPACITY, SIDE_PX)
    return Slice(data_uri=data_uri(x_CHW, SIDE_PX), overlay_uri=over)


def _chosen(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Slices that show labels, evenly spaced; all of the scan's where none does."""
    inside = np.flatnonzero(sizes)
    first, last = (inside[0], inside[-1]) if len(inside) else (0, len(sizes) - 1)
    number = min(_MOST_SLICES, int(last - first) + 1)
    return np.linspace(first, last, number).round().astype(np.int64)


def _found(case: Predicted, shape: tuple[int, ...]) -> Found:
    """The scan that the result lies on.

    Raises:
        UsageError: the files are gone, or hold no such scan any more.
    """
    if not all(file.exists() for file in case.files):
        raise UsageError("the scan is no longer where it was")
    found, _ = group_headers([read_header(file) for file in case.files])
    fitting = [one for one in found if one.shape[1:] == shape]
    if not fitting:
        raise UsageError("the scan has changed since it was predicted")
    return fitting[0]
