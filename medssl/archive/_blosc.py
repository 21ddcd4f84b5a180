"""Arrays of the store on disk: how they are cut into chunks, and how they are written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import blosc2
import numpy as np
import numpy.typing as npt

# Measured: lz4, 64^3 chunks and 32^3 blocks give the fastest random crops of volumes.
_CHUNK, _BLOCK = 64, 32
_PICTURE_CHUNK, _PICTURE_BLOCK = 512, 128  # about as many bytes
# Frames of a clip are blocks, so that any one is read alone; more per chunk, fewer chunks to list.
_CHUNK_FRAMES = 16


class Streamed(Protocol):
    """A clip that comes in pieces, as :class:`medssl.archive.clips.ClipStream`."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(C, T, H, W)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""

    def pieces(self, multiple: int) -> Iterator[npt.NDArray[Any]]:
        """(C, t, H, W) each, t a multiple of that but for the last one."""

    @property
    def meta(self) -> dict[str, Any]:
        """What is kept beside the frames, once all pieces have passed."""


def write_whole(array: npt.NDArray[Any], path: str) -> Any:
    """A new array of the values of a volume, picture or label map."""
    lead = array.ndim - 3
    flat = array.shape[lead] == 1
    chunk, block = (_PICTURE_CHUNK, _PICTURE_BLOCK) if flat else (_CHUNK, _BLOCK)
    return blosc2.asarray(
        np.ascontiguousarray(array),
        chunks=(1,) * lead + tuple(min(chunk, n) for n in array.shape[lead:]),
        blocks=(1,) * lead + tuple(min(block, n) for n in array.shape[lead:]),
        cparams=_fast(),
        urlpath=path,
        mode="w",
    )


def write_pieces(clip: Streamed, path: str) -> Any:
    """A new array of the frames of a clip, of which one piece at a time lies in memory."""
    channels, frames, h, w = clip.shape
    stored = blosc2.empty(
        clip.shape,
        dtype=clip.dtype,
        chunks=(channels, min(_CHUNK_FRAMES, frames), h, w),
        blocks=(channels, 1, h, w),
        cparams=_fast(),
        urlpath=path,
        mode="w",
    )
    first = 0
    for piece in clip.pieces(_CHUNK_FRAMES):
        stored[:, first : first + piece.shape[1]] = np.ascontiguousarray(piece)
        first += piece.shape[1]
    return stored


def _fast() -> blosc2.CParams:
    return blosc2.CParams(codec=blosc2.Codec.LZ4, clevel=5, nthreads=1)
