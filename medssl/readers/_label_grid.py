"""Labels on the grid of an image: axes are turned and slices padded, nothing is resampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medssl.core.errors import NothingUsableError, ReadError
from medssl.core.geometry import (
    GRID_TOLERANCE_MM,
    Geometry,
    corners_mm,
    shape_WHD,
    to_array_order,
    to_voxel_order,
)
from medssl.readers._base import Found
from medssl.readers._dispatch import group_headers, load, read_header
from medssl.readers._rtstruct import fill_structures, read_structures

# Beyond rounding, a label may be moved onto its image by less than this, and that is flagged.
MOVE_TOLERANCE_VOXELS = 0.1
MAX_LABEL = 255

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelMap:
    """One label per voxel of an image.

    Attributes:
        labels_DHW: uint8; 0 is background.
        names: what the values mean, background included. They may be free text of a header:
            they are for the user, never for a catalog, ledger or log.
        residual_mm: how far the label's own grid lies from the image's, at the worst corner.
        flags: remarks, stable codes such as ``label_moved_mm=0.050``.
    """

    labels_DHW: npt.NDArray[np.uint8]
    names: dict[int, str]
    residual_mm: float
    flags: tuple[str, ...]


class _Drawn(NamedTuple):
    """Values on the image's grid, before they are renumbered."""

    values_DHW: npt.NDArray[Any]
    residual_mm: float
    flags: tuple[str, ...]


def labels_on_grid(
    source: Path | str | Found,
    geometry: Geometry,
    shape_DHW: tuple[int, int, int],
    *,
    names: Mapping[int, str] | None = None,
) -> LabelMap:
    """Read labels of any format onto the grid of an image.

    The same grid with axes in another order or direction is lossless. A DICOM SEG may cover some
    of the slices: the others are background. Corners up to 0.01 mm apart are rounding; up to a
    tenth of a voxel the label is taken as it is and flagged ``label_moved_mm``.

    Args:
        source: DICOM SEG or RTSTRUCT, or a label map of any volume format; a record of one.
        geometry: of the image.
        shape_DHW: of the image.
        names: value to name. Segments and structures get the value of their name; those of other
            names are left out and counted in the flag ``segments_left_out``. Without it they keep
            their numbers. Label maps always keep their values.

    Raises:
        ReadError: ``geometry_unknown``, ``label_shape_mismatch``, ``label_affine_mismatch``,
            ``overlapping_labels``, ``non_integer_labels``, ``unknown_label_values``,
            ``contour_off_slice``, ``contour_volume_error``, or the file's own.
    """
    found = source if isinstance(source, Found) else label_record(Path(source))
    if geometry.affine is None:
        raise ReadError("geometry_unknown", "the image does not say where its voxels lie")
    try:
        if found.options.get("kind") not in {"seg", "rtstruct"}:
            return _label_map(found, geometry.affine, shape_DHW)
        return _segments(found, geometry.affine, shape_DHW, names)
    except ReadError as error:
        where = error.where or found.files[0]
        raise ReadError(error.reason, error.what, where=where, fix=error.fix) from None


def label_record(path: Path) -> Found:
    """The one record of a label file.

    Raises:
        ReadError: the file's own reason.
        NothingUsableError: it holds no volume.
    """
    found, refused = group_headers([read_header(path)])
    if refused:
        raise ReadError(refused[0].reason, refused[0].message, where=str(path))
    if len(found) != 1:
        raise NothingUsableError("no label map here", where=str(path))
    return found[0]


def whole_values(array: npt.NDArray[Any], where: str) -> list[int]:
    """The values that occur; refused unless they are whole numbers of one byte.

    Raises:
        ReadError: ``non_integer_labels``, ``unknown_label_values``.
    """
    values = np.unique(array)
    if not np.isfinite(values).all() or (values != np.round(values)).any():
        fix = "resample label maps by nearest neighbour"
        what = "the label map holds values that are no whole numbers"
        raise ReadError("non_integer_labels", what, where=where, fix=fix)
    if values.min() < 0 or values.max() > MAX_LABEL:
        what = (
            f"label values run from {values.min():.0f} to {values.max():.0f}, not 0 to {MAX_LABEL}"
        )
        raise ReadError("unknown_label_values", what, where=where)
    return [int(value) for value in values]


def drawn_names(found: Found) -> set[str]:
    """Names of all segments, and of the structures that enclose something."""
    empty = {one["number"] for one in found.options["segments"] if not one.get("drawn", True)}
    return {name for number, name in segment_names(found).items() if number not in empty}


def segment_names(found: Found) -> dict[int, str]:
    """Number and name of every segment or structure; a nameless one is ``segment_<number>``."""
    segments = found.options["segments"]
    return {one["number"]: one["name"] or f"segment_{one['number']}" for one in segments}


def _label_map(found: Found, affine: FloatArray, shape_DHW: tuple[int, int, int]) -> LabelMap:
    if found.geometry.affine is None:
        raise ReadError("geometry_unknown", "the label does not say where its voxels lie")
    if found.geometry.kind != "volume" or found.shape[0] != 1:
        raise ReadError(
            "label_shape_mismatch", f"the label has shape {found.shape}, not one volume"
        )
    array_DHW = load(found)[0]
    values = whole_values(array_DHW, found.files[0])
    drawn = _place(array_DHW, found.geometry.affine, affine, shape_DHW, slices_left_out=False)
    names = {value: f"label_{value}" if value else "background" for value in values}
    return LabelMap(
        labels_DHW=np.ascontiguousarray(drawn.values_DHW, dtype=np.uint8),
        names=names,
        residual_mm=drawn.residual_mm,
        flags=drawn.flags,
    )


def _segments(
    found: Found,
    affine: FloatArray,
    shape_DHW: tuple[int, int, int],
    names: Mapping[int, str] | None,
) -> LabelMap:
    given = segment_names(found)
    by_name = {} if names is None else {name: value for value, name in names.items()}
    value_of = {
        number: number if names is None else by_name[name]
        for number, name in given.items()
        if names is None or name in by_name
    }
    if value_of and not 0 < min(value_of.values()) <= max(value_of.values()) <= MAX_LABEL:
        what = f"segments are numbered up to {max(value_of.values())}, not 1 to {MAX_LABEL}"
        raise ReadError("unknown_label_values", what)
    if found.options["kind"] == "seg":
        drawn = _draw_seg(found, list(value_of), affine, shape_DHW)
    else:
        structures = read_structures(found.files[0], list(value_of))
        filled = fill_structures(structures, affine, shape_DHW)
        drawn = _Drawn(filled.labels_DHW, 0.0, filled.flags)
    left_out = len(given) - len(value_of)
    flags = (*drawn.flags, *([f"segments_left_out={left_out}"] if left_out else []))
    named = {value_of[n]: given[n] for n in value_of} if names is None else dict(names)
    return LabelMap(
        labels_DHW=_renumber(drawn.values_DHW, value_of),
        names={0: "background", **named},
        residual_mm=drawn.residual_mm,
        flags=flags,
    )


def _draw_seg(
    found: Found, numbers: list[int], affine: FloatArray, shape_DHW: tuple[int, int, int]
) -> _Drawn:
    segments = found.options["segments"]
    # One value per voxel: the record may keep its segments in channels of their own.
    one_map = replace(
        found,
        shape=(1, *found.shape[1:]),
        dtype="uint16",
        options={
            **found.options,
            "segments": [one for one in segments if one["number"] in numbers],
            "described": [one["number"] for one in segments],
        },
    )
    assert found.geometry.affine is not None
    array_DHW = load(one_map)[0]
    placed = _place(array_DHW, found.geometry.affine, affine, shape_DHW, slices_left_out=True)
    kept = tuple(flag for flag in found.flags if flag.startswith("fractional"))
    return _Drawn(placed.values_DHW, placed.residual_mm, (*kept, *placed.flags))


def _renumber(values_DHW: npt.NDArray[Any], value_of: Mapping[int, int]) -> npt.NDArray[np.uint8]:
    order = np.array([0, *sorted(value_of)])
    table = np.array([0, *(value_of[n] for n in sorted(value_of))], dtype=np.uint8)
    return table[np.searchsorted(order, values_DHW)]


def _place(
    array_DHW: npt.NDArray[Any],
    own: FloatArray,
    affine: FloatArray,
    shape_DHW: tuple[int, int, int],
    *,
    slices_left_out: bool,
) -> _Drawn:
    """Turn the axes of a label map into those of the image, and pad missing slices."""
    image_from_label = np.linalg.inv(affine) @ own
    size_WHD, wanted_WHD = shape_WHD(array_DHW.shape), shape_WHD(shape_DHW)
    axis_of, signs = _turn(image_from_label, single_slice=size_WHD[2] == 1)
    turned_WHD = tuple(size_WHD[axis_of.index(k)] for k in range(3))
    padded = axis_of[2] if slices_left_out else -1
    fits = (
        size <= wanted if k == padded else size == wanted
        for k, (size, wanted) in enumerate(zip(turned_WHD, wanted_WHD, strict=True))
    )
    if not all(fits):
        what = f"the label has shape {turned_WHD[::-1]} in the image's axes, the image {shape_DHW}"
        raise ReadError("label_shape_mismatch", what, fix="export it on the grid of its image")
    start = [0, 0, 0]
    if padded >= 0:
        ends = [image_from_label[padded] @ [0, 0, d, 1] for d in (0, size_WHD[2] - 1)]
        start[padded] = round(min(ends))
    matrix = np.zeros((4, 4))
    for label_axis, k in enumerate(axis_of):
        matrix[k, label_axis] = signs[label_axis]
        backwards = signs[label_axis] < 0
        matrix[k, 3] = start[k] + (turned_WHD[k] - 1 if backwards else 0)
    matrix[3, 3] = 1
    residual_mm, flags = _residual(own, affine, matrix, array_DHW.shape)
    if padded >= 0 and not 0 <= start[padded] <= wanted_WHD[padded] - turned_WHD[padded]:
        what = "the label covers slices that the image does not have"
        raise ReadError("label_shape_mismatch", what, fix="was it drawn on another series?")
    turned = to_voxel_order(array_DHW).transpose([axis_of.index(k) for k in range(3)])
    turned = np.flip(turned, tuple(k for a, k in enumerate(axis_of) if signs[a] < 0))
    if turned_WHD == wanted_WHD:
        return _Drawn(to_array_order(turned), residual_mm, flags)
    out_WHD = np.zeros(wanted_WHD, dtype=array_DHW.dtype)
    where = tuple(slice(s, s + n) for s, n in zip(start, turned_WHD, strict=True))
    out_WHD[where] = turned
    return _Drawn(to_array_order(out_WHD), residual_mm, flags)


def _turn(image_from_label: FloatArray, *, single_slice: bool) -> tuple[list[int], list[int]]:
    """For each label axis (W, H, D) the image axis it runs along, and its direction."""
    linear = image_from_label[:3, :3]
    axes = [int(np.abs(linear[:, a]).argmax()) for a in range(3)]
    if single_slice and axes[0] != axes[1]:
        axes[2] = 3 - axes[0] - axes[1]
    if sorted(axes) != [0, 1, 2]:
        what = "the axes of the label run between those of the image"
        raise ReadError("label_affine_mismatch", what, fix="export it on the grid of its image")
    return axes, [1 if linear[axes[a], a] >= 0 else -1 for a in range(3)]


def _residual(
    own: FloatArray, affine: FloatArray, matrix: FloatArray, shape_DHW: tuple[int, ...]
) -> tuple[float, tuple[str, ...]]:
    """Distance between the corners as they are and as they are taken to be."""
    apart_mm = corners_mm(own, shape_DHW) - corners_mm(affine @ matrix, shape_DHW)
    residual_mm = float(np.linalg.norm(apart_mm, axis=1).max())
    if residual_mm <= GRID_TOLERANCE_MM:
        return residual_mm, ()
    apart_voxels = float(np.abs(apart_mm @ np.linalg.inv(affine[:3, :3]).T).max())
    if apart_voxels < MOVE_TOLERANCE_VOXELS:
        return residual_mm, (f"label_moved_mm={residual_mm:.3f}",)
    what = f"a corner of the label lies {residual_mm:.3g} mm from the image's"
    fix = f"a tenth of a voxel is allowed, here it is {apart_voxels:.3g}; "
    fix += "correct the header that is wrong, or export the label on the grid of its image"
    raise ReadError("label_affine_mismatch", what, fix=fix)
