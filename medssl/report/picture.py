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
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
