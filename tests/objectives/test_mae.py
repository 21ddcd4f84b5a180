"""Golden checks of masked autoencoding: closed forms only."""

import numpy as np
import pytest
import torch

from medssl.core.masks import hidden_count, random_mask
from medssl.objectives._parts.patches import masked_mse, patchify, standardise


def unpatchify(patches, size, grid, channels):
    b = len(patches)
    cut = patches.view(b, *grid, channels, *size)
    whole = cut.permute(0, 4, 1, 5, 2, 6, 3, 7)
    return whole.reshape(b, channels, *(g * s for g, s in zip(grid, size, strict=True)))


def test_patchify_has_an_inverse():
    x = torch.randn(2, 3, 4, 6, 8)
    patches = patchify(x, (2, 3, 4))
    assert patches.shape == (2, 8, 3 * 24)
    assert torch.equal(unpatchify(patches, (2, 3, 4), (2, 2, 2), 3), x)


@pytest.mark.parametrize(("tokens", "ratio", "hidden"), [(196, 0.75, 147), (196, 0.9, 176)])
def test_hidden_counts_are_those_of_the_papers(tokens, ratio, hidden):
    assert hidden_count(tokens, ratio) == hidden


def test_masks_have_exact_counts_repeat_by_seed_and_differ_by_sample():
    first, again, other = (random_mask(np.random.default_rng(s), (6, 8, 6), 0.6) for s in (1, 1, 2))
    assert first.sum() == int(0.6 * 288)
    assert (first == again).all()
    assert (first != other).any()


def test_every_token_is_hidden_equally_often():
    draws = [random_mask(np.random.default_rng(s), (2, 2, 2), 0.5) for s in range(4000)]
    # Standard error of a share of 1/2 over 4000 draws is 0.008.
    assert np.abs(np.mean(draws, axis=0) - 0.5).max() < 5 * 0.008


def test_predicting_the_standardised_target_costs_nothing():
    target = standardise(torch.randn(2, 4, 64))
    assert masked_mse(target, target, torch.ones(2, 4, 64, dtype=torch.bool)) == 0


def test_predicting_zero_costs_n_minus_1_over_n():
    # Unbiased variance 1 over n voxels: mean square is (n - 1) / n.
    target = standardise(torch.randn(2, 4, 64, dtype=torch.float64) * 100)
    loss = masked_mse(torch.zeros_like(target), target, torch.ones(2, 4, 64, dtype=torch.bool))
    assert loss.item() == pytest.approx(63 / 64, abs=1e-4)


def test_visible_and_air_voxels_have_no_gradient():
    prediction = torch.randn(1, 2, 8, requires_grad=True)
    counted = torch.zeros(1, 2, 8, dtype=torch.bool)
    counted[0, 1, :5] = True
    masked_mse(prediction, torch.zeros(1, 2, 8), counted).backward()
    assert (prediction.grad[~counted] == 0).all()
    assert (prediction.grad[counted] != 0).all()


def test_a_sample_of_air_adds_zero_not_nan():
    x = torch.ones(2, 1, 4)
    counted = torch.tensor([[[True] * 4], [[False] * 4]])
    assert masked_mse(x, torch.zeros(2, 1, 4), counted).item() == 0.5


def test_gradient_agrees_with_finite_differences():
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    y, counted = torch.randn(3, 2, 4, dtype=torch.float64), torch.rand(3, 2, 4) > 0.3
    # masked_mse computes in float32: compare with a central difference at that precision.
    masked_mse(x, y, counted).backward()
    step = 1e-2
    shifted = x.detach().clone()
    shifted[1, 1, 2] += step
    up = masked_mse(shifted, y, counted)
    shifted[1, 1, 2] -= 2 * step
    down = masked_mse(shifted, y, counted)
    assert float(up - down) / (2 * step) == pytest.approx(float(x.grad[1, 1, 2]), abs=1e-3)
