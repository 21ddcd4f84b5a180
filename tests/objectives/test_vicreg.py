"""Golden checks of VICReg."""

import pytest
import torch
from scipy.linalg import hadamard
from torch.nn.functional import mse_loss

from medssl.core.seeding import seed_everything
from medssl.core.viewspec import Setting
from medssl.objectives import vicreg as module
from medssl.objectives.vicreg import redundancy, variance_hinge
from tests.objectives.toys import CROP, TinyEncoder, toy_batch

# 8 samples, 7 uncorrelated features of mean 0; unbiased variance 1 after scaling by sqrt(7/8).
WHITE = torch.tensor(hadamard(8)[:, 1:], dtype=torch.float64) * (7 / 8) ** 0.5


def vicreg(a, b):
    spread = variance_hinge(a) + variance_hinge(b)
    return 25 * mse_loss(a, b) + 12.5 * spread + redundancy(a) + redundancy(b)


def test_constant_embeddings_pay_the_variance_only():
    point = torch.full((8, 4), 3.0)
    assert variance_hinge(point).item() == pytest.approx(0.99, abs=1e-6)
    assert vicreg(point, point).item() == pytest.approx(24.75, abs=1e-5)


def test_white_equal_views_cost_nothing():
    # sqrt(1 + 1e-4) is just above 1: the hinge is shut.
    assert vicreg(WHITE, WHITE).item() == pytest.approx(0, abs=1e-12)


def test_a_shift_of_white_views_costs_25_times_its_square():
    assert vicreg(WHITE, WHITE + 0.2).item() == pytest.approx(25 * 0.04, abs=1e-12)


def test_features_with_spread_1_or_more_get_no_gradient_from_the_variance():
    z = (1.5 * WHITE).requires_grad_()
    variance_hinge(z).backward()
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_covariance_divides_by_b_minus_1():
    z = torch.randn(6, 3, dtype=torch.float64)
    cov = torch.cov(z.T)
    expected = (cov.square().sum() - cov.diagonal().square().sum()) / 3
    torch.testing.assert_close(redundancy(z), expected)


def test_a_batch_of_one_has_variance_0_and_learns_nothing_from_it():
    z = torch.randn(1, 4, requires_grad=True)
    loss = variance_hinge(z) + redundancy(z)
    loss.backward()
    assert loss.item() == pytest.approx(0.99, abs=1e-6)
    assert torch.equal(z.grad, torch.zeros(1, 4))


def test_step_weighs_the_terms_with_25_25_and_1():
    seed_everything(0)
    config = module.Config(hidden=32, out=16)
    task = module.Objective(TinyEncoder(), config, Setting(crop=CROP, records=100))
    output = task.step(toy_batch(task, 8))
    log = output.log
    expected = 25 * log["invariance"] + 25 * log["variance"] + log["covariance"]
    torch.testing.assert_close(output.loss, expected)
