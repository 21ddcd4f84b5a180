"""Patches and errors over hidden tissue: closed forms only."""

import pytest
import torch

from medssl.encoders._tokens import patchify
from medssl.objectives._parts.patches import masked_l1, masked_mse, mean_over, standardise

ALL = torch.ones(2, 4, 64, dtype=torch.bool)


def unpatchify(patches, size, grid, channels):
    b, axes = len(patches), len(size)
    cut = patches.view(b, *grid, channels, *size)
    pairs = [axis for i in range(axes) for axis in (1 + i, 2 + axes + i)]
    whole = cut.permute(0, 1 + axes, *pairs)
    return whole.reshape(b, channels, *(g * s for g, s in zip(grid, size, strict=True)))


@pytest.mark.parametrize(
    ("size", "grid"),
    [((2, 3, 4), (2, 2, 2)), ((1, 5, 2), (3, 1, 4)), ((3, 2), (4, 5)), ((4,), (6,))],
)
def test_patchify_has_an_inverse(size, grid):
    x = torch.randn(2, 3, *(g * s for g, s in zip(grid, size, strict=True)))
    patches = patchify(x, size)
    assert patches.shape == (2, torch.tensor(grid).prod(), 3 * torch.tensor(size).prod())
    assert torch.equal(unpatchify(patches, size, grid, 3), x)


def test_a_picture_is_cut_like_a_volume_of_one_slice():
    x = torch.randn(2, 3, 6, 8)
    assert torch.equal(patchify(x, (3, 4)), patchify(x[:, :, None], (1, 3, 4)))


def test_standardised_patches_have_mean_0_and_variance_1():
    patches = standardise(100 + 7 * torch.randn(2, 4, 64, dtype=torch.float64))
    torch.testing.assert_close(patches.mean(-1), torch.zeros(2, 4).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(patches.var(-1), torch.ones(2, 4).double(), atol=1e-6, rtol=0)


def test_a_constant_patch_is_0_even_far_from_0():
    assert standardise(torch.full((1, 1, 512), 3071.0)).abs().max() == 0


def test_predicting_the_standardised_target_costs_nothing():
    target = standardise(torch.randn(2, 4, 64))
    assert masked_mse(target, target, ALL) == 0


def test_predicting_0_costs_n_minus_1_over_n():
    # Unbiased variance 1 over n voxels: mean square is (n - 1) / n.
    target = standardise(torch.randn(2, 4, 64, dtype=torch.float64) * 100)
    loss = masked_mse(torch.zeros_like(target), target, ALL)
    assert loss.item() == pytest.approx(63 / 64, abs=1e-6)


@pytest.mark.parametrize("error", [masked_mse, masked_l1])
def test_visible_and_air_voxels_have_no_gradient(error):
    prediction = torch.randn(1, 2, 8, requires_grad=True)
    counted = torch.zeros(1, 2, 8, dtype=torch.bool)
    counted[0, 1, :5] = True
    error(prediction, torch.zeros(1, 2, 8), counted).backward()
    assert (prediction.grad[~counted] == 0).all()
    assert (prediction.grad[counted] != 0).all()


@pytest.mark.parametrize("error", [masked_mse, masked_l1])
def test_a_sample_of_air_adds_0_and_no_nan(error):
    x = torch.ones(2, 1, 4, requires_grad=True)
    counted = torch.tensor([[[True] * 4], [[False] * 4]])
    loss = error(x, torch.zeros(2, 1, 4), counted)
    loss.backward()
    assert loss.item() == 0.5
    assert (x.grad[1] == 0).all()


def test_samples_weigh_the_same_however_many_voxels_count():
    error = torch.tensor([[1.0, 1.0, 1.0, 1.0], [5.0, 5.0, 5.0, 5.0]])
    few = torch.tensor([[True] * 4, [True, False, False, False]])
    assert mean_over(error, few) == 3


@pytest.mark.parametrize("error", [masked_mse, masked_l1])
def test_gradients_agree_with_finite_differences(error):
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    y, counted = torch.randn(3, 2, 4, dtype=torch.float64), torch.rand(3, 2, 4) > 0.3
    assert torch.autograd.gradcheck(lambda p: error(p, y, counted), x)


def test_half_precision_is_summed_in_float32():
    x = torch.full((1, 1, 4096), 300.0, dtype=torch.float16)  # 300^2 is beyond float16
    loss = masked_mse(x, torch.zeros_like(x), torch.ones(1, 1, 4096, dtype=torch.bool))
    assert loss.dtype == torch.float32
    assert loss.item() == 90_000
