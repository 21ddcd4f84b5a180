"""Which slices of a series make one volume: divided by tags only as far as positions ask for it.

A series may hold several matrices and orientations, echoes, b-values, time points, phases of
contrast, and magnitude beside phase. Where two slices lie at one position, or where steps are
uneven, the tags below are tried in their order; the one that helps names the parts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medssl.readers._dicom_line import MIN_SLICES, is_even
from medssl.readers._dicom_slices import (
    SAME_POSITION_MM,
    Slice,
    Slices,
    count_doubled,
    normal_of,
    positions_of,
)
from medssl.readers._dicom_words import IMAGE_TYPES

# Direction cosines and pixel spacings this close are one (0.06 degrees).
ORIENTATION_TOLERANCE = 1e-3
# Share of slices that a useful division leaves in stacks of at least MIN_SLICES.
_WHOLE_SHARE = 0.9
_BY_VALUE = (
    *(
        "PatientID",
        "SeriesNumber",
        "EchoTime",
        "DiffusionBValue",
        "DiffusionGradientOrientation",
        "TemporalPositionIndex",
    ),
    *("TemporalPositionIdentifier", "AcquisitionNumber", "ComplexImageComponent", "ImageType"),
    *("InversionTime", "FlipAngle", "ConvolutionKernel", "StackID", "DimensionIndexValues"),
    *("TriggerTime", "AcquisitionTime", "ContentTime"),
)
_BY_RANK = ("TriggerTime", "AcquisitionTime", "ContentTime")
# Tags that are kept outside of tags["split"].
_OWN_TAGS = {
    "PatientID": "patient",
    "SeriesNumber": "series_number",
    "ImageType": "image_type",
}
# Ids, free text and times of day may say who was scanned and when: parts are named by their order.
_IDENTIFYING = {"PatientID", "ConvolutionKernel", "AcquisitionTime", "ContentTime"}


class Part(NamedTuple):
    """Slices of one volume, and the tags and values that told them from the rest."""

    name: dict[str, str]
    slices: Slices
    flags: tuple[str, ...] = ()


def divide(slices: Slices) -> list[Part]:
    """Divide the slices of one series; every slice is in one part."""
    parts: list[Part] = []
    for name, members in _by_grid(slices):
        parts += _divide(name, members, _BY_VALUE)
    return parts


def _divide(name: dict[str, str], slices: Slices, tags: tuple[str, ...]) -> list[Part]:
    doubled = count_doubled(slices)
    if len(slices) - doubled < MIN_SLICES or (not doubled and is_even(slices)):
        return [Part(name, slices)]
    for at, tag in enumerate(tags):
        groups = _by_value(slices, tag)
        if len(groups) > 1 and _helps(list(groups.values()), doubled):
            left = tags[at + 1 :]
            named = zip(_value_names(list(groups), tag), groups.values(), strict=True)
            return [p for word, own in named for p in _divide({**name, **word}, own, left)]
    return _passes(name, slices) if doubled else [Part(name, slices)]


def _helps(groups: list[Slices], doubled: int) -> bool:
    """Whether a division removes doubled positions without tearing stacks apart."""
    if not doubled:
        return all(len(own) >= MIN_SLICES and is_even(own) for own in groups)
    left = [count_doubled(own) for own in groups]
    whole = [len(own) for own, n in zip(groups, left, strict=True) if len(own) - n >= MIN_SLICES]
    return sum(left) < doubled and sum(whole) >= _WHOLE_SHARE * sum(map(len, groups))


def _by_value(slices: Slices, tag: str) -> dict[Hashable, Slices]:
    groups: dict[Hashable, Slices] = defaultdict(list)
    for one in slices:
        groups[_value(one, tag)].append(one)
    return dict(sorted(groups.items(), key=lambda item: (item[0] is not None, item[0])))


def _value(one: Slice, tag: str) -> Any:
    if tag in _OWN_TAGS:
        return one.tags[_OWN_TAGS[tag]]
    value = one.tags["split"].get(tag)
    return tuple(value) if isinstance(value, list) else value


def _value_names(values: list[Any], tag: str) -> list[dict[str, str]]:
    """How parts are named: numbers and code words, the order of what identifies."""
    if tag in _IDENTIFYING:
        return [{f"{tag}Rank": str(n)} for n in range(1, len(values) + 1)]
    words = _image_types(values) if tag == "ImageType" else [_word(value) for value in values]
    if len(set(words)) < len(words):
        words = [str(n) for n in range(1, len(words) + 1)]
    return [{tag: word} for word in words]


def _word(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ",".join(f"{number:.4g}" for number in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _image_types(values: list[Any]) -> list[str]:
    """The components in which image types differ."""
    rows = [str(value or "").split("\\") for value in values]
    width = max(map(len, rows))
    rows = [row + [""] * (width - len(row)) for row in rows]
    differ = [n for n in range(width) if len({row[n] for row in rows}) > 1]
    words = []
    for row in rows:
        codes = [row[n].replace(" ", "_") for n in differ if row[n] in IMAGE_TYPES]
        words.append("_".join(codes) or "none")
    return words


def _passes(name: dict[str, str], slices: Slices) -> list[Part]:
    """Complete repeated passes over the same positions, told apart by order alone."""
    for tag in _BY_RANK:
        ranked = _by_rank([one.tags["split"].get(tag) for one in slices], slices)
        if ranked:
            return [Part({**name, f"{tag}Rank": str(n)}, own) for n, own in enumerate(ranked, 1)]
    folders = _by_folder(slices)
    if folders:
        return [Part({**name, "Folder": str(n)}, own) for n, own in enumerate(folders, 1)]
    ranked = _by_rank([one.tags["extra"].get("InstanceNumber") for one in slices], slices)
    if ranked:
        flags = ("order_by_instance_number",)
        named = enumerate(ranked, 1)
        return [Part({**name, "InstanceNumberRank": str(n)}, own, flags) for n, own in named]
    return [Part(name, slices)]


def _by_rank(values: list[Any], slices: Slices) -> list[Slices]:
    """The k-th slice of every position; empty unless all positions have the same number."""
    if any(value is None for value in values):
        return []
    along_mm = positions_of(slices) @ normal_of(slices)
    order = np.argsort(along_mm, kind="stable")
    starts = np.flatnonzero(np.diff(along_mm[order]) >= SAME_POSITION_MM) + 1
    stacks = [own.tolist() for own in np.split(order, starts)]
    n = len(stacks[0])
    if any(len({values[i] for i in own}) != n or len(own) != n for own in stacks):
        return []
    columns = zip(*(sorted(own, key=values.__getitem__) for own in stacks), strict=True)
    return [[slices[i] for i in column] for column in columns]


def _by_folder(slices: Slices) -> list[Slices]:
    """A series exported into several folders, each complete."""
    folders: dict[Path, Slices] = defaultdict(list)
    for one in slices:
        folders[Path(one.path).parent].append(one)
    groups = [folders[folder] for folder in sorted(folders)]
    return groups if len(groups) > 1 and not any(map(count_doubled, groups)) else []


def _by_grid(slices: Slices) -> list[tuple[dict[str, str], Slices]]:
    """Groups of one matrix, pixel spacing and orientation; named by what differs between them."""
    exact: dict[tuple[float, ...], Slices] = defaultdict(list)
    for one in slices:
        t = one.tags
        exact[t["rows"], t["columns"], *t["pixel_spacing_mm"], *t["orientation"]].append(one)
    clusters: list[tuple[tuple[float, ...], Slices]] = []
    for key, own in exact.items():
        for reference, members in clusters:
            if np.abs(np.subtract(key, reference)).max() <= ORIENTATION_TOLERANCE:
                members.extend(own)
                break
        else:
            clusters.append((key, own))
    names = [
        {
            "Matrix": f"{key[0]}x{key[1]}",
            "PixelSpacing": _word(key[2:4]),
            "ImageOrientationPatient": _word(key[4:]),
        }
        for key, _ in clusters
    ]
    differ = [word for word in names[0] if len({name[word] for name in names}) > 1] if names else []
    pairs = zip(names, clusters, strict=True)
    return [({word: name[word] for word in differ}, own) for name, (_, own) in pairs]
