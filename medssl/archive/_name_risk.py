"""File and folder names that look like a person's name, a date or a number; only counted.

A heuristic over spelling: a hit is no proof of a name, and no hit is no proof of its absence.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath

_DATE = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0?[1-9]|[12]\d|3[01])[-_.](?:0?[1-9]|1[0-2])[-_.](?:19|20)?\d\d)(?!\d)"
)
# Record, insurance and accession numbers; shorter ones count slices. A UID is no such number.
_NUMBER = re.compile(r"(?<![\d.])\d{6,12}(?![\d.]*\d)")
_UID = re.compile(r"\d+(?:\.\d+){4,}")
# Two capitalised words beside each other: DOE^JOHN, Doe_Jane, Doe, Jane.
_WORD = r"[^\W\d_](?:[^\W\d_]|['\u2019])+"
_NAME = re.compile(rf"(?<![^\W\d_])(?=({_WORD})(?:\^|,\s*|[_\s.-])({_WORD}))")
# Words of the trade that stand capitalised in names of files and folders.
_TRADE = {
    *("abdomen", "adc", "angio", "anon", "anonymous", "aorta", "app", "arm", "art"),
    *("arterial", "ax", "axial", "baseline", "bone", "brain", "bravo", "breast", "calib"),
    *("case", "cases", "chest", "ciss", "clinic", "clinical", "cohort", "contrast"),
    *("control", "controls", "cor", "coronal", "ct", "cta", "cxr", "data", "dataset"),
    *("delay", "delayed", "desktop", "dicom", "dicomdir", "diff", "diffusion", "disk"),
    *("dixon", "documents", "dti", "dwi", "ecg", "echo", "enhanced", "ep", "epi", "export"),
    *("fgre", "field", "files", "film", "final", "flair", "flash", "foot", "fse", "gre"),
    *("group", "hand", "head", "heart", "hip", "image", "images", "imaging", "img"),
    *("interactive", "iso", "kidney", "knee", "label", "labels", "late", "left", "legacy"),
    *("liver", "loc", "localizer", "long", "lossless", "lossy", "lspine", "lung", "main"),
    *("map", "mask", "masks", "med", "medical", "mip", "mprage", "mr", "mra", "mri"),
    *("native", "neck", "new", "no", "noise", "normal", "of", "old", "original", "os"),
    *("other", "palette", "part", "patient", "patients", "pd", "pelvis", "perfusion", "pet"),
    *("phantom", "phase", "philips", "plain", "portal", "post", "pre", "prostate"),
    *("protocol", "pt", "qc", "raw", "readme", "recon", "reference", "report", "research"),
    *("results", "rf", "rgb", "right", "run", "sag", "sagittal", "sample", "scan", "scans"),
    *("scout", "screenshot", "se", "seg", "segmentation", "sensor", "seq", "sequence"),
    *("series", "session", "set", "short", "shoulder", "siemens", "sinus", "slab", "slice"),
    *("slices", "smart", "soft", "spgr", "spin", "spine", "spleen", "split", "std", "stir"),
    *("study", "subject", "surgery", "survey", "swi", "table", "test", "tests", "thin"),
    *("thorax", "time", "tissue", "tof", "torso", "train", "training", "trial", "tse"),
    *("ultrasound", "us", "validation", "venous", "version", "vessel", "video", "videos"),
    *("visit", "volume", "volumes", "wb", "whole", "window", "with", "xa", "xray"),
}


def kinds_of(name: str) -> set[str]:
    """Which of ``name``, ``date``, ``number`` one file or folder name looks like.

    >>> sorted(kinds_of("DOE^JOHN 1961-03-12")), kinds_of("CT_Thorax_0012.dcm")
    (['date', 'name'], set())
    """
    without_uids = _UID.sub(" ", name)
    found = {"date"} if _DATE.search(without_uids) else set()
    if _NUMBER.search(_DATE.sub(" ", without_uids)):
        found.add("number")
    if any(_may_name(first) and _may_name(last) for first, last in _NAME.findall(name)):
        found.add("name")
    return found


def count_kinds(paths: Iterable[PurePath]) -> Counter[str]:
    """How many different files and folders look like each kind.

    Args:
        paths: relative to the archive.
    """
    counts: Counter[str] = Counter()
    folders: set[PurePath] = set()
    for path in paths:
        counts.update(kinds_of(path.name))
        for parent in path.parents:
            if parent in folders or not parent.name:
                break
            folders.add(parent)
    for folder in folders:
        counts.update(kinds_of(folder.name))
    return counts


def _may_name(word: str) -> bool:
    return word[0].isupper() and len(word) > 2 and word.lower() not in _TRADE
