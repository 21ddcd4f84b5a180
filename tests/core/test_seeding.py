"""Random numbers depend on their keys and on nothing else."""

import random

import numpy as np
import pytest
import torch

from medssl.core.seeding import generator, seed_everything


def draw(*keys):
    return generator(*keys).random(4).tolist()


def test_equal_keys_give_equal_numbers_whatever_was_drawn_before():
    first = draw(3, "crop", 5)
    np.random.default_rng().random(100)
    draw(3, "crop", 6)
    assert draw(3, "crop", 5) == first


@pytest.mark.parametrize(
    "other", [(4, "crop", 5), (3, "mask", 5), (3, "crop", 6), (3, "crop", 5, 0)]
)
def test_any_other_key_gives_other_numbers(other):
    assert draw(*other) != draw(3, "crop", 5)


def test_streams_of_neighbouring_steps_are_uncorrelated():
    a, b = (generator(0, "crop", step).standard_normal(10_000) for step in (1, 2))
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / 100  # four standard errors of r at n = 10,000


@pytest.mark.parametrize("seed", [0, 2**40])
def test_seeding_repeats_python_numpy_and_torch(seed):
    drawn = []
    for _ in range(2):
        seed_everything(seed)
        legacy = float(np.random.rand())  # noqa: NPY002 - what third-party code draws from
        drawn.append((random.random(), legacy, float(torch.rand(1))))
    assert drawn[0] == drawn[1]
