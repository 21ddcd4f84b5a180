"""Who a record belongs to, and how names become salted hashes."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path

from medssl.core.runlog import write_bytes
from medssl.core.sample import Split
from medssl.readers._base import Found

SALT_NAME = "salt"
_SALT_BYTES = 32
_HEX_DIGITS = 16
_CHANNEL_SUFFIX = re.compile(r"_\d{4}$")
_BIDS_SUBJECT = re.compile(r"^sub-[A-Za-z0-9]+")
# Stems that name a sequence, not a person: the folder then tells who it is.
_GENERIC_STEM = re.compile(
    r"image|img|scan|vol(ume)?|data|ct|mri?|pet|t1(w|c|ce|gd)?|t2w?|flair|dwi|adc|pd|anat"
    r"|seg(mentation)?|labels?|mask"
)


def load_salt(folder: Path) -> bytes:
    """The catalog's secret, made on first use and readable by its owner only."""
    return load_secret(folder / SALT_NAME)


def load_secret(path: Path) -> bytes:
    """Random bytes in a file, made on first use and readable by their owner only."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, secrets.token_bytes(_SALT_BYTES), mode=0o600)
    return path.read_bytes()


def hash_id(salt: bytes, *parts: str) -> str:
    """HMAC-SHA256 of the parts, 16 hex digits; parts do not run into each other.

    >>> hash_id(b"s", "ab", "c") == hash_id(b"s", "a", "bc")
    False
    """
    message = b"\0".join(part.encode("utf-8", "surrogateescape") for part in parts)
    return hmac.new(salt, message, hashlib.sha256).hexdigest()[:_HEX_DIGITS]


def patient_of(found: Found, root: Path) -> str:
    """Raw patient id.

    DICOM (labels and ultrasound too): PatientID, else StudyInstanceUID, else the series. Files
    without ids: a BIDS ``sub-XXX`` part of the path, else the file name without suffix and channel
    number (``_0000``), else, where that names only a sequence (``t1.nii.gz``), the folder.
    """
    if found.patient or found.study:
        return found.patient or found.study
    if found.format == "dicom":
        return found.series
    relative = Path(found.files[0]).relative_to(root)
    for part in relative.parts:
        subject = _BIDS_SUBJECT.match(part)
        if subject:
            return subject.group()
    stem = case_stem(relative)
    if _GENERIC_STEM.fullmatch(stem.lower()) and relative.parent.parts:
        return str(relative.parent)
    return stem


def case_stem(path: Path) -> str:
    """File name without suffixes and channel number.

    >>> case_stem(Path("imagesTr/liver_012_0001.nii.gz"))
    'liver_012'
    """
    name = path.name
    for suffix in (".nii.gz", ".nii"):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    else:
        name = path.stem
    return _CHANNEL_SUFFIX.sub("", name)


def split_by_shares(patient: str, shares: tuple[float, float], seed: int) -> Split:
    """Split of a patient from a hash of the id: new patients never move old ones.

    Args:
        patient: raw id.
        shares: of train and of val; the rest is test.
        seed: draws another split.
    """
    digest = hashlib.sha256(f"{seed}:{patient}".encode("utf-8", "surrogateescape")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < shares[0]:
        return "train"
    return "val" if place < sum(shares) else "test"
