"""Phantoms of two scanners, and what a pretrained run still knows of the first one.

B batch, C channels, N tokens of a slice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from medssl.archive._phantom_body import LABELS, draw_patient, label_map, mr_scan
from medssl.archive.phantom import SHAPE_WHD, grid, save_nifti
from medssl.core.geometry import Geometry
from medssl.core.masks import random_mask
from medssl.core.preprocess import Contract, prepare, prepare_labels
from medssl.core.registry import OBJECTIVES
from medssl.core.seeding import generator
from medssl.core.viewspec import Setting
from medssl.encoders._base import Encoder
from medssl.encoders._tokens import patchify
from medssl.encoders.card import build_from_card, load_card, part_of
from medssl.training.checkpoint import load_newest

Array = npt.NDArray[Any]
# Slices and patches: a transformer has to know contrast to fill them, a small network that sees
# volumes fills hidden blocks from their neighbours and forgot nothing.
ENCODER: dict[str, Any] = {"encoder": "timm/test_vit", "encoder.patch_size": 8}
CROP = (48, 48)
TRAIN, LABELLED, TESTED, VIEWS = 16, 8, 10, 24
# Slices nearer than this to the end of a scan are not measured on.
_MARGIN = 8
RIDGE = 10.0
# Signal of the first scanner -> of the second: tissues change places, as between sequences.
_CONTRAST = (
    (0.0, 0.05, 0.34, 0.42, 0.55, 0.62, 0.75, 1.0),
    (0.0, 0.05, 0.80, 0.30, 0.60, 0.95, 0.20, 0.5),
)
_BIAS, _NOISE, _BLUR_VOX = 0.5, 0.08, 0.8


def write_scans(folder: Path, scanner: str, seed: int) -> Path:
    """Unlabelled scans of one scanner, ``a`` or ``b``; each has patients of its own."""
    folder.mkdir(parents=True)
    for number in range(TRAIN):
        rng = generator(seed, f"scanner {scanner}", number)
        affine = grid(rng, max_tilt_deg=12)
        x_DHW = mr_scan(draw_patient(rng), affine, SHAPE_WHD, rng)
        x_DHW = x_DHW if scanner == "a" else second_scanner(x_DHW, rng)
        save_nifti(folder / f"scan_{number:03d}.nii.gz", x_DHW, affine, np.int16)
    return folder


def second_scanner(x_DHW: Array, rng: np.random.Generator) -> Array:
    """The scan as another scanner shows it: contrast, bias field, resolution and noise differ."""
    top = np.percentile(x_DHW, 99.5)
    y = np.interp(np.clip(x_DHW / top, 0, 1), *_CONTRAST)
    field = ndimage.gaussian_filter(rng.standard_normal(y.shape), min(y.shape) / 4, mode="wrap")
    y = ndimage.gaussian_filter(y * np.exp(_BIAS * field / field.std()), _BLUR_VOX)
    real, imaginary = rng.normal(0, _NOISE, (2, *y.shape))
    scan: Array = (1000 * np.hypot(y + real, imaginary)).round()
    return scan


@dataclass(frozen=True)
class Case:
    """A labelled scan of the first scanner, as an encoder sees it."""

    x: Tensor
    labels_DHW: Array
    tissue: Tensor


class OldData:
    """Scans of the first scanner that no run learns from, the same for every run."""

    @cached_property
    def cases(self) -> list[Case]:
        """Those with labels for the probe, then those that are tested."""
        return [_case(number) for number in range(LABELLED + TESTED)]

    def losses(self, run: Path) -> list[float]:
        """Reconstruction error of the run's own objective, per tested scan; fixed views."""
        task = _task(run)
        found = []
        for number, case in enumerate(self.cases[LABELLED:]):
            with torch.no_grad():
                found.append(float(task.step(_views(task.encoder, case, number)).loss))
        return found

    def explained(self, run: Path) -> list[float]:
        """How well frozen tokens tell, linearly, which share of them each organ takes.

        R squared over the tokens and organs of each tested scan; ridge regression on the others.
        """
        encoder = _encoder(run)
        pairs = [_tokens_and_shares(encoder, case) for case in self.cases]
        x, y = (np.concatenate(part) for part in zip(*pairs[:LABELLED], strict=True))
        centre, spread = x.mean(0), x.std(0) + 1e-6
        z = (x - centre) / spread
        weight = np.linalg.solve(z.T @ z + RIDGE * np.eye(z.shape[1]), z.T @ (y - y.mean(0)))
        found = []
        for x_ND, y_NK in pairs[LABELLED:]:
            error = y_NK - y.mean(0) - (x_ND - centre) / spread @ weight
            found.append(float(1 - (error**2).sum() / ((y_NK - y_NK.mean(0)) ** 2).sum()))
        return found


def _case(number: int) -> Case:
    rng = generator(0, "held out", number)
    affine, patient = grid(rng, max_tilt_deg=12), draw_patient(rng)
    x_DHW = mr_scan(patient, affine, SHAPE_WHD, rng)
    geometry = Geometry.of_volume(affine)
    prepared = prepare(x_DHW[None], geometry, "MR", Contract())
    labels_DHW = prepare_labels(label_map(patient, affine, SHAPE_WHD), geometry, Contract())
    x = torch.from_numpy(prepared.array.astype(np.float32))
    return Case(x, labels_DHW, x > prepared.air[0])


def _task(run: Path) -> Any:
    """The objective as it was trained last, without gradient or dropout."""
    found = load_newest(run / "checkpoints")
    assert found is not None  # the run has just been made
    card, _ = load_card(run)
    module, _ = OBJECTIVES.module(str(card.objective))
    task = module.Objective(build_from_card(card), module.Config(), Setting(crop=CROP, records=1))
    task.load_state_dict(found[0]["task"], strict=True)
    return task.eval()


def _tokens_and_shares(encoder: Encoder, case: Case) -> tuple[Array, Array]:
    """Token vectors (N, D) of the slices of a scan, and the share of each organ in them (N, K)."""
    slices = slice(_MARGIN, -_MARGIN)
    x_SCHW = case.x[:, slices].transpose(0, 1)
    with torch.no_grad():
        tokens = encoder.tokens(encoder(x_SCHW), tuple(x_SCHW.shape[2:]))
    organs = torch.from_numpy(case.labels_DHW[slices])[:, None]
    shares = [
        patchify((organs == label).float(), encoder.token_size).mean(2).flatten()
        for label in LABELS
        if label
    ]
    return tokens.flatten(0, 1).double().numpy(), torch.stack(shares, 1).double().numpy()


def _encoder(run: Path) -> Encoder:
    card, weights = load_card(run)
    encoder = build_from_card(card)
    encoder.load_state_dict(part_of(weights, "encoder"), strict=True)
    return encoder


def _views(encoder: Encoder, case: Case, number: int) -> Mapping[str, Any]:
    """Crops of slices with their masks, the same for every run."""
    views = []
    for view in range(VIEWS):
        rng = generator(1, f"view {view}", number)
        depth, *plane = case.x.shape[1:]
        d = int(rng.integers(_MARGIN, depth - _MARGIN))
        free = [side - crop + 1 for side, crop in zip(plane, CROP, strict=True)]
        start = [int(rng.integers(room)) for room in free]
        h, w = (slice(a, a + side) for a, side in zip(start, CROP, strict=True))
        mask = torch.from_numpy(random_mask(rng, encoder.grid(CROP), 0.75))
        views.append({"x": case.x[:, d, h, w], "tissue": case.tissue[:, d, h, w], "mask": mask})
    return {"views": [{key: torch.stack([v[key] for v in views]) for key in views[0]}]}
