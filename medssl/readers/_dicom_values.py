"""From stored pixel values to what they mean: used bits, colour, modality transform."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, convert_color_space
from pydicom.uid import UID

from medssl.core.errors import ReadError
from medssl.readers._dicom_tags import Elements, whole

AnyArray = npt.NDArray[Any]

_GREY = {"MONOCHROME1", "MONOCHROME2"}
_PALETTE = "PALETTE COLOR"
_YBR = {"YBR_FULL", "YBR_FULL_422"}
# The JPEG 2000 decoder undoes these two.
_COLOUR = {"RGB", "YBR_ICT", "YBR_RCT", *_YBR}
_FLOAT_BITS = {32: "float32", 64: "float64"}


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """The Image Pixel Module (PS3.3 C.7.6.3), checked."""

    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    planar: int
    is_float: bool

    @classmethod
    def of(cls, elements: Elements) -> PixelFormat:
        """The format that a header states, unchecked."""
        allocated = whole(elements, "BitsAllocated") or 0
        stored = whole(elements, "BitsStored")
        high_bit = whole(elements, "HighBit")
        # PS3.3 C.7.6.24: float pixels have no stored bits and no sign.
        has_sign = elements.has("PixelRepresentation")
        is_float = stored is None and not has_sign and allocated in _FLOAT_BITS
        if stored is None or (not has_sign and elements.text("SamplesPerPixel") == "1"):
            stored = allocated if is_float else 0  # required, and never guessed
        return cls(
            rows=whole(elements, "Rows") or 0,
            columns=whole(elements, "Columns") or 0,
            frames=_stated(elements, "NumberOfFrames"),
            samples=_stated(elements, "SamplesPerPixel"),
            photometric=elements.text("PhotometricInterpretation"),
            bits_allocated=allocated,
            bits_stored=stored,
            high_bit=stored - 1 if high_bit is None else high_bit,
            signed=bool(whole(elements, "PixelRepresentation")),
            planar=whole(elements, "PlanarConfiguration") or 0,
            is_float=is_float,
        )

    def refusal(self) -> tuple[str, str] | None:
        """Reason and message if these numbers describe no image that can be read."""
        if min(self.rows, self.columns, self.frames) < 1:
            return "bad_pixel_format", "rows, columns or frames are missing or not positive"
        bits = f"{self.bits_allocated} bits allocated, {self.bits_stored} stored, "
        bits += f"high bit {self.high_bit}"
        if self.bits_allocated not in {1, 8, 16, 32} and not self.is_float:
            return "unsupported_dtype", bits
        if not 1 <= self.bits_stored <= self.high_bit + 1 <= self.bits_allocated:
            return "bad_pixel_format", bits
        return self._colour_refusal()

    def _colour_refusal(self) -> tuple[str, str] | None:
        samples = {_PALETTE: 1, **dict.fromkeys(_GREY, 1), **dict.fromkeys(_COLOUR, 3)}
        if self.photometric not in samples:
            return "unsupported_colour", "the photometric interpretation is missing or not read"
        if self.samples != samples[self.photometric]:
            what = f"{self.samples} samples per pixel with {self.photometric}"
            return "bad_pixel_format", what
        if self.samples == 3 and self.planar not in {0, 1}:
            return "bad_pixel_format", f"planar configuration {self.planar}"
        if self.is_float and self.photometric != "MONOCHROME2":
            return "bad_pixel_format", f"float pixels with {self.photometric}"
        if self.photometric in _YBR and self.bits_allocated != 8:
            return "unsupported_colour", f"{self.photometric} of {self.bits_allocated} bits"
        if self.photometric == _PALETTE and self.bits_allocated not in {8, 16}:
            return "unsupported_colour", f"{self.photometric} of {self.bits_allocated} bits"
        return None

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame."""
        return self.single().bytes

    @property
    def bytes(self) -> int:
        """Bytes of all uncompressed frames; single bits are packed across frames."""
        bits = self.rows * self.columns * self.frames * self.bits_allocated
        # Two pixels share their colour: two luminances, one blue, one red.
        bits *= 2 if self.photometric == "YBR_FULL_422" else self.samples
        return math.ceil(bits / 8)

    def single(self) -> PixelFormat:
        """The format of one frame."""
        return replace(self, frames=1)

    def options(self, syntax: UID, keyword: str) -> dict[str, Any]:
        """As pydicom's decoders want them."""
        options: dict[str, Any] = {
            "transfer_syntax_uid": syntax,
            "rows": self.rows,
            "columns": self.columns,
            "number_of_frames": self.frames,
            "samples_per_pixel": self.samples,
            "photometric_interpretation": self.photometric,
            "pixel_keyword": keyword,
            "bits_allocated": self.bits_allocated,
            "planar_configuration": self.planar,
            "allow_excess_frames": False,
        }
        if keyword == "PixelData":
            options["bits_stored"] = self.bits_stored
            options["pixel_representation"] = int(self.signed)
        return options


def _stated(elements: Elements, keyword: str) -> int:
    """The number; 1 where nothing is stated, 0 (which is refused) for what is no number."""
    return (whole(elements, keyword) or 0) if elements.text(keyword) else 1


def value_dtype(tags: dict[str, Any]) -> str:
    """Smallest numpy type that holds every value of a header's frames exactly.

    RGB of a palette is 8 bits; fractional slopes give float32.
    """
    if tags["photometric"] == _PALETTE:
        return "uint8"
    bits, signed = tags["bits_stored"], tags["signed"]
    if tags["channels"] == 3:
        return f"uint{max(8, tags['bits_allocated'])}"
    if tags["float"] and tags["bits_allocated"] in _FLOAT_BITS:
        return _FLOAT_BITS[tags["bits_allocated"]]
    if tags["modality_lut"]:
        return "uint16"
    slope, intercept = tags["rescale"]
    if slope != int(slope) or intercept != int(intercept):
        return "float32"
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return smallest_dtype([low * slope + intercept, high * slope + intercept])


def smallest_dtype(bounds: list[float]) -> str:
    """Smallest integer type for these values, float64 beyond all."""
    for name in ("uint8", "int16", "uint16", "int32", "uint32", "int64"):
        limits = np.iinfo(name)
        if limits.min <= min(bounds) and max(bounds) <= limits.max:
            return name
    return "float64"


def from_stored(
    array: AnyArray,
    photometric: str,
    form: PixelFormat,
    dataset: Any,
    rescale: tuple[float, float],
) -> AnyArray:
    """Stored values -> values after the modality transform, or RGB.

    Raises:
        ReadError: ``bad_palette``, ``bad_modality_lut``.
    """
    if form.is_float:
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    stored = _used_bits(array, form)
    if photometric == _PALETTE:
        return _palette(stored, dataset)
    if form.samples == 3:
        return convert_color_space(stored, "YBR_FULL", "RGB") if photometric in _YBR else stored
    if dataset.get("ModalityLUTSequence"):
        return _through_lut(stored, dataset, inverted=photometric == "MONOCHROME1")
    if photometric == "MONOCHROME1":
        total = -1 if form.signed else 2**form.bits_stored - 1
        stored = (total - stored.astype(np.int64)).astype(stored.dtype)
    slope, intercept = rescale
    if (slope, intercept) == (1.0, 0.0):
        return stored
    return stored * np.float64(slope) + np.float64(intercept)


def _used_bits(array: AnyArray, form: PixelFormat) -> AnyArray:
    """Bits outside BitsStored may hold anything (overlays, scanner notes): shift them out."""
    size = array.dtype.itemsize
    kind = np.dtype(f"{'i' if form.signed else 'u'}{size}")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    stored = native.view(kind) if native.dtype.itemsize == size else native.astype(kind)
    if form.bits_allocated == 1:
        return stored
    up, down = size * 8 - 1 - form.high_bit, size * 8 - form.bits_stored
    return (stored << up) >> down if down > 0 else stored


def _palette(stored: AnyArray, dataset: Any) -> AnyArray:
    """Indices -> RGB of 8 bits; the low half of 16-bit entries is below what a display shows."""
    try:
        colours = np.asarray(apply_color_lut(stored, dataset))[..., :3]
    except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        what = f"the palette is missing or broken ({type(error).__name__})"
        raise ReadError("bad_palette", what) from None
    if colours.dtype == np.uint8:
        return colours
    # Some writers put 8-bit entries into 16-bit words.
    return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)


def _through_lut(stored: AnyArray, dataset: Any, *, inverted: bool) -> AnyArray:
    try:
        bits = int(dataset.ModalityLUTSequence[0].LUTDescriptor[2])
        values = np.asarray(apply_modality_lut(stored, dataset)).astype(np.uint16)
    except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        what = f"the modality look-up table is broken ({type(error).__name__})"
        raise ReadError("bad_modality_lut", what) from None
    return (2**bits - 1 - values).astype(np.uint16) if inverted else values
