"""Which DICOM label belongs to which DICOM volume of a folder.

A label belongs to the volume of the series that it names; without a named series, to the one whose
images it names; without either, to the only volume of its frame of reference. Anything else is an
error: a wrong pair would teach a model nonsense.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from medssl.core.errors import ReadError, UsageError
from medssl.readers._base import Found, Refused
from medssl.readers._dicom_sources import identity_of
from medssl.readers._read import found_in
from medssl.readers.labels import header

_SHOWN = 5


def pair_dicom(folder: Path) -> list[tuple[Found, Found | None]]:
    """Every DICOM volume below a folder with its label, if it has one; in path order.

    Raises:
        UsageError: a label without volume or with several, or a volume with several labels.
        ReadError: a label that cannot be read.
    """
    found, refused = found_in(folder)
    _raise_refused_labels(refused)
    volumes = [one for one in found if one.format == "dicom" and one.geometry.kind == "volume"]
    labels = [one for one in found if one.format == "labels"]
    pairs = {one.files[0]: _volume_of(one, volumes, has_refused=bool(refused)) for one in labels}
    times = Counter(id(volume) for volume in pairs.values())
    doubled = [file for file, volume in pairs.items() if times[id(volume)] > 1]
    if doubled:
        what = f"{len(doubled)} labels belong to volumes that have another label too"
        fix = "keep one label object per series; put all segments into it"
        raise UsageError(what, where="\n         ".join(doubled[:_SHOWN]), fix=fix)
    label_of = {id(pairs[label.files[0]]): label for label in labels}
    return [(volume, label_of.get(id(volume))) for volume in volumes]


def _raise_refused_labels(refused: list[Refused]) -> None:
    """A label that cannot be read is an error: its volume would pass as unlabelled."""
    for one in refused:
        try:
            header(Path(one.files[0]))
        except ReadError:
            continue  # no label, or not even DICOM
        raise ReadError(one.reason, one.message, where=one.files[0])


def _volume_of(label: Found, volumes: list[Found], *, has_refused: bool) -> Found:
    instances = frozenset(label.options["instances"])
    if label.references:
        fitting = [one for one in volumes if one.series in label.references]
        if len(fitting) > 1 and instances:
            fitting = [one for one in fitting if identity_of(one).instances & instances]
    elif instances:
        fitting = [one for one in volumes if identity_of(one).instances & instances]
    else:
        space = label.options["space"]
        fitting = [one for one in volumes if identity_of(one).frame_of_reference == space]
        fitting = fitting if space else []
    if len(fitting) == 1:
        return fitting[0]
    where = label.files[0]
    if fitting:
        what = f"a label fits {len(fitting)} volumes of this folder"
        raise UsageError(what, where=where, fix="pair them in a .csv table: image,label")
    fix = "add the series it was drawn on, or take the label away"
    if has_refused:
        fix += "; `medssl doctor` shows which series could not be read"
    raise UsageError("a label belongs to no volume of this folder", where=where, fix=fix)
