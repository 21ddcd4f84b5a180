"""Hash of decoded pixels: equal pictures, equal hash, however they are stored.

Volumes are hashed in the order of the body's axes: the same scan is the same as DICOM and as NIfTI.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.geometry import Geometry, Reorientation

LOSSY = "lossy"
"""Flag of records whose coding lost detail: two decoders may give two pictures."""
# Whatever of these is installed may have decoded a lossy picture.
_DECODERS = ("pillow", "pylibjpeg-openjpeg", "pylibjpeg-libjpeg", "pyjpegls", "python-gdcm", "av")


class PixelDigest:
    """SHA-256 of shape and values as little-endian float32, fed frame by frame.

    Pixels of a lossy coding also count the versions of the decoders: their hash never equals that
    of another installation, where the same file may decode to other values.
    """

    def __init__(self, shape: tuple[int, ...], *, lossy: bool = False) -> None:
        self._digest = hashlib.sha256(str(shape).encode())
        if lossy:
            self._digest.update(decoders().encode())

    def add(self, array: npt.NDArray[Any]) -> None:
        """The next values, in array order."""
        if array.ndim > 2:  # no second copy of a turned volume
            for part in array:
                self.add(part)
            return
        self._digest.update(np.ascontiguousarray(array, dtype="<f4").data)

    def hex(self) -> str:
        """The hash of everything added."""
        return self._digest.hexdigest()


def pixel_hash(
    array: npt.NDArray[Any], geometry: Geometry | None = None, *, lossy: bool = False
) -> str:
    """Hash of an image or volume, see :class:`PixelDigest`; ``geometry`` of what is no picture."""
    turned = in_body_order(array, geometry)
    digest = PixelDigest(turned.shape, lossy=lossy)
    digest.add(turned)
    return digest.hex()


def in_body_order(array: npt.NDArray[Any], geometry: Geometry | None) -> npt.NDArray[Any]:
    """A volume with its axes along those of the body, a view; others as they are."""
    if geometry is None or geometry.kind != "volume" or geometry.affine is None:
        return array
    return Reorientation.to_ras(geometry.affine).apply(array)


@cache
def decoders() -> str:
    """Names and versions of what may have decoded a lossy picture here."""
    found = []
    for name in _DECODERS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
