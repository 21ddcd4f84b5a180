"""Decoding of DICOM frames: every transfer syntax that has a permissively licensed decoder.

The plugin is named per syntax, as measured. What comes back are values after the modality
transform (rescale or look-up table), or RGB; window and VOI look-up tables are for display and are
never applied. A frame is whole or refused, never half decoded.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, ExplicitVRLittleEndian

from medssl.core.errors import ReadError
from medssl.readers._dicom_codestream import check_stream, unwrapped
from medssl.readers._dicom_frames import Fragment, frame_fragments, read_stream, unpack_bits
from medssl.readers._dicom_length import check_length
from medssl.readers._dicom_open import PARSE_ERRORS, Opened, PixelElement, opened
from medssl.readers._dicom_tags import Elements, PydicomElements
from medssl.readers._dicom_values import PixelFormat, from_stored

_IMPLICIT_LITTLE = "1.2.840.10008.1.2"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_NATIVE = {_IMPLICIT_LITTLE, "1.2.840.10008.1.2.1", _BIG_ENDIAN}
_DEFLATED = "1.2.840.10008.1.2.1.99"
_DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"
_RLE = "1.2.840.10008.1.2.5"
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_PLUGIN = {
    _RLE: "pylibjpeg",
    "1.2.840.10008.1.2.4.50": "gdcm",
    _JPEG_EXTENDED: "gdcm",
    "1.2.840.10008.1.2.4.57": "gdcm",
    "1.2.840.10008.1.2.4.70": "gdcm",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg",
}
# What pydicom and its plugins raise on broken pixel data.
_DECODE_ERRORS: tuple[type[Exception], ...] = (*PARSE_ERRORS, zlib.error)

AnyArray = npt.NDArray[Any]


def is_uncompressed(syntax: str) -> bool:
    """Whether the length of the pixels follows from the header, once the file is inflated."""
    return syntax in _NATIVE or syntax == _DEFLATED


def is_trusted(syntax: str) -> bool:
    """Whether numpy alone reads the pixels; inflating stays in the capped process."""
    return syntax in _NATIVE


def pixel_refusal(elements: Elements, size: int) -> tuple[str, str] | None:
    """Reason and message if the header alone shows that the pixels cannot be read.

    Args:
        elements: the header.
        size: bytes of the file.
    """
    form = PixelFormat.of(elements)
    if refused := form.refusal():
        return refused
    syntax = elements.text("TransferSyntaxUID") or _IMPLICIT_LITTLE
    if syntax in _NATIVE and size < form.bytes:
        return "truncated", f"the file has {size} bytes, its pixels alone take {form.bytes}"
    return None


def iter_frames(
    path: str | Path, tags: dict[str, Any], indices: Iterable[int] | None = None
) -> Iterator[AnyArray]:
    """The frames asked for, in that order, all if ``None``; the file is opened once."""
    picked = None if indices is None else list(indices)
    with open_frames(path, tags, picked) as frames:
        for index in range(frames.n) if picked is None else picked:
            yield frames.decode(index)


@contextmanager
def open_frames(
    path: str | Path, tags: dict[str, Any], picked: Sequence[int] | None = None
) -> Iterator[Frames]:
    """Open a file for the decoding of any number of its frames.

    Args:
        path: the DICOM file.
        tags: what its header said at the index; size and syntax must still be these.
        picked: the frames that will be asked for: a video decodes them in one go.

    Raises:
        ReadError: ``changed``, ``no_pixels``, ``truncated``, ``frames_mismatch``,
            ``bad_pixel_format``, ``no_decoder:<uid>``, ``corrupt_pixels``, ``too_large``.
    """
    if "video" in tags:
        from medssl.readers._video_frames import VideoFrames

        yield VideoFrames(Path(path), tags, picked)
        return
    wanted = tags["rows"] * tags["columns"] * tags["channels"] * tags["frames"]
    with opened(path, wanted * max(tags["bits_allocated"] // 8, 1)) as source:
        try:
            yield Frames(source, tags)
        except ReadError as error:
            where = error.where or str(path)
            raise ReadError(error.reason, error.what, where=where, fix=error.fix) from None
        except _DECODE_ERRORS as error:
            what = f"pixel data do not decode ({type(error).__name__})"
            raise ReadError("corrupt_pixels", what, where=str(path)) from None


class Frames:
    """The frames of one open file."""

    def __init__(self, source: Opened, tags: dict[str, Any]) -> None:
        self._source = source
        self._format = PixelFormat.of(PydicomElements(source.dataset))
        if refused := self._format.refusal():
            raise ReadError(*refused)
        self._rescale: tuple[float, float] = tags["rescale"]
        self.n = self._format.frames
        seen = (self._format.rows, self._format.columns, self.n)
        if seen != (tags["rows"], tags["columns"], tags["frames"]):
            raise ReadError("changed", "the file changed its size since the index")
        if source.pixels is None:
            raise ReadError("no_pixels", "the file holds no pixel data")
        self._pixels: PixelElement = source.pixels
        self._syntax: str = tags["syntax"]
        self._fragments: list[list[Fragment]] = []
        if is_uncompressed(self._syntax):
            check_length(self._format, self._pixels, source.size)
            return
        self._plugin = plugin_for(self._syntax, self._format.bits_stored)
        if self._pixels.length is not None:
            raise ReadError("corrupt_pixels", "compressed pixel data of defined length")
        self._fragments = frame_fragments(source.file, self._pixels.offset, self.n, source.dataset)

    def stored(self, index: int) -> tuple[AnyArray, str]:
        """Stored values of a frame (H, W) or (H, W, 3), and their photometric interpretation."""
        if not 0 <= index < self.n:
            raise ReadError("frames_mismatch", f"frame {index} of a file with {self.n}")
        if not self._fragments:
            return self._native(index)
        if self._syntax == _RLE and len(self._fragments[index]) > 1:
            raise ReadError("frames_mismatch", "a run-length frame in several fragments")
        stream = read_stream(self._source.file, self._fragments[index])
        if self._syntax == _DEFLATED_FRAME:
            return self._unpacked(_inflate(stream, self._format.frame_bytes))
        if self._syntax == _RLE and self._format.bits_allocated == 1:
            return self._unpacked(unpack_bits(stream, self._format.frame_bytes))
        return self._compressed(stream)

    def decode(
        self,
        index: int,
        *,
        rescale: tuple[float, float] | None = None,
        as_measured: bool = False,
    ) -> AnyArray:
        """Values of a frame after the modality transform, or RGB.

        Args:
            index: number of the frame, from 0.
            rescale: slope and intercept of this frame, where the file states them per frame;
                ``None`` = the ones in the header.
            as_measured: leave MONOCHROME1 as it is. It says how to display values; in a volume
                they are measurements (HU), in a radiograph they are turned, so that dense is
                bright in all of them.

        Returns:
            (H, W), float64 if rescaled; (H, W, 3) RGB for colour.

        Raises:
            ReadError: as :func:`open_frames`.
        """
        array, photometric = self.stored(index)
        wanted = (self._format.rows, self._format.columns)
        if array.shape[:2] != wanted:
            raise ReadError("corrupt_pixels", f"a frame of shape {array.shape}, not {wanted}")
        if as_measured and photometric == "MONOCHROME1":
            photometric = "MONOCHROME2"
        return from_stored(
            array, photometric, self._format, self._source.dataset, rescale or self._rescale
        )

    def _native(self, index: int) -> tuple[AnyArray, str]:
        if self._format.bits_allocated == 1 and self._syntax != _BIG_ENDIAN:
            # Frames are packed without padding; pydicom's decoder misses bits of the last byte.
            first, skip = divmod(index * self._format.rows * self._format.columns, 8)
            self._source.file.seek(self._pixels.offset + first)
            packed = self._source.file.read(self._format.frame_bytes + 1)
            return self._bits(packed, skip), self._format.photometric
        self._source.file.seek(self._pixels.offset)
        syntax = UID(self._syntax if self._syntax in _NATIVE else ExplicitVRLittleEndian)
        options = self._format.options(syntax, self._pixels.keyword)
        options |= {"pixel_vr": self._pixels.vr, "correct_unused_bits": False}
        array, properties = get_decoder(syntax).as_array(
            self._source.file, index=index, raw=True, **options
        )
        return array, str(properties["photometric_interpretation"])

    def _unpacked(self, raw: bytes) -> tuple[AnyArray, str]:
        """One frame from its uncompressed bytes."""
        one = self._format.single()
        if one.bits_allocated == 1:
            return self._bits(raw, 0), one.photometric
        options = one.options(ExplicitVRLittleEndian, "PixelData")
        options |= {"pixel_vr": "OB", "correct_unused_bits": False}
        array, properties = get_decoder(ExplicitVRLittleEndian).as_array(
            raw, index=0, raw=True, **options
        )
        return array, str(properties["photometric_interpretation"])

    def _bits(self, packed: bytes, skip: int) -> AnyArray:
        """(H, W) of single bits that begin ``skip`` bits into the bytes."""
        rows, columns = self._format.rows, self._format.columns
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
        return bits[skip : skip + rows * columns].reshape(rows, columns)

    def _compressed(self, stream: bytes) -> tuple[AnyArray, str]:
        one = self._format.single()
        colour = ""
        if self._syntax != _RLE:
            stream = unwrapped(stream)
            colour = check_stream(stream, one, self._syntax)
        options = one.options(UID(self._syntax), "PixelData")
        if one.bits_allocated == 1:
            options |= {"bits_allocated": 8}
        options |= {"planar_configuration": 0}
        if self._syntax == _RLE:
            options |= {"correct_unused_bits": False}
        array, properties = get_decoder(UID(self._syntax)).as_array(
            encapsulate([stream], has_bot=False),
            index=0,
            raw=True,
            decoding_plugin=self._plugin,
            **options,
        )
        said = str(properties["photometric_interpretation"])
        if colour and array.ndim == 3:
            said = "RGB" if colour == "RGB" else "YBR_FULL"
        return array, said


def _inflate(stream: bytes, n_bytes: int) -> bytes:
    """A deflated frame of ``n_bytes``; a byte may follow it as padding."""
    # One byte more would show a frame that unpacks to more than the header says.
    raw = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream, n_bytes + 2)
    if len(raw) not in {n_bytes, n_bytes + n_bytes % 2}:
        raise ReadError("corrupt_pixels", "a deflated frame is not of the header's size")
    return raw[:n_bytes]


def plugin_for(syntax: str, bits_stored: int) -> str:
    """Name of the plugin for a compressed syntax.

    Raises:
        ReadError: ``no_decoder:<uid>``, without the uid if it is none of the standard.
    """
    if syntax == _DEFLATED_FRAME:
        return ""
    plugin = _PLUGIN.get(syntax, "")
    if syntax == _JPEG_EXTENDED and bits_stored > 8:
        plugin = "pylibjpeg"
    if plugin and plugin in get_decoder(UID(syntax)).available_plugins:
        return plugin
    # Anything but a code of the standard may be free text.
    known = UID(syntax).type == "Transfer Syntax"
    what = f"no decoder for transfer syntax {syntax if known else 'unknown'}, {bits_stored} bits"
    fix = "store it in another syntax"
    if syntax == _JPEG_EXTENDED:
        fix = "pip install 'medssl[gpl]', whose decoder is under the GPL"
    raise ReadError(f"no_decoder:{syntax}" if known else "no_decoder", what, fix=fix)
