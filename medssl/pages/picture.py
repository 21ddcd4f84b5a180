"""A picture as text, so that a page needs no second file."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt


def data_uri(x_CHW: npt.NDArray[Any], side_px: int = 192) -> str:
    """PNG of a picture in 0..1, one or three channels, as a ``data:`` address.

    Args:
        x_CHW: values outside 0..1 are clipped.
        side_px: longest side of the result; larger pictures shrink, small ones stay.
    """
    from PIL import Image

    bytes_HWC = np.moveaxis(np.rint(255 * np.clip(x_CHW, 0, 1)).astype(np.uint8), 0, 2)
    image = Image.fromarray(bytes_HWC if bytes_HWC.shape[2] == 3 else bytes_HWC[:, :, 0])
    image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    return _png(image)


def overlay_uri(
    labels_HW: npt.NDArray[Any], colours: npt.NDArray[Any], opacity: float, side_px: int = 192
) -> str:
    """Labels 1, 2 ... in their colours (K, 3) of 0..255, 0 transparent; "" where all are 0."""
    from PIL import Image

    hit_HW = labels_HW > 0
    if not hit_HW.any():
        return ""
    rgba_HWC = np.zeros((*labels_HW.shape, 4), dtype=np.uint8)
    rgba_HWC[hit_HW, :3] = colours[(labels_HW[hit_HW].astype(int) - 1) % len(colours)]
    rgba_HWC[hit_HW, 3] = round(255 * opacity)
    image = Image.fromarray(rgba_HWC)
    image.thumbnail((side_px, side_px), Image.Resampling.NEAREST)
    return _png(image)


def png_uri(data: bytes) -> str:
    """A PNG file's content as a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _png(image: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return png_uri(buffer.getvalue())
