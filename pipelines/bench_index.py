"""Indexing of 20,000 single-slice DICOM files against a plain pydicom loop over their headers.

python -m pipelines.bench_index
"""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import typer
from pydicom import config
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from medssl.readers._dicom_tags import PydicomElements, tags_of
from pipelines._bench import peak_mb, write_table

SLICES = 200
# The loops take every fifth file: their time per file does not depend on how many there are.
_EVERY = 5
COMMAND = "import sys; from medssl.cli.main import main; sys.argv[0] = 'medssl'; main()"
# Placeholders of one length, so that a copy differs in its bytes only where it must.
_PATIENT, _STUDY, _SERIES, _OBJECT = (
    "P%06d",
    "1.2.840.9.1%06d",
    "1.2.840.9.2%06d",
    "1.2.840.9.3%08d",
)
_POSITION = "-158.1\\-179.0\\%+09.2f"


def main(files: int = 20_000, repeats: int = 3) -> None:
    """Time both on the same files in turn, on two cores; then index again, then watch memory."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, sequences in (("plain", False), ("nested sequences", True)):
            archive = folder / kind.replace(" ", "_")
            write_archive(archive, files // SLICES, sequences=sequences)
            rows += _compared(kind, archive, folder, repeats)
        rows += _again(folder / "plain", folder, repeats)
        rows += _memory(folder, files)
    note = (
        f"{files} files of 128 x 128 pixels, {SLICES} per series, copies of the header of "
        "pydicom's CT_small.dcm (256 elements) with ids and positions of their own; files in the "
        f"page cache; two cores; {repeats} interleaved repeats, the spread is lowest to highest. "
        "Indexing is the command `medssl index`, start-up and writing of the catalog included; "
        "the loops run over every fifth file in one process that has pydicom loaded. 'Same tags' "
        "asks the data set for every keyword that the index asks for; 'same values' makes the "
        "index's mapping of them."
    )
    write_table("index_speed", "Speed of indexing", _HEAD, rows, note, by="bench_index")


_HEAD = ["what", "median", "spread", "unit"]


def _compared(kind: str, archive: Path, folder: Path, repeats: int) -> list[list[str]]:
    whole = sorted(archive.rglob("*.dcm"))
    paths = whole[::_EVERY]
    keywords = _keywords(paths[0])
    times: dict[str, list[float]] = {"index": [], "same tags": [], "same values": []}
    for repeat in range(repeats):
        catalog = folder / f"catalog {kind} {repeat}"
        times["index"].append(_seconds(partial(_index, archive, catalog)))
        times["same tags"].append(_seconds(lambda: _plain_loop(paths, keywords)))
        times["same values"].append(_seconds(lambda: _mapping_loop(paths)))
    files = {"index": len(whole), "same tags": len(paths), "same values": len(paths)}
    per_file = {name: np.array(values) / files[name] * 1e6 for name, values in times.items()}
    ratios = np.minimum(per_file["same tags"], per_file["same values"]) / per_file["index"]
    return [
        _row(f"{kind}: medssl index", per_file["index"], "us per file"),
        _row(f"{kind}: pydicom loop, same tags", per_file["same tags"], "us per file"),
        _row(f"{kind}: pydicom loop, same values", per_file["same values"], "us per file"),
        _row(f"{kind}: the faster loop / medssl index", ratios, "times"),
    ]


def _again(archive: Path, folder: Path, repeats: int) -> list[list[str]]:
    """Indexing an archive that did not change, beyond the start-up of the command."""
    tiny = folder / "tiny"
    write_archive(tiny, 1)
    catalog, tiny_catalog = folder / "catalog again", folder / "catalog tiny"
    _index(archive, catalog)
    _index(tiny, tiny_catalog)
    values = []
    for _ in range(2 * repeats + 1):
        start_s = _seconds(lambda: _index(tiny, tiny_catalog))
        values.append(_seconds(lambda: _index(archive, catalog)) - start_s)
    opened = json.loads((catalog / "run.json").read_text(encoding="utf-8"))["opened"]
    count = sum(1 for _ in archive.rglob("*.dcm")) - SLICES
    again = np.array(values) / count * 1e6
    return [
        _row("unchanged archive, beyond start-up", again, "us per file"),
        ["unchanged archive, files opened", str(opened), "", "files"],
    ]


def _memory(folder: Path, files: int) -> list[list[str]]:
    peaks = []
    for count in (files // 10, files):
        archive = folder / f"memory {count}"
        write_archive(archive, count // SLICES)
        words = ["index", str(archive), "-o", str(folder / f"memory catalog {count}"), "--quiet"]
        peaks.append(peak_mb([sys.executable, "-W", "ignore", "-c", COMMAND, *words]))
    rows = [
        [f"peak memory (PSS, workers included), {count} files", f"{peak:.0f}", "", "MB"]
        for count, peak in zip((files // 10, files), peaks, strict=True)
    ]
    return [*rows, ["growth", f"{100 * (peaks[1] / peaks[0] - 1):+.1f}", "", "%"]]


def write_archive(folder: Path, series: int, *, sequences: bool = False) -> None:
    """Series of 200 slices each; the bytes of one header with ids and positions replaced."""
    pattern = _template(sequences=sequences)
    for s in range(series):
        place = folder / f"series{s:04d}"
        place.mkdir(parents=True)
        for k in range(SLICES):
            content = pattern
            for old, new in zip(_values(0, 0), _values(s, k), strict=True):
                content = content.replace(old, new)
            (place / f"IM{k:05d}.dcm").write_bytes(content)


def _values(series: int, k: int) -> list[bytes]:
    """What tells one file from another; positions and numbers are as long as they are."""
    position = -75.0 + 2.5 * k
    ids = (_PATIENT, series // 4), (_STUDY, series // 4), (_SERIES, series)
    return [
        *((pattern % number).encode() for pattern, number in ids),
        (_OBJECT % (series * SLICES + k)).encode(),
        _element(0x0020, 0x0032, b"DS", f"-158.1\\-179\\{position}"),
        _element(0x0020, 0x0013, b"IS", str(k + 1)),
        _element(0x0020, 0x1041, b"DS", str(position)),
    ]


def _element(group: int, element: int, vr: bytes, text: str) -> bytes:
    value = text.encode() + b" " * (len(text) % 2)
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


def _template(*, sequences: bool) -> bytes:
    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
        dataset.PatientID, dataset.StudyInstanceUID = _PATIENT % 0, _STUDY % 0
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = _SERIES % 0, _OBJECT % 0
        dataset.file_meta.MediaStorageSOPInstanceUID = UID(_OBJECT % 0)
        dataset.ImagePositionPatient, dataset.InstanceNumber = "-158.1\\-179\\-75.0", "1"
        dataset.SliceLocation = "-75.0"
        if sequences:
            for keyword in ("RequestAttributesSequence", "ReferencedStudySequence",
                            "ProcedureCodeSequence", "ReferencedImageSequence"):  # fmt: skip
                setattr(dataset, keyword, Sequence([_nested(3), _nested(3), _nested(3)]))
                dataset[keyword].is_undefined_length = True
        dataset.save_as(buffer := io.BytesIO(), enforce_file_format=True)
    content = buffer.getvalue()
    assert all(one in content for one in _values(0, 0))
    return content


def _nested(depth: int) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "T-04000", "SRT", "Breast"
    item.ReferencedSOPInstanceUID = "1.2.840.9.4"
    item.is_undefined_length_sequence_item = depth % 2 == 1
    if depth:
        item.PurposeOfReferenceCodeSequence = Sequence([_nested(depth - 1)])
        item["PurposeOfReferenceCodeSequence"].is_undefined_length = True
    return item


class _Asked(PydicomElements):
    """Notes the keywords that the index asks for."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self.keywords: set[str] = set()

    def _value(self, keyword: str) -> Any:
        self.keywords.add(keyword)
        return super()._value(keyword)


def _keywords(path: Path) -> list[str]:
    asked = _Asked(pydicom.dcmread(path, stop_before_pixels=True))
    tags_of(asked)
    return sorted(asked.keywords)


def _headers(paths: list[Path]) -> Iterator[Any]:
    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        for path in paths:
            yield pydicom.dcmread(path, stop_before_pixels=True)


def _plain_loop(paths: list[Path], keywords: list[str]) -> None:
    for dataset in _headers(paths):
        for keyword in keywords:
            dataset.get(keyword)


def _mapping_loop(paths: list[Path]) -> None:
    for dataset in _headers(paths):
        tags_of(PydicomElements(dataset))


def _index(archive: Path, catalog: Path) -> None:
    words = ["index", str(archive), "-o", str(catalog), "--quiet"]
    command = [sys.executable, "-W", "ignore", "-c", COMMAND, *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _seconds(function: Callable[[], None]) -> float:
    start_s = time.perf_counter()
    function()
    return time.perf_counter() - start_s


def _row(what: str, values: Any, unit: str) -> list[str]:
    spread = f"{values.min():.1f} to {values.max():.1f}"
    return [what, f"{np.median(values):.1f}", spread, unit]


if __name__ == "__main__":
    typer.run(main)
