"""Labelled cases of a folder or of phantoms: those to learn from and those to test on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import medssl
from pipelines._msd import link_cases, read_split, runs_of_numbers


class Cases(NamedTuple):
    """Cases by group; those of one group may show one patient.

    Attributes:
        folder: Decathlon layout.
    """

    folder: Path
    pool: dict[str, list[str]]
    test: dict[str, list[str]]

    @property
    def groups(self) -> dict[str, str]:
        """Group of each test case."""
        return {case: group for group, cases in self.test.items() for case in cases}

    def link(self, out: Path) -> None:
        """Write ``out/train`` and ``out/test``, data sets of one part each."""
        for name, part in (("train", self.pool), ("test", self.test)):
            link_cases(self.folder, out / name, [case for cases in part.values() for case in cases])


def cases_of(
    data: Path | None, phantom: Path, *, patients: int, modality: str = "MR", tested: int | None
) -> Cases:
    """Of a folder with a ``split.json``, else of phantoms; at most ``tested`` groups to test on."""
    if data is None:
        folder = phantom / "labelled"
        pool, test = phantoms(phantom, patients, modality)
    else:
        folder = data
        pool, test = (runs_of_numbers(cases) for cases in read_split(data))
    return Cases(folder, pool, dict(list(test.items())[:tested]))


def phantoms(
    folder: Path, patients: int, modality: str = "MR"
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Labelled phantoms, each its own group, to train on and to test on."""
    if not (folder / "run.json").is_file():
        medssl.phantom(out=folder, patients=patients, labelled=modality, overwrite=True)
    images = (folder / "labelled" / "imagesTr").glob("*.nii.gz")
    cases = sorted(path.name.removesuffix(".nii.gz") for path in images)
    first = len(cases) // 3
    return {case: [case] for case in cases[first:]}, {case: [case] for case in cases[:first]}
