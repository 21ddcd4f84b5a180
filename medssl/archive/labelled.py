"""Labelled data sets: Medical Segmentation Decathlon, nnU-Net raw, or a CSV table.

- MSD: ``dataset.json`` with ``modality`` and ``training``; several channels are a 4D file.
- nnU-Net: ``dataset.json`` with ``channel_names``; one file ``<case>_0000<ending>`` per channel.
- CSV: columns ``image,label[,patient,split]``, paths relative to the table; an image may be the
  folder of a DICOM series. Label values are those that occur, named ``label_<value>``.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.archive._label_checks import MAX_LABEL, check_grid, label_values, whole_values
from medssl.archive.datasets import FILE_NAME, channel_names, modality_of, read_json
from medssl.archive.identity import case_stem
from medssl.core.errors import ReadError, UsageError
from medssl.core.geometry import Geometry
from medssl.readers._read import read

_SPLITS = {"train", "val", "test"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One labelled (or, without label, test) scan.

    Attributes:
        name: unique within the data set; names the case's files.
        images: one file (or DICOM folder) per channel, or one 4D file.
        label: label map on the grid of the images.
        patient: raw patient id; cases of one patient stay together.
        split: ``train``, ``val``, ``test``, or ``None`` where the data set does not say.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    patient: str
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A labelled data set; label 0 is background."""

    labels: dict[int, str]
    channels: tuple[str, ...]
    modality: str
    cases: tuple[Case, ...]


def load_labelled(data: Path) -> Labelled:
    """List the cases of a labelled data set.

    Args:
        data: folder with ``dataset.json`` or one ``.csv``, or the ``.csv`` itself.

    Raises:
        UsageError: no such layout, a missing file, a case or a channel too many or too few.
        ReadError: ``bad_dataset_json``, or a label map of a CSV that cannot be read.
    """
    if data.is_file() and data.suffix.lower() == ".csv":
        labelled = _from_csv(data)
    elif (data / FILE_NAME).is_file():
        labelled = _from_json(data / FILE_NAME)
    else:
        tables = sorted(data.glob("*.csv"))
        if len(tables) != 1:
            fix = "give a folder with dataset.json (MSD or nnU-Net), or a .csv file"
            raise UsageError("no labelled data set here", where=str(data), fix=fix)
        labelled = _from_csv(tables[0])
    _check(labelled, data)
    return labelled


def read_case(
    case: Case, labelled: Labelled
) -> tuple[npt.NDArray[Any], Geometry, npt.NDArray[np.uint8] | None]:
    """Array (C, D, H, W), geometry, and labels (D, H, W) of a case.

    Raises:
        ReadError: broken files, ``channel_mismatch``, ``geometry_unknown``,
            ``label_shape_mismatch``, ``label_affine_mismatch``, ``non_integer_labels``,
            ``unknown_label_values``, ``empty_label``; ``where`` names the file.
    """
    samples = [read(path) for path in case.images]
    geometry = samples[0].geometry
    for path, sample in zip(case.images, samples, strict=True):
        check_grid(sample.shape, sample.geometry, samples[0].shape, geometry, path, "channel")
    array_CDHW = np.concatenate([sample.array for sample in samples])
    if len(array_CDHW) != len(labelled.channels):
        what = f"{len(array_CDHW)} channels, the data set has {len(labelled.channels)}"
        raise ReadError("channel_mismatch", what, where=str(case.images[0]))
    if case.label is None:
        return array_CDHW, geometry, None
    label = read(case.label)
    check_grid(label.shape, label.geometry, array_CDHW.shape, geometry, case.label, "label")
    return array_CDHW, geometry, label_values(label.array, labelled.labels, case.label)


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
    return Labelled(
        labels=_label_names(content, path),
        channels=channels,
        modality=modality_of(channels),
        cases=tuple(cases),
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
    if there and there != wanted:
        odd = sorted({*map(str, there)} ^ {*map(str, wanted)})
        what = f"a case has {len(there)} channel files, dataset.json names {n_channels} channels"
        raise UsageError(what, where=odd[0])
    return tuple(wanted)


def _from_csv(path: Path) -> Labelled:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    columns = set(rows[0]) if rows else set()
    if not {"image", "label"} <= columns:
        fix = "first line: image,label[,patient,split]"
        raise UsageError("the table has no rows with image and label", where=str(path), fix=fix)
    cases = [_csv_case(row, path, number) for number, row in enumerate(rows, start=2)]
    times = Counter(case.name for case in cases)
    cases = [c if times[c.name] == 1 else replace(c, name=_long_name(c, path)) for c in cases]
    values: set[int] = {0}
    for case in cases:
        if case.label is not None:
            _check_file(case.label)
            values.update(whole_values(read(case.label).array, case.label))
    if len(values) < 2:
        raise UsageError("no label map of the table holds a label", where=str(path))
    labels = {v: f"label_{v}" if v else "background" for v in sorted(values)}
    first = cases[0].images[0]
    _check_file(first)
    sample = read(first)
    channels = tuple(f"channel_{c}" for c in range(sample.shape[0]))
    return Labelled(labels=labels, channels=channels, modality=sample.modality, cases=tuple(cases))


def _csv_case(row: Mapping[str, str | None], path: Path, number: int) -> Case:
    image, label = (row.get("image") or "").strip(), (row.get("label") or "").strip()
    split = (row.get("split") or "").strip() or None
    where = f"{path} line {number}"
    if not image:
        raise UsageError("a row names no image", where=where)
    if split is not None and split not in _SPLITS:
        raise UsageError(f"split is '{split}'", where=where, fix="train, val, test or empty")
    name = case_stem(Path(image))
    patient = (row.get("patient") or "").strip() or name
    file = path.parent / label if label else None
    return Case(name=name, images=(path.parent / image,), label=file, patient=patient, split=split)


def _long_name(case: Case, path: Path) -> str:
    relative = case.images[0].relative_to(path.parent)
    return "_".join((*relative.parts[:-1], case.name))


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
