"""PNG, JPEG and TIFF still images, as stored: (C, H, W), spacing unknown.

With ``folders: clips`` numbered pictures of a folder are clips (C, T, H, W), see
:mod:`medssl.readers._image_folder`.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from medssl.core.errors import ReadError
from medssl.core.geometry import Geometry
from medssl.readers._base import DEFAULT_POLICY, FileHeader, Found, Policy, Refused
from medssl.readers._image_folder import clips_of
from medssl.readers._source import open_source, size_of

_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*")
# What Pillow's plugins raise on broken files.
_PILLOW_ERRORS: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, EOFError)
_PILLOW_ERRORS += (TypeError, LookupError, AttributeError, ArithmeticError, struct.error)
SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}
# Stored mode -> mode read, channels, dtype. Palettes and bit masks are expanded, alpha is kept.
_MODES = {
    "1": ("L", 1, "uint8"),
    "L": ("L", 1, "uint8"),
    "P": ("RGB", 3, "uint8"),
    "RGB": ("RGB", 3, "uint8"),
    "YCbCr": ("RGB", 3, "uint8"),
    "LA": ("LA", 2, "uint8"),
    "RGBA": ("RGBA", 4, "uint8"),
    "I;16": ("I;16", 1, "uint16"),
    "I": ("I", 1, "int32"),
    "F": ("F", 1, "float32"),
}


def matches(path: Path, head: bytes) -> bool:
    """By magic number, or by name so that a broken image is refused rather than ignored."""
    return head.startswith(_MAGIC) or path.suffix.lower() in SUFFIXES


def header(path: Path) -> FileHeader:
    """Size and mode.

    Raises:
        ReadError: ``empty_file``, ``not_image``, ``unsupported_dtype``, ``unsupported_multiframe``.
    """
    if size_of(path) == 0:
        raise ReadError("empty_file", "the file has zero bytes", where=str(path))
    with opened(path) as image:
        n_frames = int(getattr(image, "n_frames", 1))
        width, height = image.size
        mode = image.mode
        lossy = image.format in {"JPEG", "MPO"}
    if n_frames > 1:
        raise ReadError("unsupported_multiframe", f"{n_frames} pages in one file", where=str(path))
    if mode not in _MODES:
        raise ReadError("unsupported_dtype", f"colour mode {mode} is not read", where=str(path))
    _, channels, dtype = _MODES[mode]
    tags = {"shape": [channels, height, width], "dtype": dtype, "lossy": lossy}
    return FileHeader(path=str(path), format="image", tags=tags, key=str(path.parent))


def group(
    headers: list[FileHeader], policy: Policy = DEFAULT_POLICY
) -> tuple[list[Found], list[Refused]]:
    """Each file is one image, or a frame of a clip where the policy says so."""
    found, single = clips_of(headers) if policy.folders == "clips" else ([], headers)
    return found + [_image(one) for one in single], []


def load(found: Found, frames: Sequence[int] | None = None) -> npt.NDArray[Any]:
    """(C, H, W), or (C, T, H, W) of a clip.

    Raises:
        ReadError: ``truncated`` or ``corrupt``, half an image is never returned; ``changed``.
    """
    if found.geometry.kind == "image":
        return _pixels(found.files[0], found.dtype)
    numbers = range(len(found.files)) if frames is None else frames
    channels, _, height, width = found.shape
    x_CTHW = np.empty((channels, len(numbers), height, width), found.dtype)
    for place, number in enumerate(numbers):
        x_CHW = _pixels(found.files[number], found.dtype)
        if x_CHW.shape != (channels, height, width):
            what = f"frame {number} changed its size since the index"
            raise ReadError("changed", what, where=found.files[number])
        x_CTHW[:, place] = x_CHW
    return x_CTHW


def trusted(found: Found) -> bool:  # noqa: ARG001
    """Pillow decodes."""
    return False


def _image(one: FileHeader) -> Found:
    return Found(
        files=(one.path,),
        format="image",
        shape=tuple(one.tags["shape"]),
        dtype=one.tags["dtype"],
        geometry=Geometry(kind="image"),
        series=one.path,
        flags=("lossy",) if one.tags["lossy"] else (),
    )


def _pixels(file: str, dtype: str) -> npt.NDArray[Any]:
    with opened(Path(file)) as image:
        pixels = np.asarray(image.convert(_MODES[image.mode][0]))
    x_HWC = pixels if pixels.ndim == 3 else pixels[:, :, None]
    return np.ascontiguousarray(x_HWC.transpose(2, 0, 1)).astype(dtype, copy=False)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The file as Pillow opens it; its errors become ours.

    Raises:
        ReadError: ``not_image``, ``too_large``, ``truncated``, ``corrupt``.
    """
    where = str(path)
    try:
        with warnings.catch_warnings(), open_source(path) as file:
            warnings.simplefilter("ignore")  # what matters is raised
            with Image.open(file) as image:
                yield image
    except UnidentifiedImageError:
        raise ReadError("not_image", "the content is no PNG, JPEG or TIFF", where=where) from None
    except Image.DecompressionBombError:
        raise ReadError("too_large", "the image has too many pixels", where=where) from None
    except _PILLOW_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise ReadError(reason, f"the image does not decode ({reason})", where=where) from None
