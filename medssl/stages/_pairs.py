"""Predictions and references of one name, and the patients they belong to."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from medssl.archive._labelled_pictures import MASK_ENDINGS
from medssl.core.errors import MedsslError, NothingUsableError, UsageError
from medssl.core.tables import open_table
from medssl.inference.writers import PROBABILITIES
from medssl.readers._mask import is_picture

DICOM_ENDING = ".dcm"
PREVIEW = "_preview"
"""End of the name of predict's previews."""


class Pair(NamedTuple):
    """One case: its name and its two files."""

    case: str
    pred: Path
    ref: Path


def pair_files(pred: Path, ref: Path) -> list[Pair]:
    """All cases by name; volumes where there is a NIfTI or DICOM, else pictures.

    Raises:
        MedsslError: naming the first file without partner, or with two.
        UsageError: a folder does not exist, or holds volumes and pictures.
    """
    predictions, references = _nifti_files(pred), {**_dicom_files(ref), **_nifti_files(ref)}
    pictures = _picture_files(pred)
    if predictions and any(name.endswith("_seg") for name in pictures):
        fix = "put them into folders of their own; their distances have other units"
        raise UsageError("volumes and pictures are compared apart", where=str(pred), fix=fix)
    if not predictions and (pictures or not references):
        predictions, references = pictures, _picture_files(ref)
    if not predictions and not references:
        what = "no NIfTI file and no picture to compare"
        raise NothingUsableError(what, where=f"{pred}, {ref}")
    partner: dict[str, str] = {}
    for name in predictions:
        found = next((n for n in reference_names(name) if n in references), None)
        if found is None:
            raise _unpaired("prediction", "reference", predictions[name])
        if found in partner:
            what = "two predictions belong to one reference"
            raise MedsslError(what, where=f"{predictions[partner[found]]}, {predictions[name]}")
        partner[found] = name
    for name, file in references.items():
        if name not in partner:
            raise _unpaired("reference", "prediction", file)
    return [Pair(name, predictions[partner[name]], file) for name, file in references.items()]


def probabilities_of(pred: Path) -> Path:
    """Where predict writes the probabilities of a label map."""
    stem = pred.name.removesuffix(".gz").removesuffix(".nii").removesuffix(".png")
    return pred.with_name(stem.removesuffix("_seg") + PROBABILITIES)


def patients_of(groups: Path | None, pairs: list[Pair]) -> list[str]:
    """Patient of each pair; without a table every case is its own.

    Raises:
        UsageError: see :func:`by_case`; or a case without patient.
    """
    if groups is None:
        return [pair.case for pair in pairs]
    patient_of = by_case(groups, "patient")
    found = []
    for pair in pairs:
        names = (n for n in reference_names(pair.case) if n in patient_of)
        name = next(names, None)
        if name is None:
            raise UsageError("a case has no patient", where=f"{groups}: {pair.case}")
        found.append(patient_of[name])
    return found


def by_case(path: Path, column: str) -> dict[str, str]:
    """What a CSV table with the columns ``case`` and ``column`` says of each case.

    Raises:
        UsageError: no such table or column, an empty cell, a case with two values, not UTF-8.
    """
    if not path.is_file():
        raise UsageError(f"the table case,{column} does not exist", where=str(path))
    table = csv.DictReader(open_table(path))
    if not {"case", column} <= set(table.fieldnames or ()):
        fix = f"first line: case,{column} (with commas between the cells)"
        raise UsageError(f"a table lacks the columns case,{column}", where=str(path), fix=fix)
    found: dict[str, str] = {}
    for row in table:
        case, value = ((row[name] or "").strip() for name in ("case", column))
        where = f"{path} line {table.line_num}"
        if not case or not value:
            fix = "fill both cells, or take the line out"
            raise UsageError(f"a row has no case or no {column}", where=where, fix=fix)
        if found.setdefault(case, value) != value:
            raise UsageError(f"a case has two values of {column}", where=where)
    return found


def _nifti_files(folder: Path) -> dict[str, Path]:
    """Files by relative name without ending, sorted."""
    if not folder.is_dir():
        raise UsageError("the folder does not exist", where=str(folder))
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        name = file.name.removesuffix(".gz").removesuffix(".nii")
        if file.name not in {f"{name}.nii", f"{name}.nii.gz"} or name.startswith("."):
            continue
        key = (file.parent.relative_to(folder) / name).as_posix()
        if key in found:
            raise MedsslError("one case twice", where=f"{found[key]}, {file}")
        found[key] = file
    return found


def _dicom_files(folder: Path) -> dict[str, Path]:
    files = (file for file in sorted(folder.rglob(f"*{DICOM_ENDING}")) if file.name[0] != ".")
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def _picture_files(folder: Path) -> dict[str, Path]:
    """Pictures by relative name without ending, sorted; previews are left out."""
    if not folder.is_dir():
        raise UsageError("the folder does not exist", where=str(folder))
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        if not is_picture(file) or file.name[0] == "." or file.stem.endswith(PREVIEW):
            continue
        key = file.relative_to(folder).with_suffix("").as_posix()
        if key in found:
            raise MedsslError("one case twice", where=f"{found[key]}, {file}")
        found[key] = file
    return found


def reference_names(prediction: str) -> Iterable[str]:
    """Names of the reference a prediction may belong to, first choice first."""
    name = prediction.removesuffix("_seg")
    yield from (prediction, name)
    stem, _, channel = name.rpartition("_")
    if len(channel) == 4 and channel.isdigit():
        yield stem
    yield from (name + ending for ending in MASK_ENDINGS)


def _unpaired(one: str, other: str, file: Path) -> MedsslError:
    fix = f"add its {other}, or move the {one} away"
    return MedsslError(f"a {one} has no {other} of the same name", where=str(file), fix=fix)
