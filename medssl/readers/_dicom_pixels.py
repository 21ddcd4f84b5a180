"""Decoding of one DICOM frame, with the plugin that measured best for each transfer syntax."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import config
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from medssl.core.errors import ReadError

_UNCOMPRESSED = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"}
_UNCOMPRESSED |= {"1.2.840.10008.1.2.2"}
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_PLUGIN = {
    "1.2.840.10008.1.2.5": "pylibjpeg",
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
_DECODE_ERRORS = (RuntimeError, ValueError, AttributeError, TypeError, KeyError, IndexError)


def is_uncompressed(syntax: str) -> bool:
    """Whether the length of the pixel data follows from the header."""
    return syntax in _UNCOMPRESSED


def decode_slice(path: str, tags: dict[str, Any]) -> npt.NDArray[Any]:
    """Stored values (H, W) -> rescaled once; MONOCHROME1 is inverted within its stored range.

    Raises:
        ReadError: ``no_decoder:<uid>`` or ``corrupt_pixels``.
    """
    stored = _stored(path, tags)
    bits, signed = tags["bits_stored"], tags["signed"]
    unused = stored.dtype.itemsize * 8 - bits
    if unused > 0:
        # Bits above BitsStored may hold anything (overlays, scanner notes): shift them out.
        stored = (stored << unused) >> unused
    if tags["photometric"] == "MONOCHROME1":
        total = -1 if signed else 2**bits - 1
        stored = (total - stored.astype(np.int64)).astype(stored.dtype)
    slope, intercept = tags["rescale"]
    if (slope, intercept) == (1.0, 0.0):
        return stored
    return stored * np.float64(slope) + np.float64(intercept)


def _stored(path: str, tags: dict[str, Any]) -> npt.NDArray[Any]:
    syntax = tags["syntax"]
    plugin = _plugin(syntax, tags["bits_stored"], path)
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, force=True)
            if "TransferSyntaxUID" not in dataset.file_meta:
                dataset.file_meta.TransferSyntaxUID = UID(syntax)
            array = pixel_array(dataset, raw=True, decoding_plugin=plugin)
    except _DECODE_ERRORS as error:
        what = f"pixel data do not decode ({type(error).__name__})"
        raise ReadError("corrupt_pixels", what, where=path) from None
    if array.shape != (tags["rows"], tags["columns"]):
        what = f"pixel data have shape {array.shape}, header said one frame"
        raise ReadError("corrupt_pixels", what, where=path)
    kind = np.dtype(f"{'i' if tags['signed'] else 'u'}{array.dtype.itemsize}")
    return array.astype(kind, copy=False)


def _plugin(syntax: str, bits_stored: int, path: str) -> str:
    """Name of the plugin for a syntax; empty = pydicom itself."""
    if is_uncompressed(syntax):
        return ""
    plugin = _PLUGIN.get(syntax, "")
    if syntax == _JPEG_EXTENDED and bits_stored > 8:
        plugin = "pylibjpeg"
    try:
        if plugin in get_decoder(UID(syntax)).available_plugins:
            return plugin
    except NotImplementedError:
        pass
    what = f"no decoder for transfer syntax {syntax}, {bits_stored} bits"
    fix = f"install the pydicom plugin '{plugin}'" if plugin else "store it in another syntax"
    raise ReadError(f"no_decoder:{syntax}", what, where=path, fix=fix)
