"""Values of DICOM headers that may reach records: from fixed lists, or numbers.

Anything else in a header may be free text, and free text may name a person.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medssl.readers._dicom_tags import Elements

# Tags that tell volumes of one series apart, in the order in which splitting tries them.
SPLIT_NUMBERS = (
    *("EchoTime", "DiffusionBValue", "TemporalPositionIndex", "TemporalPositionIdentifier"),
    *("AcquisitionNumber", "InversionTime", "FlipAngle", "TriggerTime"),
)
SPLIT_TIMES = ("AcquisitionTime", "ContentTime")
COMPLEX_COMPONENTS = {"MAGNITUDE", "PHASE", "REAL", "IMAGINARY", "MIXED"}
_SIEMENS_B_VALUE = 0x0019100C
_GE_B_VALUE = 0x00431039
_GE_COMPLEX = 0x0043102F
_GE_COMPONENTS = ("MAGNITUDE", "PHASE", "REAL", "IMAGINARY")
# GE adds a multiple of this to some b-values.
_GE_B_OFFSET = 100_000

# PS3.3 C.8.9.1 (PET Units) and C.11.1 (Rescale Type).
_PET_UNITS = {
    *("CNTS", "NONE", "CM2", "CM2ML", "PCNT", "CPS", "BQML", "MGMINML", "UMOLMINML", "MLMING"),
    *("MLG", "1CM", "UMOLML", "PROPCNTS", "PROPCPS", "MLMINML", "MLML", "GML", "STDDEV"),
}
_RESCALE_TYPES = {"OD", "HU", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT"}

_VENDOR_ALIASES = {
    "general electric": "ge",
    "toshiba": "canon",
    "acuson": "siemens",
    "atl": "philips",
    "adac": "philips",
    "marconi": "philips",
    "picker": "philips",
    "fuji": "fujifilm",
    "lorad": "hologic",
    "uih": "united_imaging",
    "united imaging": "united_imaging",
    "medison": "samsung",
    "zonare": "mindray",
}
_VENDORS = {
    *("accuray", "agfa", "bruker", "canon", "carestream", "elekta", "esaote", "fujifilm", "ge"),
    *("hitachi", "hologic", "hyperfine", "kodak", "konica", "mindray", "neusoft", "olympus"),
    *("pentax", "philips", "planmeca", "samsung", "shimadzu", "siemens", "sonoscape", "sonosite"),
    *("storz", "supersonic", "swissray", "varian", "zeiss"),
}
_VENDOR_PATTERN = re.compile(
    r"(?:^|[^a-z])("
    + "|".join(sorted(_VENDORS | set(_VENDOR_ALIASES), key=len, reverse=True))
    + ")"
    r"(?![a-z]{2})"
)
# PS3.16 Annex L.
_BODY_PARTS = {
    *("ABDOMEN", "ABDOMENPELVIS", "ADRENAL", "ANKLE", "AORTA", "ARM", "AXILLA", "BACK", "BILEDUCT"),
    *("BLADDER", "BRAIN", "BREAST", "BRONCHUS", "BUTTOCK", "CALCANEUS", "CALF", "CAROTID"),
    *("CEREBELLUM", "CERVIX", "CHEEK", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "CIRCLEOFWILLIS"),
    *("CLAVICLE", "COCCYX", "COLON", "CORNEA", "CORONARYARTERY", "CSPINE", "CTSPINE", "DUODENUM"),
    *("EAR", "ELBOW", "ESOPHAGUS", "EXTREMITY", "EYE", "EYELID", "FACE", "FEMUR", "FINGER", "FOOT"),
    *("FOREARM", "GALLBLADDER", "HAND", "HEAD", "HEADNECK", "HEART", "HIP", "HUMERUS", "IAC"),
    *("ILEUM", "ILIUM", "INTESTINE", "JAW", "JEJUNUM", "KIDNEY", "KNEE", "LARYNX", "LEG", "LIVER"),
    *("LSPINE", "LSSPINE", "LUNG", "MANDIBLE", "MAXILLA", "MEDIASTINUM", "MOUTH", "NECK"),
    *("NECKCHEST", "NECKCHESTABDOMEN", "NECKCHESTABDPELV", "NOSE", "ORBIT", "OVARY", "PANCREAS"),
    *("PAROTID", "PATELLA", "PELVIS", "PENIS", "PHARYNX", "PITUITARY", "PROSTATE", "RADIUS"),
    *("RECTUM", "RENAL", "RIB", "SCALP", "SCAPULA", "SCLERA", "SCROTUM", "SHOULDER", "SINUS"),
    *("SKIN", "SKULL", "SPINE", "SPLEEN", "SSPINE", "STERNUM", "STOMACH", "TESTIS", "THIGH"),
    *("THORAX", "THUMB", "THYMUS", "THYROID", "TIBIA", "TLSPINE", "TMJ", "TOE", "TONGUE"),
    *("TRACHEA", "TSPINE", "ULNA", "URETER", "URETHRA", "UTERUS", "VAGINA", "WHOLEBODY", "WRIST"),
}
# PS3.3 C.8.3.1 and C.8.11.7 with the codes of mammography.
_VIEWS = {
    *("AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO", "LATERAL", "LAT", "OBL", "OBLIQUE"),
    *("CC", "MLO", "ML", "LM", "LMO", "XCCL", "XCCM", "FB", "SIO", "ISO", "CV", "AT", "SPECIMEN"),
}
# Values of ImageType and FrameType that name a kind of picture; vendors add words of their own.
IMAGE_TYPES = {
    *("ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "AXIAL", "LOCALIZER", "MPR", "MIP", "MINIP"),
    *("M", "P", "R", "I", "MAGNITUDE", "PHASE", "REAL", "IMAGINARY", "MIXED", "PHASE MAP", "MAG"),
    *("W", "F", "IP", "OP", "IN", "OUT", "WATER", "FAT", "IN_PHASE", "OUT_PHASE", "OPP_PHASE"),
    *("FAT_FRACTION", "WATER_FRACTION", "T1", "T2", "T2_STAR", "R2_STAR", "T1 MAP", "T2 MAP"),
    *("M_FFE", "P_FFE", "R_FFE", "I_FFE", "M_SE", "P_SE", "M_IR", "FFE", "SE", "IR", "EPI"),
    *("ADC", "TRACEW", "TRACE", "FA", "DIFFUSION", "TENSOR", "B0", "EADC", "COLFA", "PERFUSION"),
    *("CBF", "CBV", "MTT", "TTP", "TMAX", "ASL", "SUBTRACTION", "SUB", "MEAN", "AVERAGE", "STD"),
    *("ND", "NORM", "DIS2D", "DIS3D", "MOSAIC", "FM", "MOCO", "SNR MAP", "REFORMATTED", "OTHER"),
    *("NONE", "RESAMPLED", "PROJECTION IMAGE", "DIXON", "STATIC", "DYNAMIC", "GATED", "WHOLE BODY"),
    *("TOMO", "RECON TOMO", "RECON GATED TOMO", "EMISSION", "TRANSMISSION", "ATTENCORR", "VOLUME"),
    *("MONOENERGETIC", "VMI", "MATERIAL", "IODINE", "FIELD_MAP", "B0_MAP", "B1", "VELOCITY"),
}
_SCANNING_SEQUENCES = ("SE", "IR", "GR", "EP", "RM")
_PULSES = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}
_SEQUENCE_VARIANTS = ("MP", "TOF")


def splits_of(elements: Elements) -> dict[str, Any]:
    """Numbers and codes by keyword that tell volumes of one series apart; only what is there."""
    found: dict[str, Any] = {}
    for keyword in SPLIT_NUMBERS:
        number = elements.numbers(keyword, 1)
        if number is not None:
            found[keyword] = number[0]
    for keyword in SPLIT_TIMES:
        text = elements.text(keyword)
        if re.fullmatch(r"\d{2,6}(\.\d{1,6})?", text):
            found[keyword] = text
    gradient = elements.numbers("DiffusionGradientOrientation", 3)
    if gradient is not None:
        found["DiffusionGradientOrientation"] = gradient
    if "DiffusionBValue" not in found:
        found.update(_private_b_value(elements))
    kernel = elements.text("ConvolutionKernel")
    if kernel:
        found["ConvolutionKernel"] = kernel
    component = elements.text("ComplexImageComponent").upper() or _ge_component(elements)
    if component in COMPLEX_COMPONENTS:
        found["ComplexImageComponent"] = component
    return found


def labels_of(elements: Elements) -> dict[str, str]:
    """Raw free labels, see :data:`medssl.readers._base.FREE_LABELS`; only what is there."""
    view = elements.text("ViewPosition").upper()
    side = (elements.text("ImageLaterality") or elements.text("Laterality")).upper()
    date = elements.text("StudyDate").replace(".", "")
    site = (elements.text("InstitutionName"), elements.text("StationName"))
    found = {
        "body_part": _body_part(elements.text("BodyPartExamined")),
        "view": view if view in _VIEWS else "",
        "laterality": side if side in {"R", "L", "B", "U"} else "",
        "vendor": vendor_of(elements.text("Manufacturer")),
        "sequence": _sequence(elements),
        "contrast": _contrast(elements),
        "site": "|".join(site) if any(site) else "",
        "date": date if re.fullmatch(r"(19|20)\d{6}", date) else "",
    }
    return {name: value for name, value in found.items() if value}


def units_of(elements: Elements, modality: str) -> str:
    """Units of the rescaled values; empty where the header does not say."""
    if modality == "PT":
        units = elements.text("Units").upper()
        return units if units in _PET_UNITS else ""
    stated = elements.text("RescaleType").upper()
    if stated:
        return stated if stated in _RESCALE_TYPES else ""
    # PS3.3 C.8.2.1: CT values are Hounsfield units unless RescaleType says otherwise.
    return "HU" if modality == "CT" and elements.has("RescaleIntercept") else ""


def vendor_of(manufacturer: str) -> str:
    """Maker of the device, one name for all its spellings; empty if not in the list."""
    match = _VENDOR_PATTERN.search(manufacturer.lower())
    return _VENDOR_ALIASES.get(match[1], match[1]) if match else ""


def _body_part(text: str) -> str:
    word = re.sub(r"[^A-Z]", "", text.upper())
    return word.lower() if word in _BODY_PARTS else ""


def _sequence(elements: Elements) -> str:
    scanning = elements.text("ScanningSequence").upper().split("\\")
    if scanning == [""]:  # enhanced objects
        scanning = _PULSES.get(elements.text("EchoPulseSequence").upper(), [])
        scanning = scanning + ["EP"] * (elements.text("EchoPlanarPulseSequence").upper() == "YES")
    variants = elements.text("SequenceVariant").upper().split("\\")
    words = [one for one in _SCANNING_SEQUENCES if one in scanning]
    return "_".join(words + [one for one in _SEQUENCE_VARIANTS if words and one in variants])


def _contrast(elements: Elements) -> str:
    agent = elements.text("ContrastBolusAgent").upper()
    if agent in {"NO", "NONE", "N", "WITHOUT"}:
        return "no"
    return "yes" if agent or elements.has("ContrastBolusAgentSequence") else ""


def _private_b_value(elements: Elements) -> dict[str, float]:
    siemens = _first_number(elements.bytes_at(_SIEMENS_B_VALUE))
    if siemens is not None:
        return {"DiffusionBValue": siemens}
    ge = _first_number(elements.bytes_at(_GE_B_VALUE))
    return {} if ge is None else {"DiffusionBValue": ge % _GE_B_OFFSET}


def _first_number(content: bytes) -> float | None:
    """First of the decimal numbers in the text of an IS element."""
    match = re.match(rb"\s*(\d{1,12})\s*(?:\\|\0|$)", content)
    return float(match[1]) if match else None


def _ge_component(elements: Elements) -> str:
    content = elements.bytes_at(_GE_COMPLEX)
    code = int.from_bytes(content, "little") if len(content) == 2 else len(_GE_COMPONENTS)
    return _GE_COMPONENTS[code] if code < len(_GE_COMPONENTS) else ""
