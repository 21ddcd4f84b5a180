"""Gaussian-weighted sliding window over a prepared volume.

C channels, K classes, D/H/W depth/height/width.
"""

from __future__ import annotations

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
    patch_size: tuple[int, int, int],
    overlap: float,
    batch_windows: int,
    device: str | torch.device,
) -> npt.NDArray[np.float32]:
    """Class probabilities (K, D, H, W) on the prepared grid, blended over all windows.

    Windows run on ``device``; the blended map stays in main memory. A volume smaller than the
    window is padded with the lowest value of each channel (air) and cropped back.

    Args:
        model: (B, C, D, H, W) float32 -> logits (B, K, D, H, W).
        x_CDHW: the prepared volume.
        patch_size: window (D, H, W) in voxels.
        overlap: shared fraction of neighbouring windows, in [0, 1).
        batch_windows: windows per forward pass.
        device: where the model is.

    Raises:
        ReadError: ``out_of_memory`` on the device or in main memory.
    """
    try:
        padded, inner = _pad(torch.from_numpy(np.asarray(x_CDHW, dtype=np.float32)), patch_size)
        scores = sliding_window_inference(
            padded[None],
            roi_size=patch_size,
            sw_batch_size=batch_windows,
            predictor=lambda x: model(x).float().softmax(dim=1),
            overlap=overlap,
            mode="gaussian",
            sw_device=device,
            device="cpu",
        )
        return np.asarray(scores[0][(slice(None), *inner)].numpy())
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        what = f"out of memory for a volume of {x_CDHW.shape} voxels"
        fix = "lower batch_windows, or predict on a machine with more memory"
        raise ReadError("out_of_memory", what, fix=fix) from error


def _pad(x_CDHW: Tensor, patch_size: tuple[int, int, int]) -> tuple[Tensor, tuple[slice, ...]]:
    """Centre the volume in an array no smaller than the window; also where it lies there."""
    shape = x_CDHW.shape[1:]
    before = [max(p - n, 0) // 2 for p, n in zip(patch_size, shape, strict=True)]
    inner = tuple(slice(b, b + n) for b, n in zip(before, shape, strict=True))
    size = [max(p, n) for p, n in zip(patch_size, shape, strict=True)]
    if size == list(shape):
        return x_CDHW, inner
    padded = x_CDHW.amin(dim=(1, 2, 3))[:, None, None, None].repeat(1, *size)
    padded[(slice(None), *inner)] = x_CDHW
    return padded, inner


def _out_of_memory(error: RuntimeError | MemoryError) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # torch's CPU allocator has no exception type of its own.
    return "DefaultCPUAllocator" in str(error)
