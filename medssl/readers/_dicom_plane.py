"""DICOM objects that are no volumes: radiographs, angiograms, photographs, secondary captures.

One file is one ``image`` (C, H, W) or, with several frames, one ``clip`` (C, T, H, W); planar
scintigrams with several views are one image per frame.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl.core.errors import ReadError
from medssl.core.geometry import Geometry
from medssl.readers._base import FileHeader, Found, Refused
from medssl.readers._dicom_pixels import is_trusted, iter_frames, pixel_refusal
from medssl.readers._dicom_tags import VOLUME_MODALITIES, Elements, is_lossy
from medssl.readers._dicom_timing import frame_times_s
from medssl.readers._dicom_values import value_dtype

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# Volumes in several frames: of the breast or angiographic, of ultrasound, of the eye.
_VOLUME_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.13.1.",
    "1.2.840.10008.5.1.4.1.1.6.2",
    "1.2.840.10008.5.1.4.1.1.77.1.5.4",
)
_PICTURES = {"ES", "GM", "IVUS", "OP", "US", "XC"}
# PixelSpacing of these lies in the detector unless the header says that it was corrected.
_PROJECTIONS = {"CR", "DX", "MG", "XA", "RF", "IO", "PX"}
_CORRECTED = {"GEOMETRY", "FIDUCIAL"}
_SPACING_TOLERANCE = 1e-4
# Third value of ImageType of scintigrams (PS3.3 C.8.4.9.1.1.3) whose frames are single views.
_VIEWS = {"STATIC", "WHOLE BODY"}
_CLIPS = {"DYNAMIC", "GATED"}
# Nine hours at 30 frames per second.
_MAX_FRAMES = 10**6


def is_plane(tags: dict[str, Any]) -> bool:
    """Whether an object is an image or clip of its own, not a slice or a volume."""
    if _is_secondary(tags):
        return True
    if tags["class"].startswith(_VOLUME_CLASSES):
        return False
    if tags["modality"] in _PROJECTIONS | _PICTURES:
        return True
    if tags["modality"] == "NM":
        return "TOMO" not in tags["image_type"] and not tags["position_mm"]
    return tags["modality"] not in VOLUME_MODALITIES and not tags["position_mm"]


def _is_secondary(tags: dict[str, Any]) -> bool:
    # Its multi-frame forms are below it; endoscopy (77.1) is not.
    return f"{tags['class']}.".startswith(f"{_SECONDARY_CAPTURE}.")


def plane_tags(elements: Elements, tags: dict[str, Any], size: int) -> dict[str, Any]:
    """What :func:`planes_found` needs beside the common tags, JSON-able.

    Args:
        elements: the header.
        tags: :func:`medssl.readers._dicom_tags.tags_of` of it.
        size: bytes of the file.
    """
    spacing_mm, flags = _spacing(elements, tags["modality"])
    refused = _refusal(elements, tags, size)
    times_s: list[float] | None = None
    if tags["frames"] > 1 and not refused:
        times_s, time_flags = frame_times_s(elements, tags["frames"])
        flags += time_flags
    if tags["photometric"] == "MONOCHROME1":
        flags += ("monochrome1",)
    if is_lossy(tags["syntax"]):
        flags += ("lossy",)
    secondary = _is_secondary(tags)
    if secondary:
        flags += ("secondary_capture",)
    burned_in = elements.text("BurnedInAnnotation").upper()
    if burned_in == "YES" or (secondary and burned_in != "NO"):
        flags += ("burned_in_text_possible",)
    return {
        "spacing_mm": spacing_mm,
        "times_s": times_s,
        "flags": list(flags),
        "secondary": secondary,
        "window": _window(elements),
        "refused": refused,
    }


def planes_found(headers: Sequence[FileHeader]) -> tuple[list[Found], list[Refused]]:
    """Records of headers whose tags hold ``plane``; every file ends in one of the two lists."""
    found: list[Found] = []
    refused: list[Refused] = []
    parts = object_parts(headers)
    for one, part in zip(headers, parts, strict=True):
        bad = one.tags["plane"]["refused"]
        if bad:
            refused.append(Refused(files=(one.path,), reason=bad[0], message=bad[1]))
            continue
        found += _records(one, part)
    return found, refused


def object_parts(headers: Sequence[FileHeader]) -> list[str]:
    """What tells the objects of one series apart, by InstanceNumber; empty if there is one."""
    numbers = [one.tags["extra"].get("InstanceNumber") for one in headers]
    if len(headers) == 1:
        return [""]
    doubled = Counter(numbers)
    parts, copies = [], Counter[float | None]()
    for number in numbers:
        name = "InstanceNumber=unknown" if number is None else f"InstanceNumber={number:.0f}"
        if doubled[number] > 1:
            copies[number] += 1
            name += f";Object={copies[number]}"
        parts.append(name)
    return parts


def load_plane(
    found: Found, tags: dict[str, Any], frames: Sequence[int] | None
) -> npt.NDArray[Any]:
    """(C, H, W) of an image or (C, T, H, W) of a clip.

    Raises:
        ReadError: see :func:`medssl.readers._dicom_pixels.open_frames`.
    """
    single = found.options.get("frame")
    picked = [single] if single is not None else frames
    planes = [channels_first(x) for x in iter_frames(found.files[0], tags, picked)]
    if found.geometry.kind == "image":
        return planes[0].astype(found.dtype, copy=False)
    shape = (found.shape[0], len(planes), *found.shape[2:])
    x_CTHW = np.empty(shape, dtype=found.dtype)
    for number, x_CHW in enumerate(planes):
        if x_CHW.shape != (shape[0], *shape[2:]):
            raise ReadError("changed", "the file changed its size since the index")
        x_CTHW[:, number] = x_CHW
    return x_CTHW


def channels_first(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(H, W) or (H, W, 3) -> (C, H, W)."""
    return x[None] if x.ndim == 2 else np.moveaxis(x, -1, 0)


def base_record(one: FileHeader) -> dict[str, Any]:
    """The fields of :class:`Found` that every record of a file shares."""
    tags = one.tags
    return {
        "files": (one.path,),
        "modality": tags["modality"],
        "units": tags["units"],
        "role": "derived" if tags["plane"]["secondary"] else "image",
        "patient": tags["patient"],
        "study": tags["study"],
        "series": tags["series"] or one.key.partition("/")[2],
        "series_number": tags["series_number"],
        "labels": tags["labels"],
    }


def objects_of(tags: dict[str, Any], part: str = "") -> str:
    """What copies of one picture (of a ``part`` of a file) have in common.

    Anonymisers that give many pictures one UID leave their size and their times.
    """
    if not tags["object"]:
        return ""
    size = [tags["rows"], tags["columns"], tags["frames"], tags["bits_stored"]]
    content = [tags["object"], *size, tags["split"], part]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _records(one: FileHeader, part: str) -> list[Found]:
    tags, plane = one.tags, one.tags["plane"]
    size = (tags["rows"], tags["columns"])
    channels = 1 if tags["photometric"].startswith("MONOCHROME") else 3
    fields = base_record(one) | {"format": "dicom", "dtype": value_dtype(tags)}
    fields["flags"] = tuple(plane["flags"])
    fields["objects"] = objects_of(tags)
    options: dict[str, Any] = {"plane": True, "uncompressed": is_trusted(tags["syntax"])}
    if plane["window"]:
        options["window"] = plane["window"]
    spacing = tuple(plane["spacing_mm"]) if plane["spacing_mm"] else None
    image = Geometry(kind="image", spacing_mm=spacing)
    shape: tuple[int, ...] = (channels, *size)
    if tags["frames"] == 1:
        return [Found(**fields, shape=shape, geometry=image, part=part, options=options)]
    if tags["modality"] == "NM" and _image_kind(tags) in _VIEWS:
        # Times between views mean nothing.
        fields["flags"] = tuple(f for f in plane["flags"] if "frame_time" not in f)
        fields |= {"shape": shape, "geometry": image}
        return [
            Found(
                **fields | {"objects": objects_of(tags, str(n))},
                part=joined(part, f"Frame={n + 1}"),
                options=options | {"frame": n},
            )
            for n in range(tags["frames"])
        ]
    times = tuple(plane["times_s"]) if plane["times_s"] else None
    clip = Geometry(kind="clip", spacing_mm=spacing, frame_times_s=times)
    shape = (channels, tags["frames"], *size)
    return [Found(**fields, shape=shape, geometry=clip, part=part, options=options)]


def joined(*parts: str) -> str:
    """Parts that are not empty, as one."""
    return ";".join(part for part in parts if part)


def _refusal(elements: Elements, tags: dict[str, Any], size: int) -> tuple[str, str] | None:
    bad = pixel_refusal(elements, size)
    if bad:
        return bad
    if tags["frames"] > _MAX_FRAMES:
        return "too_large", f"{tags['frames']} frames in one file"
    if tags["frames"] > size:
        return "frames_mismatch", f"{tags['frames']} frames in a file of {size} bytes"
    if tags["rescale"] is None:
        return "bad_scaling", "rescale slope or intercept is no number, or the slope is zero"
    if tags["modality"] == "NM" and tags["frames"] > 1:
        kind = _image_kind(tags)
        if kind not in _VIEWS | _CLIPS:
            return "unsupported_multiframe", "a scintigram whose frames are neither views nor times"
    return None


def _image_kind(tags: dict[str, Any]) -> str:
    """Third value of ImageType."""
    values = str(tags["image_type"]).split("\\")
    return values[2] if len(values) > 2 else ""


def _spacing(elements: Elements, modality: str) -> tuple[list[float] | None, tuple[str, ...]]:
    """(H, W) in mm, and whether it lies in the detector instead of the patient."""
    pixel = _positive(elements, "PixelSpacing")
    imager = _positive(elements, "ImagerPixelSpacing")
    nominal = _positive(elements, "NominalScannedPixelSpacing")
    if pixel and modality in _PROJECTIONS:
        corrected = elements.text("PixelSpacingCalibrationType").upper() in _CORRECTED
        same = imager is None or np.allclose(pixel, imager, rtol=_SPACING_TOLERANCE)
        return pixel, () if corrected or not same else ("imager_spacing",)
    if pixel:
        return pixel, ()
    if imager:
        return imager, ("imager_spacing",)
    if nominal:
        return nominal, ("nominal_spacing",)
    stated = [elements.has("PixelSpacing"), elements.has("ImagerPixelSpacing")]
    return None, ("bad_spacing",) if any(stated) and _not_empty(elements) else ()


def _not_empty(elements: Elements) -> bool:
    return bool(elements.text("PixelSpacing") or elements.text("ImagerPixelSpacing"))


def _positive(elements: Elements, keyword: str) -> list[float] | None:
    numbers = elements.numbers(keyword, 2)
    return numbers if numbers and min(numbers) > 0 else None


def _window(elements: Elements) -> list[float] | None:
    """[centre, width] for display; never applied to values."""
    centre, width = elements.numbers("WindowCenter"), elements.numbers("WindowWidth")
    return [centre[0], width[0]] if centre and width and width[0] > 0 else None
