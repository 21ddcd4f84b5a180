"""Mutations as data, so that a found bug can be written down and replayed.

An edit is ``(operation, file, ...)``: ``set`` offset hex, ``cut`` length, ``delete`` start stop,
``repeat`` start stop, ``text`` old new, ``tag`` keyword value, ``drop``, ``copy`` new name,
``rename`` new name.
"""

import io
import re

import pydicom
from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword

HEADER_BYTES = 600
_ELEMENT = re.compile(rb"[\x02\x08\x10\x18\x20\x28\x54\xe0\xfe]..[\x00\x7f\xff][A-Z][A-Z]", re.S)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_ODD = (b"nan", b"inf", b"-1", b"0", b"1e308", b"99999999999", b"", b"1e-30", b"3", b"-7.5")
_KEYWORDS = (
    *("Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "SamplesPerPixel", "PlanarConfiguration", "FrameTime"),
    *("PhotometricInterpretation", "ImagePositionPatient", "ImageOrientationPatient"),
    *("PixelSpacing", "RescaleSlope", "RescaleIntercept", "SeriesInstanceUID", "Modality"),
    *("SOPClassUID", "SOPInstanceUID", "InstanceNumber", "ImageType", "SpecificCharacterSet"),
    *("SequenceOfUltrasoundRegions", "PerFrameFunctionalGroupsSequence", "SliceThickness"),
    *("SharedFunctionalGroupsSequence", "SegmentSequence", "ROIContourSequence"),
    *("StructureSetROISequence", "NumberOfTemporalPositions", "AcquisitionNumber"),
)
_VALUES = ("nan", "inf", "-1", "0", "65535", "", "1e30", "../../x", "1\\2", "1\\0\\0\\0\\1\\0")
_VALUES += ("7", "RGB", "PALETTE COLOR", "YBR_FULL_422", "1.2.840.10008.5.1.4.1.1.2", "ISO 2022")


def apply(files, edits):
    """The files after the edits."""
    files = dict(files)
    for operation, name, *rest in edits:
        if operation in {"drop", "copy", "rename"}:
            content = files[name] if operation == "copy" else files.pop(name)
            if operation != "drop":
                files[rest[0]] = content
        else:
            files[name] = _EDITS[operation](files[name], *rest)
    return files


def mutation(files, rng):
    """Random edits of one to three files."""
    edits = []
    count = int(rng.choice([1, 1, 1, 2, 3]))
    for _ in range(count):
        # Edits of one mutation never touch what another one dropped.
        names = sorted(apply(files, edits))
        if not names:
            break
        name = str(rng.choice(names))
        drawn = [one for one in names if one in {"seg.dcm", "rt.dcm"}]
        if drawn and rng.random() < 0.7:
            name = drawn[0]  # the rest is only there to be referred to
        edits.append(_random_edit(apply(files, edits), name, rng))
    return edits


def _random_edit(files, name, rng):
    content = files[name]
    if len(files) > 1 and rng.random() < 0.08:
        target = f"copy_{name}" if rng.random() < 0.5 else str(rng.choice(sorted(files)))
        return [("drop", name), ("copy", name, target)][int(rng.integers(2))]
    if rng.random() < 0.03:
        return ("rename", name, name + str(rng.choice([".txt", ".dcm", ".nii", ".png", ".mp4"])))
    if content[128:132] == b"DICM" and rng.random() < 0.45:
        return _dicom_edit(content, name, rng)
    if name.endswith((".nrrd", ".nhdr", ".mha", ".mhd")) and rng.random() < 0.6:
        return _text_edit(content, name, rng)
    return _byte_edit(content, name, rng)


def _byte_edit(content, name, rng):
    size = len(content)
    if size < 2:
        return ("set", name, 0, rng.bytes(4).hex())
    # Half of the edits hit the header, where there is something to contradict.
    limit = min(HEADER_BYTES, size) if rng.random() < 0.5 else size
    at = int(rng.integers(limit))
    kind = rng.random()
    if kind < 0.35:
        return ("set", name, at, f"{content[at] ^ (1 << int(rng.integers(8))):02x}")
    if kind < 0.55:
        return ("set", name, at, rng.bytes(int(rng.integers(1, 9))).hex())
    if kind < 0.7:
        return ("cut", name, int(rng.integers(size)))
    stop = min(size, at + int(rng.choice([1, 2, 4, 16, 200])))
    if kind < 0.8:
        return ("delete", name, at, stop)
    if kind < 0.9:
        return ("repeat", name, at, stop)
    value = bytes([int(rng.choice([0, 255]))]) * (stop - at)
    return ("set", name, at, value.hex())


def _text_edit(content, name, rng):
    head = content[:HEADER_BYTES]
    numbers = sorted({m.group() for m in _NUMBER.finditer(head)})
    if rng.random() < 0.7 and numbers:
        old = bytes(rng.choice(numbers))
        return ("text", name, old.decode(), bytes(rng.choice(_ODD)).decode())
    lines = head.split(b"\n")
    line = bytes(lines[int(rng.integers(min(len(lines), 14)))]).decode("latin1")
    return ("text", name, line + "\n", str(rng.choice(["", line + "\n" + line + "\n", "\n"])))


def _dicom_edit(content, name, rng):
    if rng.random() < 0.5:
        return ("tag", name, str(rng.choice(_KEYWORDS)), str(rng.choice(_VALUES)))
    places = [m.start() for m in _ELEMENT.finditer(content[132:4096])]
    if not places:
        return _byte_edit(content, name, rng)
    at = 132 + places[int(rng.integers(len(places)))]
    kind = int(rng.integers(4))
    if kind == 0:  # another element number
        return ("set", name, at + 2, rng.bytes(1).hex())
    if kind == 1:  # another length
        length = [0, 1, 2, 7, 0xFF, 0xFFFE, 0xFFFF][int(rng.integers(7))]
        return ("set", name, at + 6, length.to_bytes(2, "little").hex())
    if kind == 2:  # another representation of the value
        vr = [b"SQ", b"UN", b"OB", b"US", b"DS", b"AT", b"ZZ", b"UL"][int(rng.integers(8))]
        return ("set", name, at + 4, vr.hex())
    other = 132 + places[int(rng.integers(len(places)))]
    return ("set", name, at, content[other : other + 4].hex())  # the tag of another element


def _set(content, at, value):
    new = bytes.fromhex(value)
    return content[:at] + new + content[at + len(new) :]


def _tag(content, keyword, value):
    """Set an element to a text, however wrong; a file that pydicom cannot read stays as it is."""
    try:
        with config.disable_value_validation():
            one = pydicom.dcmread(io.BytesIO(content), force=True)
            tag = tag_for_keyword(keyword)
            if tag in one:
                del one[tag]
            if "Sequence" not in keyword:
                one.add_new(tag, *_typed(tag, value))
            buffer = io.BytesIO()
            one.save_as(buffer)
    except Exception:  # noqa: BLE001 - earlier edits may have broken it in any way
        return content
    return buffer.getvalue()


def _typed(tag, value):
    """Representation and value as the dictionary wants them, else as bytes of no known kind."""
    vr = dictionary_VR(tag)
    try:
        if vr == "US":
            return vr, int(value) % 65536
        if vr in {"DS", "IS"}:
            pydicom.DataElement(tag, vr, value)
        return (vr, value) if vr not in {"AT", "SQ"} else ("UN", value.encode())
    except (ValueError, OverflowError):
        return "UN", value.encode("latin1")


_EDITS = {
    "set": _set,
    "cut": lambda content, length: content[:length],
    "delete": lambda content, start, stop: content[:start] + content[stop:],
    "repeat": lambda content, start, stop: content[:stop] + content[start:],
    "text": lambda content, old, new: content.replace(
        old.encode("latin1"), new.encode("latin1"), 1
    ),
    "tag": _tag,
}
