"""Slices of labelled volumes in MedMNIST's form: a small set with known patients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medssl.archive.labelled import load_labelled, read_case
from medssl.core.seeding import generator
from pipelines._msd import read_split, runs_of_numbers

SIDE_PX = 28
# Slices of a volume, evenly spaced where either label is seen.
_SLICES = 8
_VAL = 0.15
_UINT8 = npt.NDArray[np.uint8]


def write_slices(data: Path, path: Path) -> Path:
    """Coronal slices of the hippocampus; class 0 shows more of its anterior part, 1 of the other.

    The parts are those of ``split.json``, with a share of the training runs for validation; volumes
    of consecutive numbers, which may show one subject, stay together and are one group.
    """
    if path.is_file():
        return path
    train, test = read_split(data)
    runs = runs_of_numbers(train)
    names = sorted(runs)
    order = [names[i] for i in generator(0, "slices").permutation(len(names))]
    held = set(order[: max(1, round(_VAL * len(order)))])
    group_of = {case: run for run, cases in runs.items() for case in cases}
    group_of |= {case: run for run, cases in runs_of_numbers(test).items() for case in cases}
    part_of = {case: "val" if group_of[case] in held else "train" for case in train}
    part_of |= dict.fromkeys(test, "test")
    labelled = load_labelled(data)
    found: dict[str, list[tuple[_UINT8, int, str]]] = {"train": [], "val": [], "test": []}
    for case in labelled.cases:
        if case.name not in part_of:
            continue
        array, _, label = read_case(case, labelled)
        assert label is not None  # every case of the set has one
        for picture, target in _slices(array[0], label.labels_DHW):
            found[part_of[case.name]].append((picture, target, group_of[case.name]))
    content: dict[str, npt.NDArray[Any]] = {}
    for part, rows in found.items():
        content[f"{part}_images"] = np.stack([picture for picture, _, _ in rows])
        content[f"{part}_labels"] = np.array([[target] for _, target, _ in rows], np.uint8)
        content[f"{part}_groups"] = np.array([group for _, _, group in rows])
    np.savez_compressed(path, allow_pickle=False, **content)
    return path


def _slices(x_DHW: npt.NDArray[Any], labels_DHW: npt.NDArray[Any]) -> list[tuple[_UINT8, int]]:
    """Across the second axis, from back to front; grey levels between the volume's percentiles."""
    x = x_DHW.astype(np.float64)
    low, high = np.percentile(x, [0.5, 99.5])
    grey = np.clip((x - low) / max(high - low, 1e-9), 0, 1)
    front, back = ((labels_DHW == k).sum(axis=(0, 2)) for k in (1, 2))
    shown = np.flatnonzero(front + back > 0)
    places = shown[((np.arange(_SLICES) + 0.5) * len(shown) / _SLICES).astype(int)]
    found = []
    for at in np.unique(places):
        picture = Image.fromarray(np.rint(255 * grey[:, at]).astype(np.uint8))
        small = picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
        found.append((np.asarray(small), int(back[at] > front[at])))
    return found
