"""What frozen features know: a linear segmentation of voxels, and neighbours of whole pictures.

B batch, C channels, K classes, P sampled points, N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medssl.core.seeding import generator
from medssl.encoders._base import Encoder
from medssl.evaluation.linear import fit_logistic

Array = npt.NDArray[Any]
# Points of the training images that the linear classifier sees.
POINTS = 20_000
L2 = 5e-4
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

    def predict(self, x: Tensor) -> Array:
        """Labels (*space) of an image (C, *space)."""
        levels = self._levels(x)
        weights = torch.split(self.weight_KC, [level.shape[1] for level in levels], 1)
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
    for part in torch.split(x_NC, 64):
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
