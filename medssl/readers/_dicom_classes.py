"""Whether a DICOM header agrees with itself on what kind of object this is.

What it is decides what is done with it: a segmentation must not become an image, and an ultrasound
picture must not escape the masking of its banner.
"""

from __future__ import annotations

from medssl.core.errors import ReadError
from medssl.readers._dicom_tags import Elements

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_US = frozenset({"US", "IVUS"})
# PS3.3: Modality of the objects that have only one; others (secondary captures) may be anything.
_MODALITIES = {
    frozenset({"CT"}): ("2", "2.1", "2.2"),
    frozenset({"MR"}): ("4", "4.1", "4.3", "4.4"),
    frozenset({"PT"}): ("128", "128.1", "130"),
    frozenset({"NM"}): ("20",),
    _US: ("3", "3.1", "6", "6.1", "6.2"),
}
_FITTING = {f"{_STORAGE}{end}": fit for fit, ends in _MODALITIES.items() for end in ends}


def sop_class_of(elements: Elements, where: str) -> str:
    """The SOP class, as file header and data set agree on; empty if there is none.

    Raises:
        ReadError: ``header_contradiction`` if they do not.
    """
    stated, stored = elements.text("SOPClassUID"), elements.text("MediaStorageSOPClassUID")
    if stated and stored and stated != stored:
        what = "the file header and the data set name different SOP classes"
        raise ReadError("header_contradiction", what, where=where)
    return stated or stored


def check_modality(elements: Elements, sop_class: str, where: str) -> None:
    """Compare the modality of an image with its SOP class.

    Raises:
        ReadError: ``header_contradiction``.
    """
    modality, fitting = elements.text("Modality"), _FITTING.get(sop_class)
    # Without a modality a volume is still one; an ultrasound picture would lose its masking.
    if fitting and modality not in fitting and (modality or fitting is _US):
        raise ReadError("header_contradiction", "SOP class and modality disagree", where=where)
