"""Burned-in text: rows of small, bright (or dark), equally high strokes of even brightness.

Drawn letters differ from anatomy in three ways that need no model: strokes are thin and stand out
sharply, they have one brightness, and several of one height stand beside each other on one line.
What the detector finds and misses is measured in docs/results/quality.md. It reads nothing: a
picture without a finding is not proven clean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # its parts load when they are used

from medssl.archive._grey import grey_image

# Pictures are searched at this size; letters of a large radiograph are large too.
_LONGEST_PX = 1024
_MIN_SIDE_PX = 64
_STROKE_PX = 7
# A stroke stands out from what surrounds it by one of these shares of the picture's range.
_CONTRASTS = (0.2, 0.4)
_LETTER_HEIGHT_PX = (5, 48)
_LETTERS_IN_ROW = 4
# Relative to the height of the first letter.
_HEIGHT_TOLERANCE, _BASELINE_TOLERANCE, _MAX_GAP = 0.25, 0.25, 1.2
# Letters of a row are drawn in one brightness.
_EVEN = 0.12


@dataclass(frozen=True, kw_only=True)
class TextRow:
    """A line of at least four letters, in pixels of the picture given."""

    top: int
    left: int
    bottom: int
    right: int
    letters: int


@dataclass(frozen=True)
class _Letter:
    top: int
    left: int
    bottom: int
    right: int
    brightness: float

    @property
    def height(self) -> int:
        return self.bottom - self.top


def text_rows(x_CHW: npt.NDArray[Any]) -> list[TextRow]:
    """Lines of drawn text, top to bottom.

    Args:
        x_CHW: one or three channels, any number type.
    """
    step = max(1, -(-max(x_CHW.shape[1:]) // _LONGEST_PX))
    greys = [grey_image(x_CHW)]
    if len(x_CHW) > 1:
        greys.append(grey_image(x_CHW.min(axis=0, keepdims=True)))  # white on red tissue
    rows = [
        _scaled(row, scale)
        for grey_HW in greys
        for scale in (step, 2 * step)
        if min(grey_HW.shape) >= scale * _MIN_SIDE_PX
        for signed_HW in (grey_HW, 1 - grey_HW)
        for row in _rows_of(signed_HW[::scale, ::scale])
    ]
    return sorted(rows, key=lambda r: (r.top, r.left))


def still_parts(x_CTHW: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(C, H, W) of a clip: the darkest each pixel gets, so that what moves fades and text stays."""
    return np.asarray(x_CTHW.min(axis=1), dtype=np.float64)


def _rows_of(grey_HW: npt.NDArray[np.float64]) -> list[TextRow]:
    raised_HW = scipy.ndimage.white_tophat(grey_HW, size=(_STROKE_PX, _STROKE_PX))
    return [
        row
        for contrast in _CONTRASTS
        for row in _rows_among(_letters(grey_HW, raised_HW > contrast))
    ]


def _rows_among(letters: list[_Letter]) -> list[TextRow]:
    rows = []
    while letters:
        first = letters.pop(0)
        row = [first]
        for other in letters:
            if _continues(row[-1], other, first):
                row.append(other)
        letters = [one for one in letters if one not in row]
        if len(row) >= _LETTERS_IN_ROW:
            rows.append(_as_row(row))
    return rows


def _letters(grey_HW: npt.NDArray[np.float64], strokes_HW: npt.NDArray[np.bool_]) -> list[_Letter]:
    """Connected strokes of a letter's size, left to right."""
    labels, _ = scipy.ndimage.label(strokes_HW, structure=np.ones((3, 3)))
    found = []
    for number, box in enumerate(scipy.ndimage.find_objects(labels), start=1):
        height, width = (side.stop - side.start for side in box)
        if not _LETTER_HEIGHT_PX[0] <= height <= _LETTER_HEIGHT_PX[1] or width > 1.6 * height:
            continue
        inside = labels[box] == number
        values = grey_HW[box][inside]
        if inside.mean() >= 0.12 and values.size >= height:
            found.append(
                _Letter(
                    box[0].start,
                    box[1].start,
                    box[0].stop,
                    box[1].stop,
                    float(np.percentile(values, 80)),
                )
            )
    return sorted(found, key=lambda letter: letter.left)


def _continues(last: _Letter, other: _Letter, first: _Letter) -> bool:
    height = first.height
    gap = other.left - last.right
    return (
        -0.2 * height <= gap <= _MAX_GAP * height
        and abs(other.height - height) <= max(1.0, _HEIGHT_TOLERANCE * height)
        and abs(other.bottom - last.bottom) <= max(1.0, _BASELINE_TOLERANCE * height)
        and abs(other.brightness - first.brightness) <= _EVEN
    )


def _as_row(letters: list[_Letter]) -> TextRow:
    return TextRow(
        top=min(one.top for one in letters),
        left=min(one.left for one in letters),
        bottom=max(one.bottom for one in letters),
        right=max(one.right for one in letters),
        letters=len(letters),
    )


def _scaled(row: TextRow, step: int) -> TextRow:
    return TextRow(
        top=row.top * step,
        left=row.left * step,
        bottom=row.bottom * step,
        right=row.right * step,
        letters=row.letters,
    )
