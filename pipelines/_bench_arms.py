"""Arms scored on the same cases over seeds: encoders of runs, and rows with paired intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

import medssl
from medssl.encoders._base import Encoder
from medssl.encoders.card import build_from_card, load_card, part_of
from medssl.evaluation.bootstrap import bootstrap_difference
from pipelines._bench_sets import Set
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
    one: Set, encoders: Callable[[int], Mapping[str, Encoder]], seeds: int, bases: Sequence[str]
) -> list[list[str]]:
    """Arm, mean, and the difference from each base: one row per arm.

    Args:
        one: scores frozen features from 0 to 1.
        encoders: an encoder per arm, the same arms for every seed.
        seeds: how many.
        bases: arms to compare with.
    """
    scores: dict[str, list[list[float]]] = {}
    for seed in range(seeds):
        for arm, encoder in encoders(seed).items():
            scores.setdefault(arm, []).append((score := one.score(encoder, seed)).values)
    groups = score.groups
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
