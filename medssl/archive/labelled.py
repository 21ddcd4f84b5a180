"""Labelled data sets: Medical Segmentation Decathlon, nnU-Net raw, CSV table, pictures, DICOM.

- MSD: ``dataset.json`` with ``modality`` and ``training``; several channels are a 4D file.
- nnU-Net: ``dataset.json`` with ``channel_names``; one file ``<case>_0000<ending>`` per channel,
  or one colour picture for three channels.
- CSV: columns ``image,label[,patient,split]``, paths relative to the table; an image may be the
  folder of a DICOM series, a label any label map, DICOM SEG or RTSTRUCT. Values are those that
  occur, named ``label_<value>``; segments and structures are numbered from 1 by name, sorted.
- Pictures: folders of images and masks, see :mod:`medssl.archive._labelled_pictures`; labels are
  the values that occur, as in a CSV.
- DICOM: a folder of series with SEG or RTSTRUCT objects, see :mod:`medssl.archive._dicom_pairs`.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.archive._dicom_pairs import pair_dicom
from medssl.archive._label_checks import check_grid, check_space, check_values
from medssl.archive._label_names import MAX_LABEL, labels_in, numbered
from medssl.archive._labelled_pictures import picture_cases, read_picture
from medssl.archive.cases import Case, row_case, unique_names
from medssl.archive.datasets import FILE_NAME, channel_names, modality_of, read_json
from medssl.archive.identity import case_stem
from medssl.core.errors import ReadError, UsageError
from medssl.core.geometry import Geometry, Kind
from medssl.core.tables import open_table
from medssl.readers._base import Found
from medssl.readers._dispatch import sample
from medssl.readers._mask import is_picture
from medssl.readers._read import record
from medssl.readers.labels import LabelMap, drawn_names, label_record, labels_on_grid


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A labelled data set; label 0 is background."""

    labels: dict[int, str]
    channels: tuple[str, ...]
    modality: str
    cases: tuple[Case, ...]
    kind: Kind = "volume"
    """``image``: the cases are pictures."""


def load_labelled(data: Path) -> Labelled:
    """List the cases of a labelled data set.

    Args:
        data: folder with ``dataset.json``, one ``.csv``, pictures and masks, or DICOM labels; or
            the ``.csv`` itself.

    Raises:
        UsageError: no such layout, a missing file, a case or a channel too many or too few.
        ReadError: ``bad_dataset_json``, or a label map of a CSV that cannot be read.
    """
    if data.is_file() and data.suffix.lower() == ".csv":
        labelled = _from_csv(data)
    elif (data / FILE_NAME).is_file():
        labelled = _from_json(data / FILE_NAME)
    else:
        labelled = _from_folder(data)
    _check(labelled, data)
    return labelled


def read_case(case: Case, labelled: Labelled) -> tuple[npt.NDArray[Any], Geometry, LabelMap | None]:
    """Array (C, D, H, W), geometry, and labels (D, H, W) of a case.

    Of a picture (C, H, W) and (1, H, W), whatever number of channels it has; its mask may be empty.

    Raises:
        ReadError: broken files, ``not_a_volume``, ``channel_mismatch``, ``geometry_unknown``,
            ``label_shape_mismatch``, ``label_affine_mismatch``, ``non_integer_labels``,
            ``unknown_label_values``, ``empty_label``, ``other_frame_of_reference``, and others of
            :func:`medssl.readers.labels.labels_on_grid`; ``where`` names the file.
    """
    records = case.records()
    samples = [sample(one) for one in records]
    geometry = samples[0].geometry
    if geometry.kind == "image":
        if labelled.kind != "image":
            what = "a picture among the volumes of the data set"
            raise ReadError("not_a_volume", what, where=str(case.images[0]))
        return read_picture(case, samples, labelled.labels)
    for one, where in zip(samples, case.images, strict=False):
        check_grid(one.shape, one.geometry, samples[0].shape, geometry, where)
    array_CDHW = np.concatenate([one.array for one in samples])
    if len(array_CDHW) != len(labelled.channels):
        what = f"{len(array_CDHW)} channels, the data set has {len(labelled.channels)}"
        raise ReadError("channel_mismatch", what, where=str(case.images[0]))
    if case.label is None:
        return array_CDHW, geometry, None
    label = label_record(case.label)
    check_space(label, records[0])
    d, h, w = array_CDHW.shape[1:]
    drawn = labels_on_grid(label, geometry, (d, h, w), names=labelled.labels)
    check_values(drawn.labels_DHW, labelled.labels, case.label)
    return array_CDHW, geometry, drawn


def _from_json(path: Path) -> Labelled:
    content = read_json(path)
    channels = channel_names(content)
    if not channels:
        fix = 'add e.g. "channel_names": {"0": "MRI"}'
        raise UsageError("dataset.json names no channels", where=str(path), fix=fix)
    listed = content.get("training")
    if isinstance(listed, list) and "channel_names" not in content:
        cases = _msd_cases(path, content, listed, len(channels))
    else:
        cases = _nnunet_cases(
            path.parent, str(content.get("file_ending", ".nii.gz")), len(channels)
        )
    found = tuple(cases)
    return Labelled(
        labels=_label_names(content, path),
        channels=channels,
        modality=modality_of(channels),
        cases=found,
        kind="image" if found and is_picture(found[0].images[0]) else "volume",
    )


def _label_names(content: dict[str, Any], path: Path) -> dict[int, str]:
    """MSD maps number to name, nnU-Net name to number."""
    labels = content.get("labels")
    where = str(path)
    if not isinstance(labels, dict) or not labels:
        raise UsageError("dataset.json names no labels", where=where)
    names: dict[int, str] = {}
    for key, value in labels.items():
        number, name = (key, value) if str(key).isdigit() else (value, key)
        if not str(number).isdigit() or int(number) in names:
            fix = "one whole number per label; nnU-Net regions are not supported"
            raise UsageError(f"label '{name}' has no number of its own", where=where, fix=fix)
        names[int(number)] = str(name)
    if 0 not in names or len(names) < 2 or max(names) > MAX_LABEL:
        fix = f"give 0 to the background and 1 to {MAX_LABEL} to the labels"
        raise UsageError(f"labels are numbered {sorted(names)}", where=where, fix=fix)
    return dict(sorted(names.items()))


def _msd_cases(
    path: Path, content: dict[str, Any], listed: list[Any], n_channels: int
) -> Iterable[Case]:
    for entry in listed:
        if not isinstance(entry, dict) or not {"image", "label"} <= entry.keys():
            raise UsageError("a training entry lacks image or label", where=str(path))
        image, label = path.parent / entry["image"], path.parent / entry["label"]
        if not image.exists():  # MSD's own description with nnU-Net's files
            channels = _channel_files(image.parent, case_stem(image), ".nii.gz", n_channels)
            yield _case(case_stem(image), channels, label, None)
        else:
            yield _case(case_stem(image), (image,), label, None)
    for entry in content.get("test", []):
        image = path.parent / (entry["image"] if isinstance(entry, dict) else entry)
        yield _case(case_stem(image), (image,), None, "test")


def _nnunet_cases(folder: Path, ending: str, n_channels: int) -> Iterable[Case]:
    for images, labels, split in (("imagesTr", "labelsTr", None), ("imagesTs", "labelsTs", "test")):
        files = (folder / images).glob(f"*_[0-9][0-9][0-9][0-9]{ending}")
        for name in sorted({file.name.removesuffix(ending)[:-5] for file in files}):
            channels = _channel_files(folder / images, name, ending, n_channels)
            label = folder / labels / f"{name}{ending}"
            held_out_unlabelled = split == "test" and not label.exists()
            yield _case(name, channels, None if held_out_unlabelled else label, split)


def _channel_files(folder: Path, name: str, ending: str, n_channels: int) -> tuple[Path, ...]:
    there = sorted(folder.glob(f"{name}_[0-9][0-9][0-9][0-9]{ending}"))
    wanted = [folder / f"{name}_{channel:04d}{ending}" for channel in range(n_channels)]
    if there == wanted[:1] and is_picture(wanted[0]):
        return (wanted[0],)  # nnU-Net's natural images: red, green and blue in one file
    if there and there != wanted:
        odd = sorted({*map(str, there)} ^ {*map(str, wanted)})
        what = f"a case has {len(there)} channel files, dataset.json names {n_channels} channels"
        raise UsageError(what, where=odd[0])
    return tuple(wanted)


def _from_csv(path: Path) -> Labelled:
    with open_table(path) as table:
        rows = list(csv.DictReader(table))
    columns = set(rows[0]) if rows else set()
    if not {"image", "label"} <= columns:
        fix = "first line: image,label[,patient,split]"
        raise UsageError("the table has no rows with image and label", where=str(path), fix=fix)
    cases = [row_case(row, path, number) for number, row in enumerate(rows, start=2)]
    cases = unique_names(cases, path)
    files = [case.label for case in cases if case.label is not None]
    if files and not any(file.exists() for file in files):
        fix = "the column holds paths of label maps; for names of classes: --task classification"
        raise UsageError("no label of the table is a file", where=str(files[0]), fix=fix)
    for file in files:
        _check_file(file)
    return _described(cases, path)


def _from_folder(folder: Path) -> Labelled:
    tables = sorted(folder.glob("*.csv"))
    if len(tables) == 1:
        return _from_csv(tables[0])
    cases = picture_cases(folder)
    return _described(cases, folder) if cases else _from_dicom(folder)


def _described(cases: list[Case], where: Path) -> Labelled:
    """Cases with the labels that occur, and the channels and modality of the first image."""
    labels = labels_in([case.label for case in cases if case.label is not None], where)
    first = cases[0].images[0]
    _check_file(first)
    one = record(first)
    return Labelled(
        labels=labels,
        channels=tuple(f"channel_{c}" for c in range(one.shape[0])),
        modality=one.modality,
        cases=tuple(cases),
        kind=one.geometry.kind,
    )


def _from_dicom(folder: Path) -> Labelled:
    pairs = pair_dicom(folder)
    if not any(label for _, label in pairs):
        fix = "give a folder with dataset.json (MSD or nnU-Net), a .csv file, images/ and masks/, "
        fix += "or DICOM series with SEG or RTSTRUCT"
        raise UsageError("no labelled data set here", where=str(folder), fix=fix)
    names = {name for _, label in pairs if label for name in drawn_names(label)}
    first = pairs[0][0]
    return Labelled(
        labels=numbered(names, folder),
        channels=tuple(f"channel_{c}" for c in range(first.shape[0])),
        modality=first.modality,
        cases=tuple(_dicom_case(*pair, folder) for pair in pairs),
    )


def _dicom_case(image: Found, label: Found | None, folder: Path) -> Case:
    place = Path(image.files[0]).parent.relative_to(folder)
    number = "" if image.series_number is None else str(image.series_number)
    words = [*place.parts, number, re.sub(r"[^\w.=-]+", "_", image.part)]
    return Case(
        name="_".join(filter(None, words)) or folder.name,
        images=tuple(map(Path, image.files)),
        label=Path(label.files[0]) if label else None,
        patient=image.patient or image.study or str(place),
        record=image,
    )


def _case(name: str, images: tuple[Path, ...], label: Path | None, split: str | None) -> Case:
    return Case(name=name, images=images, label=label, patient=name, split=split)


def _check(labelled: Labelled, data: Path) -> None:
    if not labelled.cases:
        raise UsageError("the data set lists no case", where=str(data))
    for case in labelled.cases:
        for file in (*case.images, *([case.label] if case.label else [])):
            _check_file(file)
    name, times = Counter(case.name for case in labelled.cases).most_common(1)[0]
    if times > 1:
        raise UsageError(f"{times} cases have one name", where=f"{data}: {name}")


def _check_file(file: Path) -> None:
    if not file.exists():
        raise UsageError("a file of the data set is missing", where=str(file))
