"""Measures of health have the values of their papers; the verdict is the one a reader expects."""

import math

import pytest
import torch

from medssl.evaluation.health import effective_rank, feature_std, lidar, rankme, verdict


def rank_k(k, n=64, d=16):
    """N x D with k equal singular values."""
    left, _ = torch.linalg.qr(torch.randn(n, k, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(d, k, dtype=torch.float64))
    return left @ right.T


@pytest.mark.parametrize(("k", "value"), [(1, 1.00002), (3, 3.00006), (7, 7.0001)])
def test_rankme_of_k_equal_singular_values_is_k(k, value):
    assert rankme(rank_k(k)) == pytest.approx(value, abs=1e-5)


def test_rankme_of_singular_values_2_and_1():
    # p = 2/3, 1/3: exp(ln 3 - 2/3 ln 2).
    assert effective_rank(torch.tensor([2.0, 1.0])) == pytest.approx(3 / 2 ** (2 / 3), abs=1e-5)
    assert rankme(torch.diag(torch.tensor([2.0, 1.0]))) == pytest.approx(1.8899, abs=1e-4)


def test_rankme_of_gaussian_rows_is_nearly_their_width():
    z = torch.randn(25_600, 64, generator=torch.Generator().manual_seed(0))
    assert rankme(z) == pytest.approx(63.98, abs=0.01)


def test_rankme_of_constant_rows_is_1():
    assert rankme(torch.full((9, 5), 3.0)) == pytest.approx(1, abs=1e-4)
    assert rankme(torch.zeros(9, 5)) == 1


def test_rankme_does_not_see_rotation_scale_or_order():
    z = torch.randn(30, 8, dtype=torch.float64) * torch.arange(1, 9)
    turn, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    for same in (z @ turn, 1000 * z, z.flip(0)):
        assert rankme(same) == pytest.approx(rankme(z), rel=1e-9)
    assert rankme(z) < 8


def test_lidar_of_k_orthonormal_means_is_k_minus_1():
    means = 5 * torch.eye(12, dtype=torch.float64)[:7]
    noise = torch.randn(7, 400, 12, generator=torch.Generator().manual_seed(0))
    assert lidar(means[:, None] + 0.01 * noise) == pytest.approx(6, abs=0.01)
    assert lidar(means[:, None].expand(7, 3, 12)) == pytest.approx(6, abs=1e-4)


def test_lidar_agrees_with_the_definition():
    z = torch.randn(20, 3, 6, dtype=torch.float64) + 3 * torch.randn(20, 1, 6, dtype=torch.float64)
    between = torch.cov(z.mean(1).T)
    within = torch.stack([torch.cov(sample.T) for sample in z]).mean(0) + 1e-4 * torch.eye(6)
    values, vectors = torch.linalg.eigh(within)
    root = vectors @ torch.diag(values**-0.5) @ vectors.T
    expected = effective_rank(torch.linalg.eigvalsh(root @ between @ root))
    assert lidar(z) == pytest.approx(expected, abs=1e-6)


def test_lidar_of_equal_samples_is_1_and_one_view_is_no_crash():
    assert lidar(torch.ones(6, 2, 4)) == pytest.approx(1)
    assert math.isfinite(lidar(torch.randn(6, 1, 4)))
    assert math.isfinite(lidar(torch.randn(1, 2, 4)))


@pytest.mark.parametrize("scale", [1.0, 1e7, 1e20])
def test_lidar_of_a_run_that_diverges_is_a_number(scale):
    # 64 features, 8 views: the covariance within samples has rank 8, the rest is its 1e-4.
    z = scale * torch.randn(4, 2, 64, generator=torch.Generator().manual_seed(0))
    assert 1 <= lidar(z) <= 3 + 1e-4


def test_spread_is_1_for_even_directions_and_0_for_one():
    assert feature_std(torch.randn(20_000, 64)) == pytest.approx(1, abs=0.01)
    assert feature_std(torch.ones(9, 64)) == 0
    few = torch.zeros(20_000, 64)
    few[:, :16] = torch.randn(20_000, 16)
    assert feature_std(few) == pytest.approx(math.sqrt(16 / 64), abs=0.01)


def test_numbers_that_are_not_finite_stay_visible():
    z = torch.randn(8, 2, 4)
    z[3, 0, 1] = math.nan
    assert math.isnan(rankme(z.flatten(0, 1)))
    assert math.isnan(lidar(z))


FIRST = {
    "rankme": 20.0, "lidar": 30.0, "feature_std": 0.4, "embedding_std": 0.9,
    "mean_entropy": 4.0, "teacher_entropy": 3.0, "prototype_usage": 0.6,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "state", "words"),
    [
        ({}, "healthy", "RankMe 20.0"),
        ({"rankme": 45.0, "lidar": 60.0, "feature_std": 0.9}, "healthy", "RankMe 45.0"),
        ({"feature_std": 0.02}, "collapsed", "encoder"),
        ({"embedding_std": 0.01}, "collapsed", "the loss"),
        ({"mean_entropy": 0.1, "teacher_entropy": 0.1}, "collapsed", "one prototype"),
        ({"mean_entropy": 4.15, "teacher_entropy": 4.14}, "collapsed", "all prototypes"),
        ({"rankme": 9.0}, "healthy", "RankMe 9.0"),
        ({"rankme": 4.0}, "shrinking", "RankMe 4.00, 20.00 untrained"),
        ({"mean_entropy": 4.15, "teacher_entropy": 4.09}, "healthy", "RankMe"),
        ({"lidar": 9.0}, "shrinking", "LiDAR"),
        ({"prototype_usage": 0.05}, "shrinking", "prototypes"),
        ({"prototype_usage": 0.2}, "healthy", "RankMe"),
        ({"rankme": math.nan}, "collapsed", "not finite: rankme"),
        ({"grad_norm/encoder.stem": math.inf}, "collapsed", "grad_norm/encoder.stem"),
    ],
)
def test_verdicts(changed, state, words):
    found = verdict({**FIRST, **changed}, FIRST)
    assert found.state == state
    assert words in str(found)
    assert ("; try: " in str(found)) == (state != "healthy")


def test_a_network_that_starts_flat_is_not_collapsed_for_that():
    # An untrained convolutional network gives all volumes nearly one direction.
    flat = {"rankme": 1.4, "lidar": 1.5, "feature_std": 0.013}
    assert verdict(flat, flat).state == "healthy"
    assert verdict({**flat, "feature_std": 0.001}, flat).state == "collapsed"


def test_a_loss_without_gradient_trains_nothing():
    # SimCLR with a batch of one: no negatives, and a loss of 0.
    first = {"rankme": 4.0, "lidar": 9.0, "feature_std": 0.3}
    silent = {"grad_norm/encoder.body": 0.0, "grad_norm/encoder.net.1": 0.0, "grad_norm/head": 0.0}
    assert "batch_size" in verdict({**first, **silent}, first).fix
    assert verdict({**first, **silent}, first).state == "collapsed"
    assert verdict({**first, **silent, "grad_norm/encoder.net.1": 1e-9}, first).state == "healthy"


@pytest.mark.parametrize(
    ("untrained", "now", "state"),
    [
        (0.03, 0.013, "healthy"),  # a sound BYOL on eight volumes
        (0.049, 0.03, "healthy"),  # MoCo while its queue fills
        (0.047, 0.007, "collapsed"),  # BYOL without stop-gradient
        (0.8, 0.06, "healthy"),
        (0.8, 0.04, "collapsed"),
    ],
)
@pytest.mark.parametrize("key", ["embedding_std", "target_std", "feature_std"])
def test_a_small_spread_is_judged_by_the_untrained_one(untrained, now, state, key):
    first = {"rankme": 4.0, "lidar": 9.0, key: untrained}
    assert verdict({**first, key: now}, first).state == state
