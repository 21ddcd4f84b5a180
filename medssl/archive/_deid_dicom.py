"""A DICOM file as a copy under the Basic Profile: everything is written anew.

Header: :mod:`medssl.archive._deid_header`. Preamble, file meta information and whatever follows
the pixels are not taken over. Pixels stay as they are, compressed ones too, but comments inside
compressed frames, bits above BitsStored and bytes beyond the last frame go.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmwrite
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medssl.archive._deid_header import HeaderCleaner, mark_pixels
from medssl.archive._deid_pixels import only_sector, put_pixels, refusal, rule_of, search
from medssl.archive._deid_streams import without_comments
from medssl.archive.identity import hash_id
from medssl.core.errors import ReadError
from medssl.core.sample import BYTE_CAP
from medssl.readers._dicom_frames import frame_fragments, read_stream
from medssl.readers._dicom_open import DEFLATED, Opened, opened, parsing
from medssl.readers._source import size_of
from medssl.readers._video_dicom import is_video

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_RTSTRUCT = _STORAGE + "481.3"
# Objects whose content is text, curves or references: no row of the profile makes them safe.
_NOT_COPIED = (
    ("1.2.840.10008.1.3.10", "dicomdir"),
    (_STORAGE + "88.", "dicom_sr"),
    (_STORAGE + "104.", "dicom_document"),
    (_STORAGE + "11.", "dicom_presentation"),
    (_STORAGE + "9.", "dicom_waveform"),
    (_STORAGE + "77.1.6", "dicom_whole_slide"),  # labels and notes are photographed along
)
_LOSSY = {
    *("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81"),
    *("1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203"),
}
_FOLDERS = ("StudyInstanceUID", "SeriesInstanceUID")
_PIXEL_VRS = {"OB", "OW", "OF", "OD"}


class Ignored(Exception):  # noqa: N818 - no failure: the file is no picture
    """The file holds no picture; ``kind`` is from a fixed list."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


def copy_dicom(path: Path, key: bytes, file_id: str) -> tuple[tuple[str, ...], bytes]:
    """The copy of a file.

    Args:
        path: the source; it may lie in an archive.
        key: secret of the pseudonyms.
        file_id: stands for a SOP instance UID that is missing.

    Returns:
        Pseudonymous names of its patient, study and series; content of the new file.

    Raises:
        Ignored: a report, a document, a waveform.
        ReadError: it is broken, too large, or text may be burned into its pixels.
    """
    if size_of(path) > BYTE_CAP:
        raise ReadError("too_large", f"more than {BYTE_CAP // 2**30} GiB", where=str(path))
    with parsing(str(path)):
        with opened(path) as source:
            kind = _kind(source)
            wanted = _pixel_bytes(source.dataset) if _syntax(source) == DEFLATED else None
            if wanted is None:
                return _copied(source, kind, path, key, file_id)
        if wanted > BYTE_CAP:
            raise ReadError("too_large", "the pixels take more than the cap", where=str(path))
        with opened(path, wanted) as source:
            return _copied(source, kind, path, key, file_id)


def _kind(source: Opened) -> str:
    """``image`` or ``structures``; refuses what is neither."""
    dataset = source.dataset
    sop_class = _class_of(dataset)
    for prefix, kind in _NOT_COPIED:
        if sop_class.startswith(prefix):
            raise Ignored(kind)
    if sop_class == _RTSTRUCT:
        return "structures"
    whole = "Rows" in dataset and "Columns" in dataset and source.pixels is not None
    if not whole and "Image Storage" not in UID_dictionary.get(sop_class, ("",))[0]:
        raise Ignored("dicom_other")
    if not whole:
        raise ReadError("no_pixels", "an image without pixel data")
    _refuse_unruled(sop_class, _syntax(source))
    return "image"


def _refuse_unruled(sop_class: str, syntax: str) -> None:
    if sop_class not in UID_dictionary or syntax not in UID_dictionary:
        raise ReadError("not_deidentified:dicom_unknown", "an unregistered class or syntax")
    if is_video(syntax):
        raise ReadError("not_deidentified:dicom_video", "video inside DICOM cannot be cleaned")


def _copied(
    source: Opened, kind: str, path: Path, key: bytes, file_id: str
) -> tuple[tuple[str, ...], bytes]:
    cleaner, dataset, syntax = HeaderCleaner(key), source.dataset, _syntax(source)
    sop_class = _class_of(dataset)
    names = (
        cleaner.person(dataset),
        *(hash_id(key, "folder", str(dataset.get(k, ""))) for k in _FOLDERS),
    )
    rule = rule_of(dataset, sop_class) if kind == "image" else "keep"
    if rule == "refuse":
        raise refusal()
    if rule == "search":
        search(path)
    sector_CTHW = only_sector(path) if rule == "sector" else None
    pixels = _pixels(source, syntax) if kind == "image" and sector_CTHW is None else None
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = str(dataset.get("SOPInstanceUID", "") or file_id)
    cleaner.clean(dataset)
    if sector_CTHW is not None:
        if syntax in _LOSSY:
            dataset.LossyImageCompression = "01"
        put_pixels(dataset, sector_CTHW)
        mark_pixels(dataset)
        syntax = ExplicitVRLittleEndian
    elif pixels is not None and source.pixels is not None:
        vr = source.pixels.vr if source.pixels.vr in _PIXEL_VRS else "OW"
        compressed = source.pixels.length is None
        dataset.add_new(source.pixels.keyword, "OB" if compressed else vr, pixels)
    return names, _written(dataset, ExplicitVRLittleEndian if syntax == DEFLATED else UID(syntax))


def _written(dataset: Any, syntax: UID) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    dataset.file_meta = meta
    dataset.preamble = b"\0" * 128
    out = io.BytesIO()
    dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def _pixels(source: Opened, syntax: str) -> bytes:
    """The pixel data as they will be written."""
    assert source.pixels is not None
    if source.pixels.length is None:
        n_frames = int(source.dataset.get("NumberOfFrames") or 1)
        found = frame_fragments(source.file, source.pixels.offset, n_frames, source.dataset)
        return encapsulate([without_comments(read_stream(source.file, f)) for f in found])
    wanted = _pixel_bytes(source.dataset)
    source.file.seek(source.pixels.offset)
    raw = source.file.read(wanted)
    if len(raw) < wanted:
        raise ReadError("truncated", f"{len(raw)} bytes of pixels, the header says {wanted}")
    return _without_high_bits(raw, source.dataset, syntax) + b"\0" * (wanted % 2)


def _without_high_bits(raw: bytes, dataset: Any, syntax: str) -> bytes:
    """Bits above BitsStored may hold retired overlays, drawn text too: replace by the sign."""
    allocated, stored = int(dataset.BitsAllocated), int(dataset.get("BitsStored") or 0)
    if allocated not in {8, 16, 32} or not 0 < stored < allocated:
        return raw
    if int(dataset.get("HighBit", stored - 1)) != stored - 1:
        raise ReadError("bad_pixel_format", "HighBit does not follow from BitsStored")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    kind = "i" if dataset.get("PixelRepresentation") else "u"
    values = np.frombuffer(raw, f"{order}{kind}{allocated // 8}")
    unused = allocated - stored
    cleaned = (values << unused) >> unused
    return cleaned.astype(values.dtype).tobytes()


def _pixel_bytes(dataset: Any) -> int:
    samples = int(dataset.get("SamplesPerPixel") or 1)
    n_frames = int(dataset.get("NumberOfFrames") or 1)
    pixels = int(dataset.get("Rows") or 0) * int(dataset.get("Columns") or 0) * n_frames
    bits = int(dataset.get("BitsAllocated") or 0)
    if dataset.get("PhotometricInterpretation") == "YBR_FULL_422" and samples == 3:
        return 2 * pixels * bits // 8  # two pixels share their colour
    return -(-pixels * samples * bits // 8)


def _class_of(dataset: Dataset) -> str:
    return str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID", ""))


def _syntax(source: Opened) -> str:
    """The stated transfer syntax; a bare data set's follows from how it was parsed."""
    stated = str(source.dataset.file_meta.get("TransferSyntaxUID", "") or "")
    if stated:
        return stated
    implicit, little = source.dataset.original_encoding
    if implicit:
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRLittleEndian if little else ExplicitVRBigEndian)
