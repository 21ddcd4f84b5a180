"""What becomes of a file, and its pixels against pydicom with its own choice of decoder."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

from medssl.core.errors import ReadError
from medssl.readers._base import FileHeader
from medssl.readers._dicom_open import PARSE_ERRORS, opened
from medssl.readers._dicom_pixels import iter_frames
from medssl.readers._dicom_tags import PydicomElements, tags_of
from medssl.readers._dispatch import group_headers, load, read_header

_IMPLICIT_LITTLE = "1.2.840.10008.1.2"


def outcomes(files: Iterable[Path]) -> dict[Path, tuple[str, str]]:
    """(outcome, kind or reason) of files that lie in one folder."""
    found: dict[Path, tuple[str, str]] = {}
    headers: list[FileHeader] = []
    for file in files:
        try:
            header = read_header(file)
        except ReadError as error:
            found[file] = ("quarantined", error.reason)
            continue
        if header.ignored:
            found[file] = ("ignored", header.ignored)
        else:
            headers.append(header)
    records, refused = group_headers(headers)
    for one in refused:
        found |= {Path(file): ("quarantined", one.reason) for file in one.files}
    for record in records:
        try:
            load(record)
            kind = ("read", f"{record.format} {record.geometry.kind}")
        except ReadError as error:
            kind = ("quarantined", error.reason)
        found |= {Path(file): kind for file in record.files}
    return found


def against_pydicom(file: Path) -> str:
    """``equal``, the largest difference, or what either of the two refuses; empty = no image."""
    try:
        with opened(file) as source:
            if "Rows" not in source.dataset or source.pixels is None:
                return ""
            tags = tags_of(PydicomElements(source.dataset))
        ours = np.stack(list(iter_frames(file, tags)))
    except ReadError as error:
        return f"refused: {error.reason}"
    try:
        theirs = _by_pydicom(file)
    except PARSE_ERRORS:
        return "decoded; pydicom cannot"
    if theirs.size != ours.size:
        return f"{ours.shape} here, {theirs.shape} there"
    apart = float(np.abs(ours.reshape(theirs.shape).astype(float) - theirs).max())
    return "equal" if apart == 0 else f"differ by {apart:g}"


def _by_pydicom(file: Path) -> npt.NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(file, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(_IMPLICIT_LITTLE)
        stored = dataset.pixel_array
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            colours = apply_color_lut(stored, dataset)[..., :3]
            return np.asarray(colours >> 8 if colours.max() > 255 else colours)
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            stored = 2**dataset.BitsStored - 1 - stored.astype(np.int64)
        return np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64)
