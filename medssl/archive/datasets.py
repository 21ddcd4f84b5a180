"""``dataset.json`` of the Medical Segmentation Decathlon and of nnU-Net."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.core.errors import ReadError
from medssl.core.sample import UNKNOWN
from medssl.readers._source import open_source

FILE_NAME = "dataset.json"
MAX_JSON_BYTES = 64 * 2**20
_LABEL_FOLDERS = {"labelstr", "labelsts", "labels", "masks"}
_LABEL_WORD = re.compile(r"(^|[-_.])(seg|segmentation|labels?|masks?)([-_.]|$)")
_VOLUME_ENDING = re.compile(r"\.(nii|hdr|img|nrrd|nhdr|mha|mhd)(\.gz)?$")
_TEST_FOLDERS = {"imagests", "labelsts"}
# Channel names in use -> DICOM modality, by how they start.
_MODALITY_BY_START = (("ct", "CT"), ("pet", "PT"), ("pt", "PT"), ("us", "US"), ("ultrasound", "US"))
_MR_STARTS = ("mr", "t1", "t2", "flair", "adc", "dwi", "pd")


@dataclass(frozen=True)
class Hint:
    """What a data set says of the files below its folder."""

    modality: str
    labels: frozenset[Path]


def read_json(path: Path) -> dict[str, Any]:
    """The content of a ``dataset.json``.

    Raises:
        ReadError: ``bad_dataset_json``.
    """
    try:
        with open_source(path) as file:
            content = json.loads(file.read(MAX_JSON_BYTES).decode("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        what = f"dataset.json cannot be read ({type(error).__name__})"
        raise ReadError("bad_dataset_json", what, where=str(path)) from None
    if not isinstance(content, dict):
        raise ReadError("bad_dataset_json", "dataset.json holds no mapping", where=str(path))
    return content


def read_hint(path: Path) -> Hint:
    """Modality and label files of a data set; ``unknown`` and none where it does not say."""
    content = read_json(path)
    listed = content.get("training", [])
    labels = {
        path.parent / one["label"]
        for one in (listed if isinstance(listed, list) else [])
        if isinstance(one, dict) and isinstance(one.get("label"), str)
    }
    return Hint(modality_of(channel_names(content)), frozenset(labels))


def channel_names(content: dict[str, Any]) -> tuple[str, ...]:
    """Names of the channels in order (nnU-Net ``channel_names``, MSD ``modality``)."""
    named = content.get("channel_names", content.get("modality", {}))
    if not isinstance(named, dict) or not all(str(key).isdigit() for key in named):
        return ()
    return tuple(str(named[key]) for key in sorted(named, key=int))


def modality_of(names: Iterable[str]) -> str:
    """The DICOM modality that all channel names agree on, else ``unknown``.

    >>> modality_of(["T1gd", "FLAIR"]), modality_of(["CT"]), modality_of(["CT", "PET"])
    ('MR', 'CT', 'unknown')
    """
    found = {_modality(name.strip().lower()) for name in names}
    return found.pop() if len(found) == 1 else UNKNOWN


def is_label_path(relative: Path) -> bool:
    """Whether a file lies in a folder of label maps, or is a volume named as one (``x_seg.nii``).

    >>> is_label_path(Path("masks/a.png")), is_label_path(Path("a_seg.nii.gz"))
    (True, True)
    >>> is_label_path(Path("Segmentation_1.seg.nrrd")), is_label_path(Path("case_mask.mha"))
    (True, True)
    >>> is_label_path(Path("segura_t1.nii.gz"))
    False
    """
    name = relative.name.lower()
    ending = _VOLUME_ENDING.search(name)
    named = ending is not None and _LABEL_WORD.search(name[: ending.start()]) is not None
    return named or any(part.lower() in _LABEL_FOLDERS for part in relative.parts[:-1])


def is_test_path(relative: Path) -> bool:
    """Whether a file lies in a folder that its data set holds out."""
    return any(part.lower() in _TEST_FOLDERS for part in relative.parts[:-1])


def _modality(name: str) -> str:
    if name.startswith(_MR_STARTS):
        return "MR"
    return next((code for start, code in _MODALITY_BY_START if name.startswith(start)), UNKNOWN)
