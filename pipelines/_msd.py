"""Parts of a Medical Segmentation Decathlon folder, as folders of links."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path


def read_split(data: Path) -> tuple[list[str], list[str]]:
    """Training and test cases of ``split.json``."""
    split = json.loads((data / "split.json").read_text(encoding="utf-8"))
    return split["train"], split["test"]


def link_cases(data: Path, folder: Path, cases: Iterable[str]) -> Path:
    """A data set of these cases alone; files are links to ``data``."""
    names = sorted(cases)
    content = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    content["training"] = [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name in names
    ]
    content["numTraining"] = len(names)
    content["test"] = []
    for part in ("imagesTr", "labelsTr"):
        shutil.rmtree(folder / part, ignore_errors=True)  # links of another choice
        (folder / part).mkdir(parents=True)
        for name in names:
            link = folder / part / f"{name}.nii.gz"
            link.symlink_to((data / part / link.name).resolve())
    (folder / "dataset.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    return folder


def groups_of(cases: Iterable[str]) -> dict[str, str]:
    """Group of each case, by :func:`runs_of_numbers`."""
    return {case: group for group, own in runs_of_numbers(cases).items() for case in own}


def runs_of_numbers(cases: Iterable[str]) -> dict[str, list[str]]:
    """Cases by run of consecutive numbers: neighbours may show one subject.

    >>> runs_of_numbers(["h_001", "h_002", "h_004"])
    {'h_001': ['h_001', 'h_002'], 'h_004': ['h_004']}
    """
    groups: dict[str, list[str]] = {}
    last, first = -2, ""
    for case in sorted(cases):
        number = int(re.findall(r"\d+", case)[-1])
        if number != last + 1:
            first = case
        groups.setdefault(first, []).append(case)
        last = number
    return groups
