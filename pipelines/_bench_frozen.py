"""What frozen features know: a linear segmentation of voxels, and neighbours of whole pictures.

B batch, C channels, K classes, P sampled points, N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from medssl.core.seeding import generator
from medssl.encoders._base import Encoder

Array = npt.NDArray[Any]
# Points of the training images that the linear classifier sees.
POINTS = 20_000
# Hidden states of a transformer that are used, evenly spaced; all levels of a pyramid of maps.
LEVELS = 5


class DenseProbe:
    """Logistic regression on all levels of the pyramid, interpolated to the input's grid."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        self.encoder, self.classes = encoder.eval(), classes

    def fit(self, images: Sequence[Tensor], labels: Sequence[Array], seed: int) -> None:
        """Fit on images (C, *space) and labels (*space), voxels drawn at random."""
        rng = generator(seed, "probe points")
        features, targets = [], []
        for x, label in zip(images, labels, strict=True):
            places = rng.permutation(label.size)[: POINTS // len(images)]
            levels = [_up(level, x.shape[1:]).flatten(2)[0] for level in self._levels(x)]
            features.append(torch.cat(levels)[:, torch.from_numpy(places)].T.numpy())
            targets.append(label.ravel()[places])
        points_PC = np.concatenate(features)
        mean, std = points_PC.mean(0), points_PC.std(0) + 1e-6
        model = LogisticRegression(max_iter=200, C=0.1)
        model.fit((points_PC - mean) / std, np.concatenate(targets))
        weight = np.zeros((self.classes, len(mean)))
        bias = np.full(self.classes, -np.inf)
        found = model.classes_.astype(int)
        coef, offset = model.coef_, model.intercept_
        if len(found) == 2:  # sklearn keeps one row for two classes
            coef, offset = np.vstack([0 * coef, coef]), np.append(0 * offset, offset)
        weight[found] = coef / std
        bias[found] = offset - coef @ (mean / std)
        self.weight_KC = torch.from_numpy(weight).float()
        self.bias_K = torch.from_numpy(bias).float()

    def predict(self, x: Tensor) -> Array:
        """Labels (*space) of an image (C, *space)."""
        levels = self._levels(x)
        weights = self.weight_KC.split([level.shape[1] for level in levels], 1)
        # Linear maps and interpolation commute, and few classes are cheaper to interpolate.
        logits = [
            _up(torch.einsum("kc,bc...->bk...", w, level), x.shape[1:])
            for w, level in zip(weights, levels, strict=True)
        ]
        total = torch.stack(logits).sum(0)[0] + self.bias_K.view(-1, *[1] * (x.ndim - 1))
        return np.asarray(total.argmax(0).numpy())

    @torch.no_grad()
    def _levels(self, x: Tensor) -> list[Tensor]:
        pyramid = self.encoder(x[None]).pyramid
        step = max(1, len(pyramid) // LEVELS)
        return [level.float() for level in pyramid[::-1][::step][::-1]]


@torch.no_grad()
def embed(encoder: Encoder, x_NC: Tensor) -> Array:
    """One vector (N, D) per picture: the mean of the tokens, or the global vector without any.

    A class token is trained by some objectives only; the mean of the tokens by all.
    """
    encoder.eval()
    vectors = []
    for part in x_NC.split(64):
        features = encoder(part)
        tokens = features.tokens_BND
        vectors.append(features.global_BD if tokens is None else tokens.mean(1))
    return np.asarray(torch.cat(vectors).float().numpy())


def pad_to(x: Tensor, multiple: Sequence[int]) -> Tensor:
    """Edge values behind the last voxel of each axis, up to a multiple."""
    ends: list[int] = []
    for size, step in reversed(list(zip(x.shape[1:], multiple, strict=True))):
        ends += [0, -size % step]
    return nn.functional.pad(x[None], ends, mode="replicate")[0]


def _up(level: Tensor, size: Sequence[int]) -> Tensor:
    mode = "trilinear" if len(size) == 3 else "bilinear"
    return nn.functional.interpolate(level, size=list(size), mode=mode, align_corners=False)
