"""Two processes with half a batch each are one process with the whole: clustering, distillation."""

from functools import partial

import pytest
import torch

from medssl.core.registry import OBJECTIVES
from medssl.core.viewspec import Setting
from tests.objectives.ddp import assert_two_ranks_equal_one
from tests.objectives.toys import CROP, TinyEncoder, toy_batch

SMALL = {"prototypes": 8, "hidden": 16}
CASES = {
    "dino, Sinkhorn, Gram": (
        "dino",
        {**SMALL, "bottleneck": 8, "local_views": 2, "gram_weight": 1.0, "gram_at": (0.0,)},
    ),
    "dino, centring": ("dino", {**SMALL, "bottleneck": 8, "targets": "centring"}),
    "ibot": ("ibot", {**SMALL, "bottleneck": 8}),
    "swav": ("swav", {**SMALL, "out": 8, "queue": 0}),
    "swav, queue": ("swav", {**SMALL, "out": 8, "queue": 7, "queue_from": 0.0}),
    "deepcluster": ("deepcluster", {"hidden": 16, "out": 8, "clusters": 3}),
}


def build(name, options):
    module, _ = OBJECTIVES.module(name)
    return module.Objective(TinyEncoder(), module.Config(**options), Setting(crop=CROP, records=10))


def make_task(name, options):
    task = build(name, options)
    if name == "swav":  # queues that are full, with an odd number of vectors
        for queue in task.queues:
            queue.push(torch.randn(7, 8), torch.zeros(7, dtype=torch.long))
    if name == "deepcluster":
        # Two records of the batch are missing from the bank: ranks count different numbers.
        task.double().prepare(lambda: iter([_double(toy_batch(task, 6))]))
    return task


def make_batch(name, options):
    # Records 0 to 5 and 8, 9: one rank holds both that a bank of 6 lacks; one occurs twice.
    return toy_batch(build(name, options), 8) | {"record": torch.tensor([0, 1, 2, 3, 4, 1, 8, 9])}


def _double(batch):
    return {**batch, "views": [{"x": view["x"].double()} for view in batch["views"]]}


@pytest.mark.slow
def test_two_ranks_equal_one():
    assert_two_ranks_equal_one(
        {
            label: (partial(make_task, name, options), partial(make_batch, name, options))
            for label, (name, options) in CASES.items()
        }
    )
