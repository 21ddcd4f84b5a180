"""The preprocessed copy of the records: chunked, compressed, a crop reads only its chunks.

One blosc2 array per volume, picture or clip, named by what it holds: the record's files and the
contract. A changed file or contract gives another name, so nothing stale is ever read. Writing is
a temporary file and a rename: processes may share a store.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import numpy.typing as npt

from medssl.archive._blosc import Streamed, write_pieces, write_whole
from medssl.core.errors import ReadError
from medssl.core.geometry import Kind
from medssl.core.preprocess import Contract, Prepared
from medssl.core.runlog import disk_error, sync_folder

# Records that a worker process prepares before it reports; fewer run in this process.
STORE_CHUNK = 8

_OPEN_FILES = 64
FOREGROUND_POINTS = 512
# Of what is stored beside the voxels; a store of another format is not looked at.
_FORMAT = 3
# Share of the tissue that may lie outside its box at each end of an axis: single voxels of noise
# or of a table do not move the ends of the body.
_OUTSIDE = 0.005
blosc2.set_nthreads(1)


@dataclass(frozen=True, eq=False)
class Entry:
    """One stored volume, picture or clip without its voxels.

    Attributes:
        shape: (C, D, H, W); D = 1 for a picture, and counts the frames of a clip.
        spacing_mm: (D, H, W), or (H, W) of a picture or clip; ``None`` = unknown.
        affine: of a volume, else ``None``.
        air: (C,) level below which a voxel is air or padding.
        fill: (C,) smallest value, used outside the volume.
        labelled: whether it has a label map, which may hold background only.
        foreground: (P, 3) random labelled voxels (d, h, w), classes equally often.
        tissue: (2, 3) first voxel of the box of :func:`tissue_box`, and the one after its last.
        times_s: (T,) when the frames of a clip were shown; ``None`` = unknown.
        shots: (S, 2) first frame between cuts, and the one behind the last; of clips.
    """

    key: str
    kind: Kind
    shape: tuple[int, int, int, int]
    spacing_mm: tuple[float, ...] | None
    affine: npt.NDArray[np.float64] | None
    air: tuple[float, ...]
    fill: tuple[float, ...]
    labelled: bool
    foreground: npt.NDArray[np.int64]
    tissue: npt.NDArray[np.int64]
    pixel_hash: str
    modality: str
    times_s: npt.NDArray[np.float64] | None
    shots: npt.NDArray[np.int64]


class Store:
    """Records that follow one contract, below ``root/<contract digest>-<format>``."""

    def __init__(self, root: Path, contract: Contract) -> None:
        self.root = root
        self.folder = root / f"{contract.digest}-{_FORMAT}"
        self.contract = contract
        self._open: OrderedDict[Path, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # open files do not cross processes

    def key(self, *parts: str) -> str:
        """Name of a volume: hash of the record's id and fingerprint."""
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def put(
        self,
        key: str,
        prepared: Prepared,
        pixel_hash: str,
        labels_DHW: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """Write a volume and its labels.

        Raises:
            ResourceError: if the disk is full; nothing is left behind.
        """
        self._path(key).parent.mkdir(parents=True, exist_ok=True)
        foreground = np.zeros((0, 3), dtype=np.int64)
        if labels_DHW is not None:
            foreground = foreground_points(labels_DHW)
            self._write(self._label_path(key), partial(write_whole, labels_DHW), dict)
        meta = {
            "kind": "image" if prepared.affine is None else "volume",
            "affine": None if prepared.affine is None else prepared.affine.ravel().tolist(),
            "spacing_mm": None if prepared.spacing_mm is None else list(prepared.spacing_mm),
            "air": list(prepared.air),
            "fill": list(prepared.fill),
            "modality": prepared.modality,
            "labelled": labels_DHW is not None,
            "foreground": foreground.ravel().tolist(),
            "tissue": tissue_box(prepared.array, prepared.air).ravel().tolist(),
            "pixel_hash": pixel_hash,
        }
        self._write(self._path(key), partial(write_whole, prepared.array), lambda: meta)

    def put_clip(self, key: str, clip: Streamed) -> str:
        """Write a clip, piece by piece; returns the hash of its pixels.

        Raises:
            ResourceError: if the disk is full.
            ReadError: what the pieces raise. Nothing is left behind in either case.
        """
        self._path(key).parent.mkdir(parents=True, exist_ok=True)
        self._write(self._path(key), partial(write_pieces, clip), lambda: clip.meta)
        return self.entry(key).pixel_hash

    def entry(self, key: str) -> Entry:
        """What is known of a stored volume.

        Raises:
            ReadError: ``store_damaged``.
        """
        array = self._array(self._path(key))
        meta = {name: array.schunk.vlmeta[name] for name in array.schunk.vlmeta.getall()}
        affine, spacing_mm = meta["affine"], meta["spacing_mm"]
        return Entry(
            key=key,
            kind=meta["kind"],
            shape=tuple(array.shape),
            spacing_mm=None if spacing_mm is None else tuple(spacing_mm),
            affine=None if affine is None else np.array(affine).reshape(4, 4),
            air=tuple(meta["air"]),
            fill=tuple(meta["fill"]),
            labelled=meta.get("labelled", False),
            foreground=np.array(meta.get("foreground", []), dtype=np.int64).reshape(-1, 3),
            tissue=np.array(meta["tissue"], dtype=np.int64).reshape(2, 3),
            pixel_hash=meta["pixel_hash"],
            modality=meta["modality"],
            times_s=np.frombuffer(times) if (times := meta.get("times_s")) else None,
            shots=np.array(meta.get("shots", []), dtype=np.int64).reshape(-1, 2),
        )

    def read(
        self, key: str, start: tuple[int, ...], stop: tuple[int, ...]
    ) -> npt.NDArray[np.float32]:
        """Voxels [start, stop) of all channels, (C, d, h, w); the box lies inside the volume."""
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        voxels = self._slice(self._path(key), (slice(None), *box))
        if voxels.dtype == np.uint8:
            return np.asarray(np.divide(voxels, 255, dtype=np.float32))
        return voxels.astype(np.float32)

    def read_labels(
        self, key: str, start: tuple[int, ...], stop: tuple[int, ...]
    ) -> npt.NDArray[np.uint8]:
        """Labels [start, stop), (d, h, w)."""
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        return self._slice(self._label_path(key), box)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.b2nd"

    def _label_path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.label.b2nd"

    def _slice(self, path: Path, box: tuple[slice, ...]) -> npt.NDArray[Any]:
        try:
            return np.asarray(self._array(path)[box])
        except (RuntimeError, ValueError):
            raise _damaged(path) from None

    def _array(self, path: Path) -> Any:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        try:
            array = blosc2.open(str(path), mode="r")
        except (RuntimeError, ValueError, FileNotFoundError):
            raise _damaged(path) from None
        self._open[path] = array
        if len(self._open) > _OPEN_FILES:
            self._open.popitem(last=False)
        return array

    def _write(
        self, path: Path, fill: Callable[[str], Any], meta: Callable[[], Mapping[str, Any]]
    ) -> None:
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.b2nd")
        try:
            temporary.unlink(missing_ok=True)
            stored = fill(str(temporary))
            for name, value in meta().items():
                stored.schunk.vlmeta[name] = value
            del stored
            _sync(temporary)
            temporary.replace(path)
            sync_folder(path.parent)
        except OSError as error:
            raise disk_error(error) from error
        except RuntimeError:
            # blosc2 hides the errno of a failed write.
            raise disk_error(OSError(28, "blosc2 could not write")) from None
        finally:
            temporary.unlink(missing_ok=True)


def foreground_points(labels_DHW: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Up to ``FOREGROUND_POINTS`` labelled voxels (P, 3), every class equally often."""
    rng = np.random.default_rng(0)
    classes = [value for value in np.unique(labels_DHW) if value]
    points = []
    for value in classes:
        places = np.argwhere(labels_DHW == value)
        points.append(places[rng.integers(len(places), size=FOREGROUND_POINTS // len(classes))])
    return np.concatenate(points) if points else np.zeros((0, 3), dtype=np.int64)


def tissue_box(x_CDHW: npt.NDArray[Any], air: tuple[float, ...]) -> npt.NDArray[np.int64]:
    """Box of the voxels above air in any channel, (2, 3): first voxel, and the one after the last.

    Along each axis, half a percent of them may lie before it and half a percent behind. A record
    without tissue is a box of its own.
    """
    tissue_DHW = np.zeros(x_CDHW.shape[1:], dtype=bool)
    for x_DHW, level in zip(x_CDHW, air, strict=True):
        tissue_DHW |= x_DHW > np.float32(level)
    box = np.array([[0, 0, 0], tissue_DHW.shape], dtype=np.int64)
    if not tissue_DHW.any():
        return box
    for axis in range(3):
        counts = tissue_DHW.sum(tuple(k for k in range(3) if k != axis), dtype=np.int64)
        most = _OUTSIDE * counts.sum()
        box[0, axis] = np.searchsorted(counts.cumsum(), most, side="right")
        box[1, axis] -= np.searchsorted(counts[::-1].cumsum(), most, side="right")
    return box


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _damaged(path: Path) -> ReadError:
    what = "a volume of the store cannot be read"
    return ReadError("store_damaged", what, where=str(path), fix="delete it; it will be rebuilt")
