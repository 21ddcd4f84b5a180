"""Which scans of a folder are cases of a model, and what their results are called."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medssl.archive.datasets import is_label_path
from medssl.archive.scan import Scan, scan_folder
from medssl.core.errors import ReadError, UsageError
from medssl.core.geometry import GRID_TOLERANCE_MM, Kind, grid_distance_mm
from medssl.readers._base import Found, Refused
from medssl.readers._dispatch import group_headers, read_header

# nnU-Net: one file per channel, `<case>_0000.nii.gz`, `<case>_0001.nii.gz` ...
_CHANNEL = re.compile(r"(.+)_(\d{4})")

Channels = tuple[Found, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One scan to predict.

    Attributes:
        record_id: salted hash, the only name used in ledgers, tables and logs.
        name: path of its results below the output folder, without ending.
        channels: one record with all channels, or one record per channel in the card's order.
    """

    record_id: str
    name: str
    channels: Channels

    @property
    def is_picture(self) -> bool:
        """A single picture, not a volume."""
        return self.channels[0].geometry.kind == "image"


def scan_input(
    path: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    kinds: tuple[Kind, ...] = ("volume",),
) -> tuple[Scan, Counter[str]]:
    """What a folder or a single file holds, and what is skipped without complaint.

    Label maps (see :func:`is_label_path`), DICOM SEG and RTSTRUCT are no scans to predict, nor is
    what is of none of the ``kinds``.

    Raises:
        UsageError: the path does not exist.
    """
    if path.is_dir():
        scan = scan_folder(path, progress=progress)
    elif path.is_file():
        scan = _scan_file(path.absolute())
    else:
        raise UsageError("the input does not exist", where=str(path))
    skipped: Counter[str] = Counter(scan.ignored)
    taken = []
    for one in scan.found:
        if one.role == "label" or is_label_path(Path(one.files[0]).relative_to(scan.root)):
            skipped["label"] += 1
        elif one.geometry.kind not in kinds:
            skipped[one.geometry.kind] += 1
        else:
            taken.append(one)
    scan.found = taken
    return scan, skipped


def group_channels(
    found: Iterable[Found], in_channels: int, picture_channels: int | None = None
) -> tuple[list[Channels], list[Refused]]:
    """Scans with as many channels as the model wants, and those that have not.

    Grey and colour pictures and videos fit both where the contract turns them into
    ``picture_channels``.
    """
    ready: list[Channels] = []
    refused: list[Refused] = []
    by_case: dict[Path, dict[int, Found]] = defaultdict(dict)
    for one in found:
        match = _CHANNEL.fullmatch(_stem(one)) if in_channels > 1 else None
        if match and one.shape[0] == 1 and one.format == "nifti":
            by_case[Path(one.files[0]).with_name(match[1])][int(match[2])] = one
        elif one.shape[0] == in_channels or _matched(one, picture_channels):
            ready.append((one,))
        else:
            what = f"{one.shape[0]} channels, the model needs {in_channels}"
            refused.append(Refused(files=one.files, reason="channel_mismatch", message=what))
    for numbered in by_case.values():
        channels = tuple(numbered[k] for k in sorted(numbered))
        problem = _channel_problem(numbered, in_channels)
        if problem is None:
            ready.append(channels)
            continue
        files = tuple(file for one in channels for file in one.files)
        refused.append(Refused(files=files, reason="channel_mismatch", message=problem))
    return sorted(ready, key=lambda c: c[0].files[0]), refused


def name_cases(
    scans: Sequence[Channels],
    root: Path,
    record_id: Callable[[Channels], str],
    *,
    hashed_names: bool,
) -> list[Case]:
    """Cases with names that differ from each other, upper and lower case apart too.

    A NIfTI, a picture or a video is named by its path below ``root``, a DICOM series by its folder
    and series number; names that several scans would share get the record id at the end.
    """
    ids = [record_id(channels) for channels in scans]
    names = ids if hashed_names else [_name(channels, root) for channels in scans]
    times = Counter(name.casefold() for name in names)
    unique = [
        name if times[name.casefold()] == 1 or hashed_names else f"{name}_{record}"
        for name, record in zip(names, ids, strict=True)
    ]
    return [
        Case(record_id=record, name=name, channels=channels)
        for record, name, channels in zip(ids, unique, scans, strict=True)
    ]


def _scan_file(path: Path) -> Scan:
    scan = Scan(root=path.parent)
    try:
        header = read_header(path)
    except ReadError as error:
        scan.refused = [Refused(files=(str(path),), reason=error.reason, message=error.what)]
        return scan
    if header.ignored:
        scan.ignored[header.ignored] += 1
    scan.found, scan.refused = group_headers([header])
    return scan


def _matched(one: Found, picture_channels: int | None) -> bool:
    flat = one.geometry.kind in {"image", "clip"}
    return picture_channels is not None and flat and one.shape[0] in (1, 3)


def _channel_problem(numbered: dict[int, Found], in_channels: int) -> str | None:
    if sorted(numbered) != list(range(in_channels)):
        return f"channel files {sorted(numbered)}, the model needs 0 to {in_channels - 1}"
    first = numbered[0]
    for k, other in numbered.items():
        if other.shape != first.shape:
            return f"channel {k} has shape {other.shape[1:]}, channel 0 has {first.shape[1:]}"
        affines = first.geometry.affine, other.geometry.affine
        if affines[0] is None or affines[1] is None:
            return "a channel file does not say where its voxels lie"
        apart_mm = grid_distance_mm(affines[0], affines[1], first.shape[1:])
        if apart_mm > GRID_TOLERANCE_MM:
            return f"channel {k} lies {apart_mm:.3g} mm away from channel 0"
    return None


def _name(channels: Channels, root: Path) -> str:
    first = channels[0]
    folder = Path(first.files[0]).parent.relative_to(root)
    if first.geometry.kind == "image" or first.format == "video":
        return (folder / Path(first.files[0]).stem).as_posix()
    if first.format == "dicom":
        name = folder.as_posix() if folder.parts else root.name
        return name if first.series_number is None else f"{name}_{first.series_number}"
    stem = _stem(first)
    if len(channels) > 1:
        stem = stem.rpartition("_")[0]
    return (folder / stem).as_posix()


def _stem(found: Found) -> str:
    name = Path(found.files[0]).name
    lower = name.lower()
    ending = next((e for e in (".nii.gz", ".nii") if lower.endswith(e)), "")
    return name[: len(name) - len(ending)]
