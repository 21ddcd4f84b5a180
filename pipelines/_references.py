"""DICOM volumes against conversions by other tools: reading, canonical order, comparison."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pydicom

from medssl.core.errors import ReadError
from medssl.core.geometry import corners_mm, to_voxel_order
from medssl.readers._base import DEFAULT_POLICY, FileHeader, Found, Policy, Refused
from medssl.readers._dispatch import group_headers, load, read_header

CORNER_MM = 1e-3
# Rounding of float32 values, relative to the largest.
FLOAT_ROUNDING = 1e-6
# A resampled volume: dcm2niix rounds to whole numbers and fills the rim rows in its own way.
WHOLE_ROUNDING, MOST = 0.5, 0.99
PLACE_ONLY = "different place, equal voxels"


@dataclass(frozen=True)
class Grid:
    """A volume in canonical (closest RAS+) voxel order W, H, D."""

    voxels_WHD: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Match:
    """How a volume compares with its reference."""

    verdict: str
    corner_mm: float

    @property
    def rank(self) -> int:
        """0 for the best."""
        return 0 if self.verdict == "equal" else 1 if self.verdict.startswith("equal") else 2


def read_dicom(folder: Path, policy: Policy = DEFAULT_POLICY) -> tuple[list[Found], list[Refused]]:
    """DICOM records below a folder in the order of their parts, and what is refused."""
    headers: list[FileHeader] = []
    refused: list[Refused] = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if file.name.endswith((".nii", ".nii.gz")):
            continue
        try:
            headers.append(read_header(file))
        except ReadError as error:
            refused.append(Refused(files=(str(file),), reason=error.reason, message=error.what))
    found, bad = group_headers(headers, policy)
    dicom = [one for one in found if one.format == "dicom"]
    return sorted(dicom, key=lambda one: _natural(one.part)), refused + bad


def row(data: Path, name: str, pattern: str, policy: Policy = DEFAULT_POLICY) -> list[str]:
    """Table row of one set: name, kinds, verdicts, farthest corner, reference, refused, flags.

    Args:
        data: folder of the real data.
        name: folder of the set in it.
        pattern: its reference NIfTI files, relative to ``data``; none found = dcm2niix.
        policy: for gaps and tilt.
    """
    found, refused = read_dicom(data / name, policy)
    volumes = [one for one in found if one.geometry.kind == "volume"]
    files = sorted(data.glob(pattern)) if pattern else []
    matches = match_all(volumes, files) if volumes else []
    kinds = Counter[str](one.geometry.kind for one in found)
    flags = sorted({flag for one in volumes for flag in one.flags})
    return [
        f"`{name}`",
        _counts(kinds) or "nothing",
        _counts(Counter(match.verdict for match in matches)) or "-",
        f"{max(match.corner_mm for match in matches):.0e}" if matches else "-",
        ("provided" if files else "dcm2niix") if matches else "-",
        _counts(Counter(one.reason for one in refused for _ in one.files)) or "-",
        ", ".join(flags) or "-",
    ]


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name}: {n}" for name, n in sorted(counter.items()))


def match_all(volumes: Sequence[Found], files: Sequence[Path]) -> list[Match]:
    """Every reference volume with the record that it equals; no record may be left over.

    Args:
        volumes: records in the order of their parts, which is that of a 4D file.
        files: NIfTI references; none = each record is converted by dcm2niix.
    """
    own = [ours(one) for one in volumes]
    if not files:
        return [_converted_match(one, grid) for one, grid in zip(volumes, own, strict=True)]
    matches: list[Match] = []
    seen: set[int] = set()
    for file in files:
        last = -1
        for grid in _volumes(file):
            number, match = _best(grid, own)
            matches.append(match if number > last else Match("different order", np.inf))
            seen.add(number)
            last = number
    return matches + [Match("different: not in the reference", np.inf)] * (len(own) - len(seen))


def _converted_match(found: Found, own: Grid) -> Match:
    """Against dcm2niix; where it lays only the grid elsewhere, the headers decide who is right."""
    match = min((compare(own, grid) for grid in _converted(found)), key=lambda one: one.rank)
    if match.verdict != PLACE_ONLY:
        return match
    off_mm = headers_off_mm(found)
    if off_mm > found.options["residual_mm"] + CORNER_MM:
        return match
    return Match(f"equal voxels, place by headers (dcm2niix {match.corner_mm:.1f} mm off)", off_mm)


def headers_off_mm(found: Found) -> float:
    """Farthest distance of a slice's grid corners from those that its own header states."""
    assert found.geometry.affine is not None
    rows, columns = found.shape[2:]
    farthest = 0.0
    for number, file in enumerate(found.files):
        header = pydicom.dcmread(file, stop_before_pixels=True)
        across, down = np.reshape(np.array(header.ImageOrientationPatient, float), (2, 3))
        height_mm, width_mm = map(float, header.PixelSpacing)
        for i, j in ((0, 0), (columns - 1, 0), (0, rows - 1), (columns - 1, rows - 1)):
            place = np.array(header.ImagePositionPatient, float)
            place = place + i * width_mm * across + j * height_mm * down
            own = found.geometry.affine @ [i, j, number, 1]
            farthest = max(farthest, float(np.linalg.norm(own[:3] - place * [-1, -1, 1])))
    return farthest


def _best(one: Grid, others: Sequence[Grid]) -> tuple[int, Match]:
    """Number of the grid that fits best, and how it fits."""
    matches = [compare(other, one) for other in others]
    best = min(range(len(others)), key=lambda n: (matches[n].rank, n))
    return best, matches[best]


def ours(found: Found) -> Grid:
    """A record as read by medssl."""
    assert found.geometry.affine is not None
    return _canonical(to_voxel_order(load(found)[0]), found.geometry.affine)


def _converted(found: Found) -> list[Grid]:
    """The same DICOM files as converted by dcm2niix."""
    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name, "in"), Path(name, "out")
        source.mkdir()
        out.mkdir()
        for number, file in enumerate(found.files):
            shutil.copy(file, source / f"{number:05d}.dcm")
        command = ["dcm2niix", "-b", "n", "-z", "n", "-f", "%s_%e", "-o", str(out), str(source)]
        subprocess.run(command, check=True, capture_output=True)
        return [grid for file in sorted(out.glob("*.nii")) for grid in _volumes(file)]


def compare(own: Grid, other: Grid) -> Match:
    """``equal``, ``equal up to one scale``, or what differs."""
    if own.voxels_WHD.shape != other.voxels_WHD.shape:
        return Match("different shape", np.inf)
    shape_DHW = own.voxels_WHD.shape[::-1]
    apart = corners_mm(own.affine, shape_DHW) - corners_mm(other.affine, shape_DHW)
    corner_mm = float(np.linalg.norm(apart, axis=1).max())
    x, y = own.voxels_WHD.astype(np.float64), other.voxels_WHD.astype(np.float64)
    if corner_mm > CORNER_MM:
        verdict = PLACE_ONLY if _same(x, y) else "different place"
        return Match(verdict, corner_mm)
    if _same(x, y):
        return Match("equal", corner_mm)
    slope, intercept = np.polyfit(x.ravel(), y.ravel(), 1)
    if _same(x * slope + intercept, y):
        return Match(f"equal after x {slope:.7g} + {intercept:.2g}", corner_mm)
    close = float((np.abs(x - y) <= WHOLE_ROUNDING).mean())
    if np.array_equal(y, np.rint(y)) and close > MOST:
        return Match(f"equal to rounding in {100 * close:.1f} % of voxels", corner_mm)
    return Match("different voxels", corner_mm)


def _same(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> bool:
    return bool(np.abs(x - y).max() <= FLOAT_ROUNDING * max(float(np.abs(y).max()), 1.0))


def _volumes(file: Path) -> Iterator[Grid]:
    image = nib.load(file)
    voxels = np.asanyarray(image.dataobj)
    for volume in np.moveaxis(voxels[..., None] if voxels.ndim == 3 else voxels, 3, 0):
        yield _canonical(volume, image.affine)


def _canonical(voxels_WHD: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> Grid:
    turn = nib.io_orientation(affine)
    turned = nib.apply_orientation(voxels_WHD, turn)
    return Grid(turned, affine @ nib.orientations.inv_ornt_aff(turn, voxels_WHD.shape))


def _natural(part: str) -> list[Any]:
    return [float(word) if word[0].isdigit() else word for word in re.findall(r"[\d.]+|\D+", part)]
