"""Golden checks of BYOL: closed forms, a teacher without gradient, and the planted collapse."""

import math

import pytest
import torch

from medssl.core.ema import cosine_momentum
from medssl.objectives.byol import regression


def test_equal_orthogonal_and_opposite_embeddings_cost_0_2_and_4():
    x, y = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    assert [regression(x, t).item() for t in (x, y, -x)] == [0.0, 2.0, 4.0]


def test_loss_is_the_squared_distance_of_unit_vectors():
    a, b = torch.randn(7, 5), torch.randn(7, 5)
    far = (a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)).square().sum(1)
    torch.testing.assert_close(regression(a, b), far.mean())


def test_the_target_gets_no_gradient():
    a, b = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    regression(a, b).backward()
    assert b.grad is None
    assert a.grad.abs().sum() > 0


@pytest.mark.parametrize(("progress", "momentum"), [(0.0, 0.996), (0.5, 0.998), (1.0, 1.0)])
def test_momentum_rises_along_a_cosine(progress, momentum):
    assert cosine_momentum(0.996, progress) == pytest.approx(momentum, abs=1e-12)
    t = 0.3
    assert cosine_momentum(0.996, t) == pytest.approx(
        1 - 0.004 * (math.cos(math.pi * t) + 1) / 2, abs=1e-12
    )
