"""The dense probe: all levels at every voxel, and a network that stays as it is."""

import numpy as np
import pytest
import torch
from torch import nn

from medssl.core.errors import UsageError
from medssl.core.features import Features
from medssl.evaluation.dense import DenseProbe, at_points, to_grid
from medssl.evaluation.linear import fit_logistic


class Copy(nn.Module):
    """An encoder whose only level is its input: what a probe learns is known."""

    def forward(self, x):
        return Features(x.flatten(2).mean(2), None, None, [x])


class Two(nn.Module):
    """Convolutions with batch norms: three channels at full size, five at half."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3))
        self.deep = nn.Sequential(nn.Conv2d(3, 5, 2, stride=2), nn.BatchNorm2d(5))

    def forward(self, x):
        fine = self.fine(x)
        deep = self.deep(fine)
        return Features(deep.flatten(2).mean(2), None, None, [fine, deep])


def ramp():
    x = torch.linspace(-1, 1, 64).view(1, 8, 8)
    return x, (x[0] > 0.25).numpy().astype(np.uint8)


def test_probe_finds_a_threshold_of_the_only_feature():
    x, label = ramp()
    probe = DenseProbe(Copy(), 2)
    probe.fit([x], [label], seed=0)
    assert (probe.predict(x) == label).mean() > 0.95


def test_voxels_outside_the_image_teach_nothing():
    x, label = ramp()
    beyond = np.concatenate([label.astype(np.int64), np.full((8, 8), -1)])
    wide = torch.cat([x, torch.full((1, 8, 8), 1e4)], 1)
    probe = DenseProbe(Copy(), 2)
    probe.fit([wide], [beyond], seed=0)
    assert (probe.predict(x) == label).mean() > 0.95


def test_probe_needs_two_classes():
    x, label = torch.randn(1, 8, 8), np.zeros((8, 8), dtype=np.uint8)
    probe = DenseProbe(Copy(), 2)
    with pytest.raises(UsageError, match="two classes"):
        probe.fit([x], [label], seed=0)


@pytest.mark.parametrize("size", [(6, 9), (4, 6, 10)])
def test_values_at_points_are_those_of_the_interpolated_map(size):
    level = torch.randn(1, 3, *[-(-side // 3) for side in size])
    whole = to_grid(level, size).flatten(2)[0].T
    places = np.arange(len(whole))
    assert at_points(level, places, size).numpy() == pytest.approx(whole.numpy(), abs=1e-5)


@pytest.mark.parametrize("size", [(7, 5), (4, 6, 10)])
def test_a_constant_level_stays_constant(size):
    level = torch.full((1, 2, *[2] * len(size)), 0.3)
    assert to_grid(level, size).numpy() == pytest.approx(0.3)
    assert at_points(level, np.arange(10), size).numpy() == pytest.approx(0.3)


def test_features_are_as_wide_as_all_levels_together():
    probe = DenseProbe(Two(), 2)
    x, label = ramp()
    probe.fit([x], [label], seed=0)
    assert probe.weight_KC.shape == (2, 3 + 5)
    assert probe(x[None]).shape == (1, 2, 8, 8)


def penalised_loss(x_ND, y_N, l2=5e-4):
    probe = fit_logistic(x_ND, y_N, l2)
    p_NK = np.exp(probe.scores(x_ND))
    p_N = p_NK[np.arange(len(y_N)), y_N] / p_NK.sum(1)
    return -np.log(p_N).mean() + l2 / 2 * (probe.weight_DK**2).sum()


@pytest.mark.parametrize("seed", range(3))
def test_one_more_level_never_makes_the_fit_of_the_training_set_worse(seed):
    rng = np.random.default_rng(seed)
    fine, more = rng.normal(size=(200, 3)), rng.normal(size=(200, 5))
    y = (fine[:, 0] + more[:, 0] + rng.normal(size=200) > 0).astype(int)
    assert penalised_loss(np.hstack([fine, more]), y) <= penalised_loss(fine, y) + 1e-6


def test_the_network_is_bitwise_unchanged_without_gradients_and_in_evaluation_mode():
    encoder = Two().train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    probe = DenseProbe(encoder, 2)
    x, label = ramp()
    probe.fit([x], [label], seed=0)
    probe.predict(x)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert not any(module.training for module in encoder.modules())
    assert all(p.grad is None for p in encoder.parameters())
