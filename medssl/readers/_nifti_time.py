"""Whether the fourth axis of a NIfTI file is time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from medssl.core.errors import ReadError
from medssl.readers._source import exists, open_source
from medssl.readers._volume import Axis

_TIME_UNITS = {8, 16, 24}
_TIME_SERIES_INTENT = 2001
_MAX_JSON_BYTES = 64 * 2**20


def fourth_axis(parsed: Any, path: Path) -> Axis:
    """``time`` or ``channels``, by the rule of :mod:`medssl.readers.nifti`."""
    if int(parsed["xyzt_units"]) & 0x38 not in _TIME_UNITS or _names_channels(path):
        return "channels"
    if int(parsed["intent_code"]) == _TIME_SERIES_INTENT:
        return "time"
    step = float(parsed["pixdim"][4])
    return "time" if math.isfinite(step) and step > 0 and step != 1 else "channels"


def _names_channels(path: Path) -> bool:
    for folder in (path.parent, path.parent.parent):
        if not exists(folder / "dataset.json"):
            continue
        try:
            with open_source(folder / "dataset.json") as file:
                content = json.loads(file.read(_MAX_JSON_BYTES))
        except (ValueError, OSError, RecursionError, ReadError):
            return False  # the index lists it as bad_dataset_json
        if isinstance(content, dict):
            named = content.get("channel_names", content.get("modality"))
            return isinstance(named, dict) and len(named) > 1
    return False
