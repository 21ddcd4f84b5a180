"""Dense probe: a linear classifier of voxels on all levels of a frozen pyramid of maps.

Every level is interpolated to the voxels and they are concatenated: a network with skips is judged
low by its deepest maps alone (Masked Scene Modeling, Hermosilla et al. 2025). The network stays as
it is: evaluation mode, no gradients.

B batch, C channels of all levels, K classes, P sampled points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medssl.core.seeding import generator
from medssl.evaluation.linear import fit_logistic

Array = npt.NDArray[Any]
# Points of the training images that the linear classifier sees.
POINTS = 20_000
L2 = 5e-4
# Hidden states of a transformer that are used, evenly spaced; all levels of a pyramid of maps.
LEVELS = 5
# Label of voxels that are no part of any image.
OUTSIDE = -1


class DenseProbe(nn.Module):
    """Logistic regression on all levels of the pyramid, interpolated to the input's grid.

    Args:
        encoder: input (B, C, *space) -> :class:`medssl.core.features.Features`.
        classes: K.
    """

    weight_KC: Tensor
    bias_K: Tensor

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder, self.classes = encoder.eval(), classes

    def fit(self, images: Sequence[Tensor], labels: Sequence[Array], seed: int) -> None:
        """Fit on images (C, *space) and labels (*space), voxels drawn at random.

        Raises:
            UsageError: fewer than two classes among the voxels drawn.
        """
        rng = generator(seed, "probe points")
        features, targets = [], []
        for x, label in zip(images, labels, strict=True):
            places = rng.permutation(label.size)[: POINTS // len(images)]
            places = places[label.ravel()[places] != OUTSIDE]
            levels = [at_points(level, places, label.shape) for level in self.levels(x[None])]
            features.append(torch.cat(levels, 1).cpu().numpy())
            targets.append(label.ravel()[places].astype(np.int64))
        probe = fit_logistic(np.concatenate(features), np.concatenate(targets), L2)
        weight_DK = probe.weight_DK / probe.spread_D[:, None]
        weight = np.zeros((self.classes, len(weight_DK)))
        bias = np.full(self.classes, -np.inf)  # classes that the labelled images do not show
        found = weight_DK.shape[1]
        weight[:found] = weight_DK.T
        bias[:found] = probe.bias_K - probe.mean_D @ weight_DK
        self.weight_KC = torch.from_numpy(weight).float()
        self.bias_K = torch.from_numpy(bias).float()

    def forward(self, x: Tensor) -> Tensor:
        """Log odds (B, K, *space) of images (B, C, *space), up to a constant of the voxel."""
        levels = self.levels(x)
        weights = torch.split(self.weight_KC.to(x.device), [level.shape[1] for level in levels], 1)
        # Linear maps and interpolation commute, and few classes are cheaper to interpolate.
        logits = [
            to_grid(torch.einsum("kc,bc...->bk...", w, level), x.shape[2:])
            for w, level in zip(weights, levels, strict=True)
        ]
        bias = self.bias_K.to(x.device).view(-1, *[1] * (x.ndim - 2))
        return torch.stack(logits).sum(0) + bias

    def predict(self, x: Tensor) -> Array:
        """Labels (*space) of an image (C, *space)."""
        return np.asarray(self(x[None])[0].argmax(0).cpu().numpy())

    @torch.no_grad()
    def levels(self, x: Tensor) -> list[Tensor]:
        """Maps (B, C, *space) that the classifier reads."""
        pyramid = self.encoder(x).pyramid
        step = max(1, len(pyramid) // LEVELS)
        return [level.float() for level in pyramid[::-1][::step][::-1]]


def to_grid(level: Tensor, size: Sequence[int]) -> Tensor:
    """A map (B, C, *space) on a grid of this size, interpolated linearly, edges held."""
    mode = "trilinear" if len(size) == 3 else "bilinear"
    return nn.functional.interpolate(level, size=list(size), mode=mode, align_corners=False)


def at_points(level: Tensor, places: Array, size: Sequence[int]) -> Tensor:
    """(P, C) values of a map (1, C, *space) at voxels of a grid; those of :func:`to_grid`.

    Args:
        level: the map.
        places: raster numbers of the voxels.
        size: of the grid.
    """
    voxels = np.stack(np.unravel_index(places, tuple(size)), 1)
    # From -1 to 1 over the field of view, the last axis first.
    where = (2 * voxels + 1) / np.array(size) - 1
    grid = torch.from_numpy(where[:, ::-1].copy()).to(level)
    grid = grid.view(1, -1, *[1] * (len(size) - 1), len(size))
    found = nn.functional.grid_sample(level, grid, padding_mode="border", align_corners=False)
    return found.flatten(2)[0].T
