"""Whether the pixel data of a file are as long as its header says."""

from __future__ import annotations

from medssl.core.errors import ReadError
from medssl.readers._dicom_open import PixelElement
from medssl.readers._dicom_tags import Elements
from medssl.readers._dicom_values import PixelFormat


def length_refusal(
    elements: Elements, pixels: PixelElement | None, size: int, *, native: bool
) -> tuple[str, str] | None:
    """Reason and message if the pixel data are not there, or not as long as the header says.

    Args:
        elements: the header.
        pixels: where it says that the pixels lie.
        size: bytes of the file.
        native: whether the pixels lie there as they are, so that their length is known.
    """
    if pixels is None:
        return "no_pixels", "the file holds no pixel data"
    try:
        if native:
            check_length(PixelFormat.of(elements), pixels, size)
    except ReadError as error:
        return error.reason, error.what
    return None


def check_length(wanted: PixelFormat, pixels: PixelElement, size: int) -> None:
    """Refuse uncompressed pixel data that are not as long as the header says.

    Raises:
        ReadError: ``corrupt_pixels``, ``truncated``, ``frames_mismatch``.
    """
    if pixels.length is None:
        raise ReadError("corrupt_pixels", "uncompressed pixel data of undefined length")
    if pixels.offset + min(pixels.length, wanted.bytes) > size:
        raise ReadError("truncated", "the file ends inside its pixel data")
    if pixels.length < wanted.bytes:
        what = f"{pixels.length} bytes of pixels, the header's numbers ask for {wanted.bytes}"
        raise ReadError("truncated", what)
    if pixels.length - wanted.bytes > wanted.bytes % 2:
        what = f"{pixels.length} bytes of pixels, the header's numbers give {wanted.bytes}"
        raise ReadError("frames_mismatch", what)
