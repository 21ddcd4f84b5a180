"""Same inputs, same number (1e-5): masked objectives against torch and lightly.

The names of these tests are the rows of the table of agreements.
"""

import pytest
import torch
import torch.nn.functional as F
from lightly.models import utils as lightly_utils

from medssl.encoders._tokens import patchify
from medssl.objectives._parts.joint_embedding import at_blocks, normalise
from medssl.objectives._parts.patches import masked_l1, masked_mse, standardise
from medssl.objectives.jepa import prediction_error


def agree(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.fixture
def pictures():
    return torch.randn(3, 2, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def hidden():
    return torch.rand(3, 16, generator=torch.Generator().manual_seed(1)) < 0.75


def test_mae_patchify_equals_torch_unfold(pictures):
    theirs = F.unfold(pictures, (4, 8), stride=(4, 8)).transpose(1, 2)
    assert torch.equal(patchify(pictures, (4, 8)), theirs)


def test_mae_patchify_equals_torch_unfold_of_volumes():
    x = torch.randn(2, 3, 4, 6, 8)
    windows = x.unfold(2, 2, 2).unfold(3, 3, 3).unfold(4, 4, 4)  # (B, C, d, h, w, 2, 3, 4)
    theirs = windows.permute(0, 2, 3, 4, 1, 5, 6, 7).reshape(2, 8, -1)
    assert torch.equal(patchify(x, (2, 3, 4)), theirs)


def test_mae_patchify_equals_lightly_patchify(pictures):
    theirs = lightly_utils.patchify(pictures, 8)  # channels last inside a patch
    theirs = theirs.view(3, 16, 64, 2).transpose(2, 3).flatten(2)
    assert torch.equal(patchify(pictures, (8, 8)), theirs)


def test_mae_standardise_equals_lightly_normalize_mean_var(pictures):
    patches = patchify(pictures, (8, 8))
    agree(standardise(patches), lightly_utils.normalize_mean_var(patches))


def test_mae_masked_mse_equals_torch_mse_loss_of_hidden_patches(pictures, hidden):
    # The papers' mean over all hidden patches: the same when every sample hides equally many.
    hidden = hidden.sort(1).values.flip(1)[:1].expand(3, -1)
    target = standardise(patchify(pictures, (8, 8)))
    prediction = target.flip(0)
    theirs = F.mse_loss(prediction[hidden], target[hidden])
    agree(masked_mse(prediction, target, hidden[:, :, None].expand_as(target)), theirs)


def test_simmim_masked_l1_equals_torch_l1_loss_per_sample(pictures, hidden):
    x = patchify(pictures, (8, 8))
    theirs = [F.l1_loss(y[m], t[m]) for y, t, m in zip(x.flip(0), x, hidden, strict=True)]
    ours = masked_l1(x.flip(0), x, hidden[:, :, None].expand_as(x))
    agree(ours, torch.stack(theirs).mean())


def test_jepa_targets_equal_torch_layernorm_and_lightly_apply_masks():
    tokens = torch.randn(2, 16, 24)
    blocks = torch.stack([torch.randperm(16)[:6].view(2, 3) for _ in range(2)])
    normal = torch.nn.LayerNorm(24, elementwise_affine=False)(tokens)
    theirs = lightly_utils.apply_masks(normal, [blocks[:, 0], blocks[:, 1]])  # (2 * B, K, D)
    agree(at_blocks(normalise(tokens), blocks).transpose(0, 1).flatten(0, 1), theirs)


def test_jepa_prediction_error_equals_torch_smooth_l1_loss():
    y, target = torch.randn(2, 3, 4, 5, 8).mul(3)
    agree(prediction_error(y, target, torch.ones(3, 4, 5)), F.smooth_l1_loss(y, target))
