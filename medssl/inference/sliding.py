"""Gaussian-weighted sliding window over a prepared volume or picture.

C channels, K classes, D/H/W depth/height/width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from medssl.core.errors import ReadError


@torch.inference_mode()
def predict_scores(
    model: nn.Module,
    x_CDHW: npt.NDArray[np.floating],
    *,
    patch_size: tuple[int, ...],
    overlap: float,
    batch_windows: int,
    device: str | torch.device,
    fill: tuple[float, ...],
    axis: int = 0,
) -> npt.NDArray[np.float32]:
    """Class probabilities (K, D, H, W) on the prepared grid, blended over all windows.

    Windows run on ``device``; the blended map stays in main memory. A volume smaller than the
    window is padded and cropped back. A window of two axes goes over each slice across ``axis``.

    Args:
        model: (B, C, *window) float32 -> logits (B, K, *window).
        x_CDHW: the prepared volume, or picture with D = 1.
        patch_size: window, (D, H, W) voxels or (H, W) pixels.
        overlap: shared fraction of neighbouring windows, in [0, 1).
        batch_windows: windows per forward pass.
        device: where the model is.
        fill: (C,) value of padding, as training crops have it.
        axis: array axis that slices are stacked along.

    Raises:
        ReadError: ``out_of_memory`` on the device or in main memory.
    """
    flat = len(patch_size) == 2
    with memory_named(x_CDHW.shape):
        padded, inner = _pad(_as_batch(x_CDHW, flat, axis), patch_size, fill)
        scores = sliding_window_inference(
            padded,
            roi_size=patch_size,
            sw_batch_size=batch_windows,
            predictor=lambda x: model(x).float().softmax(dim=1),
            overlap=overlap,
            mode="gaussian",
            sw_device=device,
            device="cpu",
        )
        scores = scores[(slice(None), slice(None), *inner)]
        return np.asarray((scores.movedim(0, 1 + axis) if flat else scores[0]).numpy())


@torch.inference_mode()
def predict_probabilities(
    model: nn.Module,
    x_CDHW: npt.NDArray[np.floating],
    *,
    patch_size: tuple[int, ...],
    overlap: float,
    batch_windows: int,
    device: str | torch.device,
    fill: tuple[float, ...],
    axis: int = 0,
) -> npt.NDArray[np.float32]:
    """Class probabilities (K,) of a whole volume or picture: the mean over its windows.

    The windows cover all of it, evenly spaced, the outer ones flush with the edges; what is smaller
    than the window is padded and seen once. This is what training does, which takes crops anywhere
    and gives each the class of the record. With a window of two axes a volume is the mean over its
    slices across ``axis``.

    Args:
        model: (B, C, *window) float32 -> logits (B, K).
        x_CDHW: the prepared volume, or picture with D = 1.
        patch_size: window, (D, H, W) voxels or (H, W) pixels.
        overlap: least shared fraction of neighbouring windows, in [0, 1).
        batch_windows: windows per forward pass.
        device: where the model is.
        fill: (C,) value of padding, as training crops have it.
        axis: array axis that slices are stacked along.

    Raises:
        ReadError: ``out_of_memory`` on the device or in main memory.
    """
    total, count = torch.zeros(()), 0
    with memory_named(x_CDHW.shape):
        for batch in window_batches(
            x_CDHW,
            patch_size=patch_size,
            overlap=overlap,
            batch_windows=batch_windows,
            fill=fill,
            axis=axis,
        ):
            total = total + model(batch.to(device)).float().softmax(1).double().sum(0).cpu()
            count += len(batch)
        return np.asarray((total / count).numpy(), dtype=np.float32)


def window_batches(
    x_CDHW: npt.NDArray[np.floating],
    *,
    patch_size: tuple[int, ...],
    overlap: float,
    batch_windows: int,
    fill: tuple[float, ...],
    axis: int = 0,
) -> Iterator[Tensor]:
    """Windows (B, C, *window) that cover a volume or picture, B up to ``batch_windows``.

    Where they lie and what the arguments mean: :func:`predict_probabilities`.
    """
    x, _ = _pad(_as_batch(x_CDHW, len(patch_size) == 2, axis), patch_size, fill)
    places = window_places(tuple(x.shape[2:]), patch_size, overlap)
    windows = [(b, place) for b in range(len(x)) for place in places]
    for first in range(0, len(windows), batch_windows):
        some = windows[first : first + batch_windows]
        yield torch.stack([x[b][(slice(None), *place)] for b, place in some])


def window_places(
    shape: tuple[int, ...], window: tuple[int, ...], overlap: float
) -> list[tuple[slice, ...]]:
    """Evenly spaced windows from edge to edge that share at least ``overlap`` of their sides.

    >>> [[(s.start, s.stop) for s in place] for place in window_places((10,), (4,), 0.0)]
    [[(0, 4)], [(3, 7)], [(6, 10)]]
    """
    starts = []
    for side, size in zip(shape, window, strict=True):
        step = max(size * (1 - overlap), 1.0)
        count = 1 + math.ceil(max(side - size, 0) / step - 1e-9)
        starts.append([round(k * (side - size) / max(count - 1, 1)) for k in range(count)])
    return [
        tuple(slice(a, a + size) for a, size in zip(corner, window, strict=True))
        for corner in itertools.product(*starts)
    ]


@contextmanager
def memory_named(shape: tuple[int, ...]) -> Iterator[None]:
    """Running out of memory is a fault of one record, not of the run."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        what = f"out of memory for a record of {shape} voxels"
        fix = "lower batch_windows, or predict on a machine with more memory"
        raise ReadError("out_of_memory", what, fix=fix) from error


def _as_batch(x_CDHW: npt.NDArray[np.floating], flat: bool, axis: int) -> Tensor:
    """(1, C, D, H, W), or for windows of two axes the slices across ``axis``, (B, C, H, W)."""
    x = torch.from_numpy(np.asarray(x_CDHW, dtype=np.float32))
    return x.movedim(1 + axis, 0) if flat else x[None]


def _pad(
    x: Tensor, patch_size: tuple[int, ...], fill: tuple[float, ...]
) -> tuple[Tensor, tuple[slice, ...]]:
    """Centre (B, C, *space) in an array no smaller than the window; also where it lies there."""
    shape = x.shape[2:]
    before = [max(p - n, 0) // 2 for p, n in zip(patch_size, shape, strict=True)]
    inner = tuple(slice(b, b + n) for b, n in zip(before, shape, strict=True))
    size = [max(p, n) for p, n in zip(patch_size, shape, strict=True)]
    if size == list(shape):
        return x, inner
    padded = x.new_empty(*x.shape[:2], *size)
    padded[:] = torch.tensor(fill).view(1, -1, *[1] * len(size))
    padded[(slice(None), slice(None), *inner)] = x
    return padded, inner


def _out_of_memory(error: RuntimeError | MemoryError) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch's CPU allocator has no exception type of its own.
    return "DefaultCPUAllocator" in str(error)
