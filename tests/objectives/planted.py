"""Objectives with a planted mistake, for checks that it is seen."""

import torch

from medssl.objectives._parts.dino import Targets


class Uncentred(Targets):
    """softmax(logits / temperature): neither centre nor Sinkhorn."""

    @torch.no_grad()
    def forward(self, logits_NK, temperature):
        return (logits_NK / temperature).softmax(1)


def without_centring(task):
    """A ``dino`` or ``ibot`` whose teacher may give one answer to all samples: it collapses."""
    task.targets = Uncentred()
    if task.patch_targets is not None:
        task.patch_targets = Uncentred()
    return task
