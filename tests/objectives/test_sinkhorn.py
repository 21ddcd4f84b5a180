"""Golden checks G4-G9 of balanced assignments."""

import pytest
import torch

from medssl.objectives._parts.sinkhorn import sinkhorn


def scores(samples=64, prototypes=10):
    generator = torch.Generator().manual_seed(0)
    points, centres = (
        torch.nn.functional.normalize(torch.randn(n, 16, generator=generator).double(), dim=1)
        for n in (samples, prototypes)
    )
    return points @ centres.T


@pytest.mark.parametrize("iterations", [1, 3, 10, 100])
def test_each_sample_has_mass_1_after_any_number_of_iterations(iterations):
    mass = sinkhorn(scores(), 0.05, iterations).sum(1)
    assert (mass - 1).abs().max() < 2e-15


def test_prototypes_are_balanced_in_the_limit_only():
    def worst(iterations):
        mass = sinkhorn(scores(), 0.05, iterations).sum(0)
        return float((mass / 6.4 - 1).abs().max())

    gaps = [worst(n) for n in (1, 3, 10, 1000)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[1] > 0.02  # three iterations do not balance: tests must not say so
    assert gaps[3] < 1e-12


def test_a_constant_on_all_scores_changes_nothing():
    torch.testing.assert_close(sinkhorn(scores() + 1000, 0.05, 3), sinkhorn(scores(), 0.05, 3))


@pytest.mark.parametrize("shape", [(1, 10), (64, 1)])
def test_offsets_of_prototypes_or_samples_vanish_at_convergence(shape):
    offset = torch.linspace(-0.2, 0.2, max(shape)).double().view(shape)
    shifted = sinkhorn(scores() + offset, 0.05, 2000)
    torch.testing.assert_close(shifted, sinkhorn(scores(), 0.05, 2000), rtol=0, atol=1e-9)


def test_zero_scores_are_uniform_and_separated_blocks_one_hot():
    assert torch.equal(sinkhorn(torch.zeros(6, 4), 0.05), torch.full((6, 4), 0.25))
    blocks = torch.eye(3).repeat_interleave(5, 0)
    torch.testing.assert_close(sinkhorn(blocks, 0.05), blocks, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_huge_scores_stay_finite_in_every_format(dtype):
    huge = (torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).sign() * 1e4).to(dtype)
    q = sinkhorn(huge, 0.05)
    assert q.dtype == torch.float32
    assert torch.isfinite(q).all()
    torch.testing.assert_close(q.sum(1), torch.ones(8))


def test_more_prototypes_than_samples_one_prototype_and_one_sample():
    for shape in ((3, 50), (5, 1), (1, 7)):
        torch.testing.assert_close(sinkhorn(torch.randn(shape), 0.05).sum(1), torch.ones(shape[0]))


def test_no_sample_gives_no_row():
    assert sinkhorn(torch.zeros(0, 4), 0.05).shape == (0, 4)


def test_targets_carry_no_gradient():
    assert not sinkhorn(torch.randn(4, 3, requires_grad=True), 0.05).requires_grad
