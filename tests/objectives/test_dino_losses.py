"""Golden checks of the losses and targets of self-distillation: closed forms only."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import one_hot

from medssl.objectives._parts.dino import (
    Balanced,
    Centred,
    DinoHead,
    cross_view_entropy,
    gram_loss,
    hidden_token_entropy,
    koleo,
    warmed,
)
from medssl.objectives._parts.prototypes import Prototypes, assignment_log


def test_uniform_teacher_and_student_cost_log_k():
    loss = cross_view_entropy(torch.full((2, 3, 16), 1 / 16), torch.zeros(5, 3, 16), 0.1)
    assert loss.item() == pytest.approx(math.log(16), abs=1e-6)


def test_one_sharp_answer_of_both_costs_nothing():
    hot = one_hot(torch.tensor([[1, 2], [1, 2]]), 4).float()
    assert cross_view_entropy(hot, 100 * hot, 0.1).item() == 0


def test_loss_is_at_least_the_teachers_entropy_and_reaches_it():
    targets = torch.randn(2, 6, 5, dtype=torch.float64).softmax(2)
    targets[1] = targets[0]
    entropy = torch.special.entr(targets).sum(2).mean()
    assert cross_view_entropy(targets, torch.randn(2, 6, 5).double(), 0.1) > entropy
    torch.testing.assert_close(cross_view_entropy(targets, 0.1 * targets.log(), 0.1), entropy)


def test_a_view_is_never_its_own_target():
    # 2 x 6 pairs less the 2 of equal views; only those of equal views would cost nothing.
    targets = one_hot(torch.tensor([[0], [1]]), 3).float()
    logits = 50 * one_hot(torch.tensor([[0], [1], [2], [2], [2], [2]]), 3).float()
    assert cross_view_entropy(targets, logits, 1.0).item() == pytest.approx(50.0)


@pytest.mark.parametrize("counts", [(4, 1), (1, 4)])
def test_samples_with_few_hidden_tokens_weigh_as_much_as_others(counts):
    mask = torch.arange(4) < torch.tensor(counts)[:, None]
    cheap, dear = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    targets = torch.stack([cheap] * counts[0] + [dear] * counts[1])
    loss = hidden_token_entropy(targets, torch.tensor([[8.0, 0.0]]).expand(5, 2), mask, 1.0)
    assert loss.item() == pytest.approx(4.0, abs=1e-3)  # (0 + 8) / 2, whatever the counts


def test_a_batch_without_hidden_tokens_costs_nothing_and_has_a_gradient():
    logits = torch.zeros(0, 4, requires_grad=True)
    loss = hidden_token_entropy(torch.zeros(0, 4), logits, torch.zeros(2, 9, dtype=torch.bool), 0.1)
    loss.backward()
    assert loss.item() == 0


RING = torch.tensor([[math.cos(k * math.pi / 3), math.sin(k * math.pi / 3)] for k in range(6)])


@pytest.mark.parametrize(
    ("points", "value"),
    [
        (torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), -0.6931),
        (torch.eye(4), -0.3466),
        (RING, 0.0),
        (torch.ones(2, 4), 17.32),
    ],
)
def test_koleo_of_known_arrangements(points, value):
    loss = koleo(points, torch.arange(len(points)))
    assert loss.item() == pytest.approx(value, abs=5e-3 if value > 1 else 1e-4)


def test_koleo_ignores_lengths_and_rotations():
    x, record = torch.randn(6, 5, dtype=torch.float64), torch.arange(6)
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    moved = torch.rand(6, 1).double().add(0.1) * (x @ turn)
    torch.testing.assert_close(koleo(moved, record), koleo(x, record))


def test_koleo_leaves_out_copies_of_a_record():
    # The copy would cost 17; with it left out both have the opposite point as nearest.
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    loss = koleo(x, torch.tensor([5, 5, 7]))
    assert loss.item() == pytest.approx(-math.log(2), abs=1e-5)


@pytest.mark.parametrize("records", [[3], [3, 3]])
def test_koleo_of_a_batch_without_neighbours_is_zero_with_a_finite_gradient(records):
    x = torch.ones(len(records), 4, requires_grad=True)
    loss = koleo(x, torch.tensor(records))
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(x.grad).all()


def test_gram_is_blind_to_rotation_and_length_and_sees_order():
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    lengths = torch.rand(2, 5, 1).double() + 0.1
    assert gram_loss(x @ turn, x) < 1e-24
    assert gram_loss(lengths * x, x) < 1e-24
    assert gram_loss(x.flip(1), x) > 1e-3


@pytest.mark.parametrize("tokens", [4, 9])
def test_gram_of_equal_against_orthonormal_tokens(tokens):
    loss = gram_loss(torch.ones(1, tokens, tokens), torch.eye(tokens)[None])
    assert loss.item() == pytest.approx(1 - 1 / tokens, abs=1e-6)


def test_temperature_rises_linearly_and_stays():
    values = [warmed((0.04, 0.07), 0.3, p) for p in (0, 0.1, 0.2, 0.3, 0.9)]
    assert values == pytest.approx([0.04, 0.05, 0.06, 0.07, 0.07])
    assert warmed((0.04, 0.07), 0.0, 0.0) == 0.07


def test_centre_is_the_moving_mean_of_raw_logits():
    centred = Centred(3, 0.9)
    centred.centre_K.copy_(torch.tensor([1.0, 2.0, 3.0]))
    first, second = torch.randn(4, 3) * 20, torch.randn(2, 3)
    centred.note(first)  # two micro-batches of one update
    centred.note(second)
    assert centred.centre_K.tolist() == [1.0, 2.0, 3.0]
    centred.update()
    expected = 0.9 * torch.tensor([1.0, 2.0, 3.0]) + 0.1 * torch.cat([first, second]).mean(0)
    torch.testing.assert_close(centred.centre_K, expected)
    centred.update()  # nothing noted since
    torch.testing.assert_close(centred.centre_K, expected)


def test_what_was_noted_for_a_skipped_update_is_forgotten():
    centred = Centred(3, 0.9)
    centred.note(torch.ones(4, 3))
    centred.forget()
    centred.update()
    assert (centred.centre_K == 0).all()


def test_centred_targets_at_the_centre_are_uniform():
    centred = Centred(4, 0.9)
    centred.centre_K.copy_(torch.arange(4.0))
    assert torch.equal(centred(torch.arange(4.0)[None], 0.04), torch.full((1, 4), 0.25))


@pytest.mark.parametrize("targets", [Centred(4, 0.9), Balanced()])
def test_targets_are_sharp_but_finite_at_tiny_temperatures(targets):
    found = targets(torch.randn(5, 4).half(), 1e-4)
    torch.testing.assert_close(found.sum(1), torch.ones(5))
    assert not found.requires_grad


def test_prototype_scores_are_cosines_whatever_the_lengths():
    prototypes = Prototypes(3, 2)
    x = torch.randn(5, 3)
    scores = prototypes(x)
    with torch.no_grad():
        prototypes.weight.mul_(7)
    torch.testing.assert_close(prototypes(0.01 * x), scores)
    assert scores.abs().max() <= 1 + 1e-6
    prototypes.renormalise()
    torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(2))


def test_a_zero_vector_has_finite_scores_and_gradients():
    head = DinoHead(4, 8, 6, 3)
    x = torch.zeros(2, 4, requires_grad=True)
    head(x).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in (x, *head.parameters()))


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: cross_view_entropy(torch.eye(4).double()[:3].expand(2, 3, 4), x, 0.5),
        lambda x: koleo(x[0], torch.arange(3)),
        lambda x: gram_loss(x, torch.eye(3, 4).double().expand(2, 3, 4)),
    ],
)
def test_gradients_are_those_of_finite_differences(loss):
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert gradcheck(loss, x.requires_grad_())


def test_entropies_tell_both_kinds_of_collapse():
    same, flat = torch.eye(4)[:1].expand(8, 4), torch.full((8, 4), 0.25)
    spread = torch.eye(4).repeat(2, 1)
    found = {n: assignment_log(t) for n, t in {"same": same, "flat": flat, "ok": spread}.items()}
    gap = {n: float(v["mean_entropy"] - v["teacher_entropy"]) for n, v in found.items()}
    assert gap == pytest.approx({"same": 0, "flat": 0, "ok": math.log(4)})
    assert found["same"]["prototype_usage"] == 0.25
    assert found["ok"]["prototype_usage"] == 1
