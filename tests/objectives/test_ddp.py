"""The harness finds what it is for: losses and statistics that forget the other rank."""

import torch
from torch import nn

from medssl.core.task import StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.objectives._parts.contrast import nt_xent
from medssl.objectives._parts.distributed import gather, rank
from tests.objectives.ddp import compare, outcome, run_two_ranks


class Toy(TaskModule):
    def __init__(self, norm, combine):
        super().__init__()
        self.net, self.combine = nn.Sequential(nn.Linear(3, 4), norm(4)), combine

    def step(self, batch):
        a, b = (self.combine(self.net(x)) for x in batch["views"])
        return StepOutput(nt_xent(a, b, temperature=0.5), {})


def right():
    return Toy(nn.LayerNorm, gather)


def forgets_negatives():
    return Toy(nn.LayerNorm, nn.Identity())


def stops_the_gradient():
    return Toy(nn.LayerNorm, detached_gather)


def forgets_statistics():
    return Toy(nn.BatchNorm1d, gather)


def detached_gather(x):
    """The classic mistake: rows of the other rank come without gradient."""
    rows = list(gather(x.detach()).split(len(x)))
    rows[rank()] = x
    return torch.cat(rows)


def toy_batch():
    draw = torch.Generator().manual_seed(3)
    return {"views": [torch.randn(6, 3, generator=draw) for _ in range(2)]}


def test_planted_mistakes_are_found():
    tasks = (right, forgets_negatives, stops_the_gradient, forgets_statistics)
    cases = {make.__name__: (make, toy_batch) for make in tasks}
    found = run_two_ranks(cases)
    differ = {
        name: compare(outcome(*case, rank=0, world=1), found[name][1], 1e-8)
        for name, case in cases.items()
    }
    assert differ.pop("right") == []
    assert all(differ.values())
    # A gather that halves the gradients leaves the loss right.
    assert not any(line.startswith("loss") for line in differ["stops_the_gradient"])
