"""Slices of volumes for image encoders: the axis that is cut comes first."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from medssl.views.source import Source
    from medssl.views.spatial import Read


def across(source: Source, axis: int) -> Source:
    """The source with ``axis`` in front; the others keep their order."""
    if axis == 0:
        return source
    order = axes_of(axis)
    foreground, read_labels, tissue = source.foreground, source.read_labels, source.tissue
    return replace(
        source,
        read=_moved(source.read, axis),
        shape_DHW=tuple(source.shape_DHW[k] for k in order),
        spacing_mm=tuple(source.spacing_mm[k] for k in order),
        read_labels=None if read_labels is None else _moved(read_labels, axis),
        foreground=None if foreground is None else foreground[:, order],
        tissue=None if tissue is None else tissue[:, order],
    )


def in_record(rows: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """What has one row per axis of the source of :func:`across`, in the record's own order."""
    return rows[np.argsort(axes_of(axis))]


def axes_of(axis: int) -> list[int]:
    """Old array axes in new order.

    >>> axes_of(1)
    [1, 0, 2]
    """
    return [axis, *(k for k in range(3) if k != axis)]


def _moved(read: Read, axis: int) -> Read:
    back = np.argsort(axes_of(axis))

    def box(start: tuple[int, ...], stop: tuple[int, ...]) -> npt.NDArray[Any]:
        x = read(tuple(start[k] for k in back), tuple(stop[k] for k in back))
        return np.ascontiguousarray(np.moveaxis(x, 1 + axis, 1))

    return box
