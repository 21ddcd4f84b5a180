"""Same embeddings, same number (1e-5): ours against lightly and torch.

The names of these tests are the rows of the table of agreements.
"""

import pytest
import torch
from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, NTXentLoss, VICRegLoss
from torch import nn
from torch.nn.functional import mse_loss

from medssl.objectives._parts.contrast import info_nce, nt_xent, queue_nce
from medssl.objectives._parts.norm import BatchNorm
from medssl.objectives.barlow import barlow_terms, standardise
from medssl.objectives.byol import regression
from medssl.objectives.vicreg import redundancy, variance_hinge

pytestmark = pytest.mark.parametrize("shape", [(2, 3), (8, 16), (32, 128)])


def embeddings(shape):
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(shape, generator=draw)
    return a, a + 0.5 * torch.randn(shape, generator=draw)


def agree(ours, theirs):
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_simclr_nt_xent_equals_lightly_ntxentloss(shape, temperature):
    a, b = embeddings(shape)
    agree(nt_xent(a, b, temperature=temperature), NTXentLoss(temperature)(a, b))


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_moco_queue_nce_equals_lightly_ntxentloss_with_memory_bank(shape, temperature):
    a, b = embeddings(shape)
    theirs = NTXentLoss(temperature, memory_bank_size=(64, shape[1]))
    theirs(a, b)  # fills its bank with random directions
    bank = theirs.memory_bank.bank.clone()
    agree(queue_nce(a, b, bank, temperature=temperature), theirs(a, b))


def test_moco_v3_info_nce_equals_torch_cross_entropy(shape):
    # The loss as MoCo v3's pseudo-code has it: CrossEntropyLoss(q k^T / t, arange) 2 t.
    q, k = (nn.functional.normalize(z, dim=1) for z in embeddings(shape))
    theirs = nn.CrossEntropyLoss()(q @ k.T / 0.2, torch.arange(len(q)))
    agree(info_nce(q, k, temperature=0.2), theirs)


def test_byol_regression_equals_lightly_negativecosinesimilarity(shape):
    # Ours is 2 - 2 cos (the paper's squared distance), lightly's -cos.
    a, b = embeddings(shape)
    agree(regression(a, b), 2 + 2 * NegativeCosineSimilarity()(a, b))


@pytest.mark.parametrize("weight", [5.1e-3, 1 / 128])
def test_barlow_terms_equal_lightly_barlowtwinsloss(shape, weight):
    # Both divide by B in variance and correlation.
    a, b = embeddings(shape)
    terms = barlow_terms(standardise(a), standardise(b))
    agree(terms["invariance"] + weight * terms["redundancy"], BarlowTwinsLoss(weight)(a, b))


def test_vicreg_terms_equal_lightly_vicregloss(shape):
    a, b = (2 * z for z in embeddings(shape))
    spread = (variance_hinge(a) + variance_hinge(b)) / 2
    ours = 25 * mse_loss(a, b) + 25 * spread + redundancy(a) + redundancy(b)
    agree(ours, VICRegLoss()(a, b))


def test_batch_norm_equals_torch_batchnorm1d(shape):
    x, target = embeddings(shape)
    ours, theirs = BatchNorm(shape[1]), nn.BatchNorm1d(shape[1])
    results = []
    for norm in (ours, theirs):
        y = x.clone().requires_grad_()
        loss = (norm(y) - target).square().mean()
        loss.backward()
        results.append((loss, y.grad))
    agree(*(loss for loss, _ in results))
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-5, atol=1e-5)
