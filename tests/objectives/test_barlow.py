"""Golden checks of Barlow Twins and its mixed variant."""

import pytest
import torch
from scipy.linalg import hadamard

from medssl.core.seeding import seed_everything
from medssl.core.viewspec import Setting
from medssl.objectives import barlow
from medssl.objectives.barlow import barlow_terms, mixing_error, standardise
from tests.objectives.toys import CROP, TinyEncoder, toy_batch

# 16 samples, 8 uncorrelated features with mean 0 and (biased) variance 1.
WHITE = torch.tensor(hadamard(16)[:, 1:9], dtype=torch.float64)


def loss_of(a, b, weight=0.0051):
    terms = barlow_terms(standardise(a), standardise(b))
    return (terms["invariance"] + weight * terms["redundancy"]).item()


def test_white_equal_views_cost_nothing():
    # 1e-5 under the root of the variance leaves D (1e-5)^2; the mistaken ddof leaves 1.2e-4.
    assert loss_of(WHITE, WHITE) == pytest.approx(0, abs=1e-8)
    assert loss_of(WHITE[:8, [0, 1, 3]], WHITE[:8, [0, 1, 3]]) == pytest.approx(0, abs=1e-8)


def test_opposite_views_cost_4_per_feature():
    assert loss_of(WHITE, -WHITE) == pytest.approx(4 * 8, abs=1e-3)


def test_equal_features_cost_lambda_d_times_d_minus_1():
    one = WHITE[:, :1].expand(-1, 8)
    assert loss_of(one, one) == pytest.approx(0.2856, abs=1e-4)
    assert loss_of(one, one) == pytest.approx(0.0051 * 8 * 7, abs=1e-4)


def test_shift_and_positive_scale_of_a_feature_change_nothing():
    a, b = torch.randn(12, 8, dtype=torch.float64), torch.randn(12, 8, dtype=torch.float64)
    scale, shift = torch.rand(8, dtype=torch.float64) + 1, torch.randn(8, dtype=torch.float64)
    assert loss_of(a * scale + shift, b) == pytest.approx(loss_of(a, b), rel=1e-5)


def test_a_dead_feature_costs_1_and_breaks_nothing():
    a = WHITE.clone()
    a[:, 0] = 3.0
    assert loss_of(a, a) == pytest.approx(1.0, abs=1e-6)


def test_mixing_error_vanishes_for_alpha_1():
    a, b = torch.randn(2, 6, 4, dtype=torch.float64)
    partner = torch.tensor([1, 2, 3, 4, 5, 0])
    assert mixing_error(a, a, b, partner, 1.0).item() == 0


def test_mixing_error_vanishes_for_equal_views_and_no_partner():
    a = torch.randn(6, 4, dtype=torch.float64)
    for alpha in (0.0, 0.3, 1.0):
        assert mixing_error(a, a, a, torch.arange(6), alpha).item() == pytest.approx(0, abs=1e-24)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9])
def test_mixing_error_of_a_linear_encoder_vanishes(alpha):
    x, y = torch.randn(2, 6, 10, dtype=torch.float64)
    partner = torch.randperm(6)
    weight = torch.randn(10, 4, dtype=torch.float64)
    mixture = alpha * x + (1 - alpha) * y[partner]
    error = mixing_error(mixture @ weight, x @ weight, y @ weight, partner, alpha)
    assert error.item() == pytest.approx(0, abs=1e-20)


def test_mixing_error_is_the_papers_difference_of_correlations():
    m, a, b = torch.randn(3, 6, 4, dtype=torch.float64)
    partner, alpha, total = torch.tensor([2, 0, 1, 5, 3, 4]), 0.3, 0.0
    for z in (a, b):
        target = alpha * a.T @ z / 6 + (1 - alpha) * b[partner].T @ z / 6
        total += (m.T @ z / 6 - target).square().sum()
    torch.testing.assert_close(mixing_error(m, a, b, partner, alpha), total)


def tiny(**options):
    seed_everything(0)
    config = barlow.Config(hidden=32, out=16, **options)
    return barlow.Objective(TinyEncoder(), config, Setting(crop=CROP, records=100)).train()


def test_without_mixed_samples_it_is_plain_barlow_twins():
    task = tiny()
    output = task.step(toy_batch(task, 6))
    plain = output.log["invariance"] + output.log["redundancy"] / 128
    torch.testing.assert_close(output.loss, plain)
    assert "mixed" not in output.log
    other = tiny(mixed=2.0)
    mixed = other.step(toy_batch(other, 6))
    torch.testing.assert_close(mixed.loss, plain + 2 / 128 * mixed.log["mixed"])


def test_partners_are_other_records_whatever_the_order_of_the_batch():
    task = tiny(mixed=1.0)
    record = torch.tensor([4, 9, 2, 7, 5])
    turn = torch.tensor([3, 1, 4, 0, 2])
    for _ in range(20):
        (alpha, partner), (again, turned) = task._draw(record), task._draw(record[turn])
        assert alpha == again
        pairs = dict(zip(record.tolist(), record[partner].tolist(), strict=True))
        assert pairs == dict(zip(record[turn].tolist(), record[turn][turned].tolist(), strict=True))
        assert all(one != other for one, other in pairs.items())
        task.after_update(0.5)


def test_mixtures_stay_within_a_step_and_change_with_the_update():
    task = tiny(mixed=1.0)
    record = torch.arange(6)
    first = task._draw(record)[0]
    assert task._draw(record)[0] == first
    task.after_update(0.5)
    assert task._draw(record)[0] != first


def test_a_mixture_of_one_sample_is_a_mixture_of_its_views():
    task = tiny(mixed=1.0)
    assert torch.isfinite(task.step(toy_batch(task, 1)).loss)
