"""One picture per video: its phases along time as a band of colours, with their names below."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from medssl.core.phases import NONE
from medssl.core.runlog import write_bytes
from medssl.inference.preview import COLOURS

WIDTH_PX, BAND_PX, LINE_PX = 960, 64, 18
_MARGIN_PX = 4
_GREY = (128, 128, 128)
_PER_LINE = 3


def write_ribbon(
    path: Path,
    times_s: npt.NDArray[np.float64],
    phase_T: npt.NDArray[np.int64],
    names: Sequence[str],
) -> None:
    """Write a PNG: from left to right the phase at each time, evenly in seconds.

    Args:
        path: the file.
        times_s: (T,) when each frame was shown, ascending.
        phase_T: its phase; -1 = none, grey.
        names: of the phases.

    Raises:
        ResourceError: the disk is full.
    """
    lines = -(-len(names) // _PER_LINE) + 1
    picture = Image.new("RGB", (WIDTH_PX, BAND_PX + lines * LINE_PX + _MARGIN_PX), "white")
    picture.paste(Image.fromarray(band(times_s, phase_T)), (0, 0))
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN_PX, BAND_PX + 2), "0 s", fill="black")
    end = f"{times_s[-1]:.0f} s"
    draw.text((WIDTH_PX - _MARGIN_PX - draw.textlength(end), BAND_PX + 2), end, fill="black")
    for number, name in enumerate(names):
        row, column = divmod(number, _PER_LINE)
        x, y = _MARGIN_PX + column * WIDTH_PX // _PER_LINE, BAND_PX + (row + 1) * LINE_PX + 2
        draw.rectangle((x, y, x + LINE_PX - 6, y + LINE_PX - 6), fill=colour_of(number))
        draw.text((x + LINE_PX, y), name.encode("ascii", "replace").decode(), fill="black")
    data = io.BytesIO()
    picture.save(data, "PNG")
    write_bytes(path, data.getvalue())


def band(times_s: npt.NDArray[np.float64], phase_T: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """(BAND_PX, WIDTH_PX, 3): the last frame at or before the time of each column."""
    at_s = np.linspace(times_s[0], times_s[-1], WIDTH_PX)
    place = np.searchsorted(times_s, at_s, side="right") - 1
    colours = [colour_of(int(k)) for k in phase_T[place]]
    return np.broadcast_to(np.array(colours, dtype=np.uint8), (BAND_PX, WIDTH_PX, 3)).copy()


def colour_of(phase: int) -> tuple[int, int, int]:
    """The preview's colours, darker each time that they repeat."""
    if phase == NONE:
        return _GREY
    again, number = divmod(phase, len(COLOURS))
    red, green, blue = (int(c * 0.6**again) for c in COLOURS[number])
    return red, green, blue
