"""What losses on prototypes, tokens and patches promise, whatever the method."""

import pytest
import torch
from torch.nn.functional import one_hot

from medssl.objectives._parts.dino import (
    cross_view_entropy,
    gram_loss,
    hidden_token_entropy,
    koleo,
)
from medssl.objectives._parts.patches import masked_l1, masked_mse
from medssl.objectives._parts.prototypes import Prototypes
from medssl.objectives._parts.sinkhorn import sinkhorn
from medssl.objectives.deepcluster import cluster_entropy
from medssl.objectives.jepa import prediction_error

# Two views, six samples, four values each.
SHAPE = (2, 6, 4)
MASK = torch.tensor([[True] * 6, [True, False] * 3])


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def targets():
    return draw(5, *SHAPE).softmax(2)


def hidden(x):
    return hidden_token_entropy(targets()[MASK], x[MASK], MASK, 0.5)


def clusters(x):
    labels = torch.tensor([[0, 1, 2, -100, 0, 1], [2, 2, -100, 1, 0, 0]])
    return cluster_entropy(x, torch.nn.functional.normalize(draw(6, 2, 3, 4), dim=2), labels, 0.5)


LOSSES = {
    "cross_view": lambda x: cross_view_entropy(targets(), x, 0.5),
    "hidden_token": hidden,
    "koleo": lambda x: koleo(x[0], torch.arange(6)),
    "gram": lambda x: gram_loss(x, draw(7, *SHAPE)),
    "clusters": clusters,
    "mae": lambda x: masked_mse(x, draw(8, *SHAPE), MASK[..., None].expand(SHAPE)),
    "simmim": lambda x: masked_l1(x, draw(8, *SHAPE), MASK[..., None].expand(SHAPE)),
    "jepa": lambda x: prediction_error(x[None], draw(9, 1, *SHAPE), MASK[None].double()),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_agrees_with_finite_differences(name):
    assert torch.autograd.gradcheck(LOSSES[name], draw(0, *SHAPE).requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
def test_one_step_down_the_gradient_lowers_the_loss(name):
    x = draw(1, *SHAPE).requires_grad_()
    loss = LOSSES[name](x)
    loss.backward()
    assert LOSSES[name]((x - 1e-3 * x.grad).detach()) < loss


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_loss_is_the_float32_loss_of_the_same_values(name):
    x = draw(2, *SHAPE).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        half = LOSSES[name](x)
    assert half.dtype in {torch.float32, torch.float64}  # the targets here are float64
    # Nothing is multiplied or summed in bfloat16: far closer than its 3 digits.
    assert half.item() == pytest.approx(LOSSES[name](x.float()).item(), rel=1e-5)


def test_scores_and_codes_keep_float32_under_autocast():
    prototypes, x = Prototypes(16, 5), draw(3, 9, 16).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = prototypes(x)
        codes = sinkhorn(scores, 0.05)
    expected = prototypes(x.float()).detach()
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(codes, sinkhorn(expected, 0.05))
    assert scores.dtype == codes.dtype == torch.float32


def test_samples_without_label_do_not_pull():
    x = draw(4, *SHAPE).requires_grad_()
    labels = torch.tensor([[0, -100, 1, 2, -100, 0]])
    cluster_entropy(x, one_hot(torch.arange(3), 4)[None].double(), labels, 0.5).backward()
    assert (x.grad[:, [1, 4]] == 0).all()
    assert (x.grad[:, [0, 2, 3, 5]].abs().sum(2) > 0).all()
