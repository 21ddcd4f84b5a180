"""Random numbers as a pure function of (seed, purpose, step, index): resume replays them."""

from __future__ import annotations

import random
import zlib

import numpy as np


def generator(seed: int, *keys: int | str) -> np.random.Generator:
    """A generator that depends on the keys only, not on what was drawn before.

    >>> bool(generator(0, "crop", 3).random() == generator(0, "crop", 3).random())
    True
    """
    words = [zlib.crc32(k.encode()) if isinstance(k, str) else int(k) for k in keys]
    # The length tells (5,) from (5, 0): a seed sequence pads with zeros.
    return np.random.default_rng(np.random.SeedSequence([int(seed), len(words), *words]))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch for weight initialisation and dropout."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - third-party code draws from the global state
    torch.manual_seed(seed)
