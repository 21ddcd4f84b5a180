"""Golden checks of BYOL: closed forms, and a teacher without gradient."""

import math

import pytest
import torch

from medssl.core.ema import cosine_momentum
from medssl.core.seeding import seed_everything
from medssl.core.viewspec import Setting
from medssl.objectives import byol
from medssl.objectives.byol import regression
from tests.objectives.toys import CROP, TinyEncoder, toy_batch


def tiny(**options):
    seed_everything(0)
    config = byol.Config(hidden=32, out=16, **options)
    return byol.Objective(TinyEncoder(), config, Setting(crop=CROP, records=100)).train()


def test_equal_orthogonal_and_opposite_embeddings_cost_0_2_and_4():
    x, y = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    assert [regression(x, t).item() for t in (x, y, -x)] == [0.0, 2.0, 4.0]


def test_loss_is_the_squared_distance_of_unit_vectors():
    a, b = torch.randn(7, 5), torch.randn(7, 5)
    far = (a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)).square().sum(1)
    torch.testing.assert_close(regression(a, b), far.mean())


def test_the_target_gets_no_gradient():
    a, b = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    regression(a, b).backward()
    assert b.grad is None
    assert a.grad.abs().sum() > 0


@pytest.mark.parametrize(("progress", "momentum"), [(0.0, 0.996), (0.5, 0.998), (1.0, 1.0)])
def test_momentum_rises_along_a_cosine(progress, momentum):
    assert cosine_momentum(0.996, progress) == pytest.approx(momentum, abs=1e-12)
    t = 0.3
    assert cosine_momentum(0.996, t) == pytest.approx(
        1 - 0.004 * (math.cos(math.pi * t) + 1) / 2, abs=1e-12
    )


def test_only_the_update_moves_the_teacher_and_no_gradient_reaches_it():
    task = tiny(norm="layer")
    before = {name: value.clone() for name, value in task.state_dict().items()}
    task.step(toy_batch(task, 6)).loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert all(p.grad is None for p in task.teacher.parameters())
    torch.nn.init.zeros_(task.head[0].weight)
    task.after_update(0.0)
    after = task.teacher.module.head[0].weight
    torch.testing.assert_close(after, 0.99 * before["head.0.weight"])


def test_momentum_0_at_the_start_copies_the_student():
    task = tiny(momentum=0.0)
    torch.nn.init.normal_(task.encoder.embed.weight)
    task.after_update(0.0)
    assert torch.equal(task.teacher.module.encoder.embed.weight, task.encoder.embed.weight)


def test_an_unmoved_teacher_and_a_perfect_predictor_cost_nothing():
    task = tiny(norm="layer")
    task.predictor = torch.nn.Identity()
    batch = toy_batch(task, 6)
    batch["views"][1] = batch["views"][0]
    assert task.step(batch).loss.item() == pytest.approx(0, abs=1e-6)
