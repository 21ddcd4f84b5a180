"""Pictures that stand alone: a map of points by label, and sheets of tiles in rows.

N points, K values.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
# Told apart with colour blindness too (Okabe & Ito 2008); grey is for what is unknown or rarer.
COLOURS = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0),
    (86, 180, 233), (204, 121, 167), (240, 228, 66), (60, 60, 60),
)  # fmt: skip
_GREY, _INK, _PAPER = (200, 200, 200), (40, 40, 40), (255, 255, 255)
_PANEL_PX, _MARGIN_PX, _LINE_PX, _TILE_PX = 360, 16, 18, 128


class Tile(NamedTuple):
    """A picture (C, H, W) in 0..1, or ``None``; and a line below it."""

    picture_CHW: Array | None
    text: str = ""


def scatter_png(points_N2: Array, labels: Mapping[str, Sequence[str]]) -> bytes:
    """One panel per label: the same points in the colours of its values, with a legend."""
    from PIL import Image, ImageDraw

    legends = {name: _commonest(values) for name, values in labels.items()}
    height = _PANEL_PX + (2 + max(len(found) for found in legends.values())) * _LINE_PX
    side = _PANEL_PX + _MARGIN_PX
    image = Image.new("RGB", (side * len(labels) + _MARGIN_PX, height + _MARGIN_PX), _PAPER)
    draw = ImageDraw.Draw(image)
    low_2, high_2 = points_N2.min(0), points_N2.max(0)
    room = _PANEL_PX - 2 * _MARGIN_PX
    place_N2 = _MARGIN_PX + room * (points_N2 - low_2) / np.maximum(high_2 - low_2, 1e-12)
    place_N2[:, 1] = _PANEL_PX - place_N2[:, 1]  # up is more
    for number, (name, values) in enumerate(labels.items()):
        left = _MARGIN_PX + number * side
        draw.rectangle((left, _LINE_PX, left + _PANEL_PX, _LINE_PX + _PANEL_PX), outline=_GREY)
        draw.text((left, 2), name, fill=_INK)
        colour_of = dict(zip(legends[name], COLOURS, strict=False))
        # What is grey lies below.
        order = sorted(range(len(values)), key=lambda k: values[k] in colour_of)
        for k in order:
            x, y = left + place_N2[k, 0], _LINE_PX + place_N2[k, 1]
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour_of.get(values[k], _GREY))
        for row, (value, colour) in enumerate(colour_of.items()):
            y = _PANEL_PX + (1.3 + row) * _LINE_PX
            draw.ellipse((left, y + 3, left + 8, y + 11), fill=colour)
            count = sum(one == value for one in values)
            draw.text((left + 14, y), f"{value[:32]} ({count})", fill=_INK)
    return _png(image)


def sheet_png(rows: Sequence[Sequence[Tile]]) -> bytes:
    """Tiles in rows, each with its line below; one without a picture says ``hidden``."""
    from PIL import Image, ImageDraw

    wide = max(len(row) for row in rows)
    step = _TILE_PX + 8
    image = Image.new("RGB", (wide * step + 8, len(rows) * (step + _LINE_PX) + 8), _PAPER)
    draw = ImageDraw.Draw(image)
    for r, row in enumerate(rows):
        for c, tile in enumerate(row):
            left, top = 8 + c * step, 8 + r * (step + _LINE_PX)
            if tile.picture_CHW is None:
                box = (left, top, left + _TILE_PX, top + _TILE_PX)
                draw.rectangle(box, outline=_GREY)
                draw.text((left + 40, top + 56), "hidden", fill=_INK)
            else:
                image.paste(_fitted(tile.picture_CHW), (left, top))
            draw.text((left, top + _TILE_PX + 1), tile.text, fill=_INK)
    return _png(image)


def _fitted(x_CHW: Array) -> Any:
    from PIL import Image

    bytes_HWC = np.moveaxis(np.rint(255 * np.clip(x_CHW, 0, 1)).astype(np.uint8), 0, 2)
    grey = bytes_HWC.shape[2] == 1
    image = Image.fromarray(bytes_HWC[:, :, 0] if grey else bytes_HWC[:, :, :3]).convert("RGB")
    longest = max(image.size)
    size = [max(1, round(side * _TILE_PX / longest)) for side in image.size]
    return image.resize((size[0], size[1]), Image.Resampling.NEAREST)


def _commonest(values: Sequence[str]) -> list[str]:
    """Values by how common they are, as many as there are colours; unknown ones have none."""
    counts = Counter(value for value in values if value)
    return [value for value, _ in counts.most_common(len(COLOURS))]


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
