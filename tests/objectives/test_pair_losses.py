"""What every loss on two batches of embeddings promises, whatever the method."""

from functools import partial

import pytest
import torch
from torch.nn.functional import mse_loss

from medssl.objectives._parts.contrast import info_nce, nt_xent, queue_nce
from medssl.objectives._parts.precision import upcast
from medssl.objectives.barlow import barlow_terms, mixing_error, standardise
from medssl.objectives.byol import regression
from medssl.objectives.vicreg import redundancy, variance_hinge


def moco_v2(a, b, temperature=0.2):
    draw = torch.Generator().manual_seed(9)
    return queue_nce(
        a, b.detach(), torch.randn(5, a.shape[1], generator=draw).to(a), temperature=temperature
    )


def moco_v3(a, b, temperature=0.2):
    both = info_nce(a, b.detach(), temperature=temperature)
    return 2 * temperature * (both + info_nce(b, a.detach(), temperature=temperature))


def byol(a, b):
    return (regression(a, b) + regression(b, a)) / 2


def barlow(a, b):
    terms = barlow_terms(standardise(a), standardise(b))
    return terms["invariance"] + 0.01 * terms["redundancy"]


def mixed(a, b):
    z = (a + b.roll(1, 0)) / 3
    return mixing_error(z, a, b, torch.arange(len(a)).roll(1), 0.3)


def vicreg(a, b):
    spread = variance_hinge(a) + variance_hinge(b)
    return 25 * mse_loss(upcast(a), upcast(b)) + 12.5 * spread + redundancy(a) + redundancy(b)


SIMCLR = partial(nt_xent, temperature=0.5)
LOSSES = {
    "simclr": SIMCLR, "moco_v2": moco_v2, "moco_v3": moco_v3, "byol": byol, "barlow": barlow,
    "mixed": mixed, "vicreg": vicreg,
}  # fmt: skip
SYMMETRIC = [name for name in LOSSES if name not in {"moco_v2", "mixed"}]
COSINE = ["simclr", "moco_v2", "moco_v3", "byol"]


def pair(b, d, seed=0, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    return (torch.randn(b, d, generator=draw, dtype=dtype) for _ in range(2))


# Of losses with a stopped gradient one direction: finite differences know no stop.
ONE_WAY = {**LOSSES, "byol": regression, "moco_v3": partial(info_nce, temperature=0.2)}


@pytest.mark.parametrize("name", ONE_WAY)
def test_gradient_agrees_with_finite_differences(name):
    a, b = pair(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: ONE_WAY[name](x, b), a.requires_grad_())


@pytest.mark.parametrize("name", SYMMETRIC)
def test_swapping_views_changes_nothing(name):
    a, b = pair(6, 5)
    torch.testing.assert_close(LOSSES[name](a, b), LOSSES[name](b, a))


@pytest.mark.parametrize("name", [n for n in LOSSES if n != "mixed"])
def test_order_of_samples_changes_nothing(name):
    a, b = pair(6, 5)
    turn = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(LOSSES[name](a[turn], b[turn]), LOSSES[name](a, b))


@pytest.mark.parametrize("name", ["simclr", "moco_v3", "byol"])
def test_rotating_the_space_of_embeddings_changes_nothing(name):
    a, b = pair(6, 5, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    torch.testing.assert_close(LOSSES[name](a @ turn, b @ turn), LOSSES[name](a, b))


@pytest.mark.parametrize("name", COSINE)
def test_length_of_embeddings_does_not_matter(name):
    a, b = pair(6, 5)
    factors = torch.tensor([[0.1], [1], [2], [3], [40], [500]])
    torch.testing.assert_close(LOSSES[name](a * factors, b * 7), LOSSES[name](a, b))


@pytest.mark.parametrize("name", ["simclr", "moco_v3", "byol", "barlow", "vicreg"])
def test_order_of_features_does_not_matter(name):
    a, b = pair(6, 5)
    turn = torch.tensor([3, 0, 1, 4, 2])
    torch.testing.assert_close(LOSSES[name](a[:, turn], b[:, turn]), LOSSES[name](a, b))


@pytest.mark.parametrize("name", LOSSES)
def test_one_step_down_the_gradient_lowers_the_loss(name):
    a, b = pair(8, 6)
    a.requires_grad_()
    loss = LOSSES[name](a, b)
    loss.backward()
    assert LOSSES[name]((a - 1e-3 * a.grad).detach(), b) < loss


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_loss_is_the_float32_loss_of_the_same_embeddings(name):
    a, b = (z.bfloat16() for z in pair(32, 64))
    full = LOSSES[name](a.float(), b.float())
    with torch.autocast("cpu", torch.bfloat16):
        half = LOSSES[name](a, b)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=1e-2)


@pytest.mark.parametrize("shape", [(1, 8), (2, 8), (6, 8)])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", ["random", "duplicates", "constant", "zero", "huge"])
def test_hard_batches_give_finite_loss_and_gradient(name, shape, kind):
    a, b = pair(*shape)
    if kind != "random":
        a = {"duplicates": a[:1].expand(shape), "constant": torch.ones(shape),
             "zero": torch.zeros(shape), "huge": a * 1e4}[kind].clone()  # fmt: skip
        b = a.clone()
    a.requires_grad_()
    loss = LOSSES[name](a, b)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize("loss", [nt_xent, moco_v2, moco_v3])
@pytest.mark.parametrize("same", [True, False])
def test_temperature_of_5_thousandths_gives_no_nan(loss, same):
    a, b = pair(16, 8)
    a = (b.clone() if same else a).requires_grad_()
    value = loss(a, b, temperature=0.005)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(a.grad).all()
