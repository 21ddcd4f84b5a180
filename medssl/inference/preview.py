"""One picture per case: three orthogonal slices of a volume, or a picture, with the labels on it.

Shown as a radiologist expects: patient's right on the left, anterior or superior on top.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from medssl.core.geometry import FloatArray, Reorientation, spacing_of
from medssl.core.runlog import write_bytes

# Colour-blind safe (Okabe and Ito), one per label, repeated.
COLOURS = np.array(
    [
        *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
        *((0, 114, 178), (213, 94, 0), (204, 121, 167)),
    ],
    dtype=np.float32,
)
OPACITY = 0.5
PANEL_PX = 320
PICTURE_PX = 512
"""Longest side of a picture in its preview."""
# Array axis that is cut, then letters left, right, top, bottom, for axial, coronal, sagittal.
PLANES = ((0, "RLAP"), (1, "RLSI"), (2, "APSI"))


def write_preview(
    path: Path,
    x_DHW: FloatArray,
    labels_DHW: npt.NDArray[np.uint8],
    affine: npt.NDArray[np.float64],
) -> None:
    """Write a PNG: axial, coronal and sagittal slice through the largest label's centroid.

    Args:
        path: the file.
        x_DHW: first channel of the input, any intensity scale.
        labels_DHW: labels on the same grid.
        affine: of that grid.

    Raises:
        ResourceError: the disk is full.
    """
    turn = Reorientation.to_ras(affine)
    spacing_mm = spacing_of(turn.affine(affine, x_DHW.shape))
    x_DHW, labels_DHW = turn.apply(x_DHW), turn.apply(labels_DHW)
    centre = _centre(labels_DHW)
    largest_mm = max(n * mm for n, mm in zip(x_DHW.shape, spacing_mm, strict=True))
    panels = []
    for axis, letters in PLANES:
        grey = _grey(np.moveaxis(x_DHW, axis, 0)[centre[axis]])
        rgb = _overlay(grey, np.moveaxis(labels_DHW, axis, 0)[centre[axis]])
        rows_mm, columns_mm = (s for k, s in enumerate(spacing_mm) if k != axis)
        size_px = (
            max(round(rgb.shape[1] * columns_mm / largest_mm * PANEL_PX), 1),
            max(round(rgb.shape[0] * rows_mm / largest_mm * PANEL_PX), 1),
        )
        # RAS+ indices grow to the right, front and top; pictures grow to the right and down.
        shown = np.ascontiguousarray(rgb[::-1, ::-1])
        panels.append(_panel(Image.fromarray(shown).resize(size_px), letters))
    sheet = Image.new("RGB", (PANEL_PX * len(panels), PANEL_PX))
    for k, panel in enumerate(panels):
        sheet.paste(panel, (k * PANEL_PX, 0))
    png = io.BytesIO()
    sheet.save(png, format="PNG")
    write_bytes(path, png.getvalue())


def write_picture_preview(
    path: Path, x_CHW: npt.NDArray[Any], labels_HW: npt.NDArray[np.uint8]
) -> None:
    """Write a PNG: the picture, and beside it the same with its labels.

    Raises:
        ResourceError: the disk is full.
    """
    if len(x_CHW) == 3 and x_CHW.dtype == np.uint8:
        shown = np.moveaxis(x_CHW, 0, -1).astype(np.float32)
    else:
        shown = np.repeat(_grey(x_CHW[0])[..., None], 3, axis=-1)
    pair = np.concatenate([shown.astype(np.uint8), _painted(shown, labels_HW)], axis=1)
    scale = min(2 * PICTURE_PX / max(pair.shape[0] * 2, pair.shape[1]), 1.0)
    size_px = max(round(pair.shape[1] * scale), 1), max(round(pair.shape[0] * scale), 1)
    png = io.BytesIO()
    Image.fromarray(pair).resize(size_px).save(png, format="PNG")
    write_bytes(path, png.getvalue())


def _centre(labels_DHW: npt.NDArray[np.uint8]) -> tuple[int, ...]:
    sizes = np.bincount(labels_DHW.ravel(), minlength=2)[1:]
    if not sizes.any():
        return tuple(n // 2 for n in labels_DHW.shape)
    inside = np.argwhere(labels_DHW == 1 + int(sizes.argmax()))
    return tuple(int(c) for c in inside.mean(axis=0).round())


def _grey(x_HW: FloatArray) -> npt.NDArray[np.float32]:
    low, high = np.percentile(x_HW, [1, 99])
    scaled = (np.asarray(x_HW, dtype=np.float32) - low) / max(high - low, 1e-6)
    return np.asarray(np.clip(scaled, 0, 1) * 255, dtype=np.float32)


def _overlay(
    grey_HW: npt.NDArray[np.float32], labels_HW: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    return _painted(np.repeat(grey_HW[..., None], 3, axis=-1), labels_HW)


def _painted(
    rgb_HWC: npt.NDArray[np.float32], labels_HW: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    rgb, hit = rgb_HWC.copy(), labels_HW > 0
    colour = COLOURS[(labels_HW[hit].astype(int) - 1) % len(COLOURS)]
    rgb[hit] = (1 - OPACITY) * rgb[hit] + OPACITY * colour
    return rgb.astype(np.uint8)


def _panel(picture: Image.Image, letters: str) -> Image.Image:
    panel = Image.new("RGB", (PANEL_PX, PANEL_PX))
    panel.paste(picture, ((PANEL_PX - picture.width) // 2, (PANEL_PX - picture.height) // 2))
    middle, end = PANEL_PX // 2, PANEL_PX - 4
    spots = (((4, middle), "lm"), ((end, middle), "rm"), ((middle, 4), "ma"), ((middle, end), "md"))
    draw = ImageDraw.Draw(panel)
    for letter, (xy, anchor) in zip(letters, spots, strict=True):
        draw.text(xy, letter, fill=(255, 255, 0), anchor=anchor)
    return panel
