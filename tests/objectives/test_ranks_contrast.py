"""Two processes equal one for every variant of the pair objectives, repeated records included."""

from functools import partial

import pytest
import torch

from medssl.core.config import validate
from medssl.core.registry import OBJECTIVES
from medssl.core.viewspec import Setting
from tests.objectives.ddp import assert_two_ranks_equal_one
from tests.objectives.toys import CROP, TinyEncoder, toy_batch

VARIANTS = [
    ("simclr", {}),
    ("simclr", {"norm": "layer", "temperature": 0.05}),
    ("moco", {"queue": 10}),
    ("moco", {"queue": 4, "norm": "batch"}),  # shorter than the batch
    ("moco", {"version": "v3"}),
    ("byol", {}),
    ("barlow", {}),
    ("barlow", {"mixed": 4.0}),
    ("vicreg", {}),
]


def make(name, options):
    module, _ = OBJECTIVES.module(name)
    config = validate(module.Config, {"hidden": 32, "out": 16, **options}, where=name)
    return module.Objective(TinyEncoder(), config, Setting(crop=CROP, records=100))


def batch_of(name, options):
    # Records 0 and 5 come twice, once on both ranks and once on one of them.
    return {**toy_batch(make(name, options), 6), "record": torch.tensor([0, 5, 5, 8, 0, 2])}


@pytest.mark.slow
def test_two_ranks_equal_one_for_every_variant():
    assert_two_ranks_equal_one({
        f"{name} {options}": (partial(make, name, options), partial(batch_of, name, options))
        for name, options in VARIANTS
    })  # fmt: skip
