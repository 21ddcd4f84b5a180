"""Pixels that people write on: ultrasound and captured screens.

Ultrasound: what lies outside the sector (and outside the 2D regions that the header names) becomes
0 in every frame; M-mode and spectral regions go, their axes are text. Radiographs and angiograms
are searched for drawn text. Screen captures, photographs and coloured slices have no picture that
a rule could tell from its frame: they are refused. So is whatever still shows a line of text.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medssl.archive._burned_in import still_parts, text_rows
from medssl.core.errors import ReadError
from medssl.core.geometry import Geometry
from medssl.readers._base import FileHeader, Found
from medssl.readers._dicom_values import value_dtype
from medssl.readers._dispatch import group_headers, load, read_header
from medssl.readers._us_regions import region_from, whole_picture
from medssl.readers._us_sector import mask_outside, sampled_frames, sector_mask

AnyArray = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Rule = Literal["keep", "search", "sector", "refuse"]

# Captured screens (7), photographs and endoscopy (77).
_CAPTURES = "1.2.840.10008.5.1.4.1.1.7"
_ULTRASOUND = {"US", "IVUS"}
_ULTRASOUND_CLASSES = ("1.2.840.10008.5.1.4.1.1.3.", "1.2.840.10008.5.1.4.1.1.6.")
_SLICES = {"CT", "MR", "PT", "NM", "SEG", "RTDOSE", "OPT", "OCT"}
_SEARCHED = {"CR", "DX", "MG", "XA", "RF", "IO", "PX", "RTIMAGE"}
# What decoding has applied already, by parts of keywords.
_APPLIED = ("PaletteColorLookupTable", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence")
# Length of native pixel data is a 32-bit number.
_MAX_BYTES = 2**32 - 2


def rule_of(dataset: Any, sop_class: str) -> Rule:
    """What happens to the pixels of an image."""
    if dataset.get("Modality") in _ULTRASOUND or sop_class.startswith(_ULTRASOUND_CLASSES):
        return "sector"
    annotated = str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES"
    annotated |= "SCREEN" in str(dataset.get("ImageType", "")).upper()
    coloured = int(dataset.get("SamplesPerPixel") or 1) > 1
    palette = "PALETTE" in str(dataset.get("PhotometricInterpretation", ""))
    if annotated or coloured or palette or sop_class.startswith(_CAPTURES):
        return "refuse"
    if dataset.get("Modality") in _SLICES:
        return "keep"
    return "search" if dataset.get("Modality") in _SEARCHED else "refuse"


def refusal() -> ReadError:
    """The file may show text that no rule removes."""
    return ReadError("burned_in_text_possible", "text may be drawn into the pixels")


def search(path: Path) -> None:
    """Look for drawn text in an image or in the first, middle and last frame of a clip.

    Raises:
        ReadError: ``burned_in_text_possible``, or the pixels do not decode.
    """
    found, refused = group_headers([read_header(path)])
    for bad in refused:
        raise ReadError(bad.reason, bad.message)
    for one in found:
        clip = one.geometry.kind == "clip"
        frames = sorted({0, one.shape[1] // 2, one.shape[1] - 1}) if clip else None
        x = load(one, frames)
        _refuse_text(np.moveaxis(x, 1, 0) if clip else [x])


def _refuse_text(pictures: Iterable[AnyArray]) -> None:
    if any(text_rows(x_CHW) for x_CHW in pictures):
        raise refusal()


def only_sector(path: Path) -> AnyArray:
    """All frames (C, T, H, W) as RGB or grey, 0 outside the sector.

    Raises:
        ReadError: ``burned_in_text_possible`` where no sector is found or text remains.
    """
    header = read_header(path)
    x_CTHW = load(_whole(header))
    x_CTHW = x_CTHW if header.tags["frames"] > 1 else x_CTHW[:, None]
    mask = _kept(x_CTHW, header)
    if mask is None:
        raise refusal()
    cleaned_CTHW = mask_outside(x_CTHW, mask)
    # In one frame speckle may hide a letter, over all of them still tissue may.
    last = cleaned_CTHW.shape[1] - 1
    single = [cleaned_CTHW[:, k] for k in sorted({0, last // 2, last})]
    _refuse_text([still_parts(cleaned_CTHW), *single])
    return cleaned_CTHW


def put_pixels(dataset: Any, x_CTHW: AnyArray) -> None:
    """Replace the pixels by uncompressed ones and say so in the header.

    Raises:
        ReadError: ``too_large``, ``bad_pixel_format``.
    """
    if x_CTHW.nbytes > _MAX_BYTES:
        raise ReadError("too_large", "the uncompressed pixels take more than 4 GiB")
    if x_CTHW.dtype not in {np.dtype(np.uint8), np.dtype(np.uint16)}:
        raise ReadError("bad_pixel_format", f"pixels decode to {x_CTHW.dtype}")
    for name in list(dataset.dir(*_APPLIED)):
        del dataset[name]
    bits = x_CTHW.dtype.itemsize * 8
    dataset.SamplesPerPixel = len(x_CTHW)
    dataset.PhotometricInterpretation = "RGB" if len(x_CTHW) == 3 else "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = 0
    if len(x_CTHW) == 3:
        dataset.PlanarConfiguration = 0
    raw = np.ascontiguousarray(np.moveaxis(x_CTHW, 0, -1)).astype(f"<u{bits // 8}").tobytes()
    dataset.add_new("PixelData", "OB" if bits == 8 else "OW", raw + b"\0" * (len(raw) % 2))


def _whole(header: FileHeader) -> Found:
    """The whole picture as one record, whatever regions the header names."""
    tags = header.tags
    if header.format != "ultrasound":
        raise refusal()
    if tags["plane"]["refused"]:
        raise ReadError(*tags["plane"]["refused"])
    channels = 1 if tags["photometric"].startswith("MONOCHROME") else 3
    # No 2D region: the reader would blacken it by a sector of its own.
    region = whole_picture(tags["rows"], tags["columns"], None) | {"kind": ""}
    clip = tags["frames"] > 1
    return Found(
        files=(header.path,),
        format="ultrasound",
        shape=(channels, *((tags["frames"],) if clip else ()), tags["rows"], tags["columns"]),
        dtype=value_dtype(tags),
        geometry=Geometry(kind="clip" if clip else "image"),
        options={"region": region, "object": tags["object"]},
    )


def _kept(x_CTHW: AnyArray, header: FileHeader) -> Mask | None:
    kept = np.zeros(x_CTHW.shape[2:], dtype=bool)
    sampled_CTHW = x_CTHW[:, sampled_frames(x_CTHW.shape[1])]
    for content in header.tags["plane"]["regions"]:
        region = region_from(content)
        if region.kind != "2D":
            continue
        top, bottom, left, right = region.box
        picture_CTHW = sampled_CTHW[..., top:bottom, left:right].copy()
        for a, b, c, d in region.blank:
            picture_CTHW[..., a:b, c:d] = 0
        mask = sector_mask(picture_CTHW)
        if mask is not None:
            kept[top:bottom, left:right] |= mask
    return kept if kept.any() else None
