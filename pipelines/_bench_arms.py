"""Arms scored on the same cases over seeds: encoders of runs, and rows with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import medssl
from medssl.encoders._base import Encoder
from medssl.encoders.card import build_from_card, load_card, part_of
from medssl.evaluation.bootstrap import bootstrap_difference
from pipelines._label_curve import cell

INTERVALS = (
    "95 % intervals: Student's t over seeds, groups of cases drawn 10,000 times; differences are "
    "paired by seed and case."
)


def index_all(catalog: Path, folder: Path, modality: str) -> None:
    """A catalog of all images of a folder, all to train on."""
    if not catalog.is_dir():
        split = {"train": 1.0, "val": 0.0, "test": 0.0}
        medssl.index(archive=folder, out=catalog, split=split, modality=modality)


def encoder_of(run: Path) -> Encoder:
    """Pretrained encoder of a run."""
    card, weights = load_card(run)
    encoder = build_from_card(card)
    encoder.load_state_dict(part_of(weights, "encoder"), strict=True)
    return encoder


def scored_rows(
    scores: Mapping[str, Sequence[Sequence[float]]], groups: Sequence[str], bases: Sequence[str]
) -> list[list[str]]:
    """Arm, mean, and the difference from each base: one row per arm.

    Args:
        scores: (S, N) scores of 0 to 1 per arm, seeds and cases in the same places.
        groups: of the N cases.
        bases: arms to compare with.
    """
    values = {arm: np.array(found) for arm, found in scores.items()}
    rows = []
    for arm, found_SN in values.items():
        mean = bootstrap_difference(found_SN, np.zeros_like(found_SN), groups).within(0, 1)
        gains = [
            "" if arm == base else cell(bootstrap_difference(found_SN, values[base], groups), "+")
            for base in bases
        ]
        rows.append([arm, cell(mean), *gains])
    return rows
