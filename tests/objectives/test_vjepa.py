"""V-JEPA: two masks through all time, features as targets (methods 2.12, the lines on video)."""

import pytest
import torch

from medssl.core.ema import cosine_momentum
from medssl.objectives._parts.joint_embedding import at_blocks, normalise
from medssl.objectives.vjepa import absolute_error
from tests.objectives.tiny import batch_of, make


@pytest.fixture
def task():
    return make("vjepa", "video_vit-xs")


def test_both_masks_last_through_the_clip_and_leave_a_tenth(task):
    for first in range(0, 16, 4):
        views = batch_of(task, first=first)["views"]
        assert len(views) == 2
        for view in views:
            mask = view["mask"].view(-1, 2, 16)
            assert torch.equal(mask[:, 0], mask[:, 1])
            assert (mask.sum(2) == 16 - int(0.1 * 16)).all()
        assert torch.equal(views[0]["x"], views[1]["x"])


def test_targets_are_all_that_the_context_is_not(task):
    for view in batch_of(task)["views"]:
        for mask, targets in zip(view["mask"], view["targets"], strict=True):
            assert torch.equal(targets.flatten(), mask.nonzero().flatten())


def test_the_two_masks_differ(task):
    short, long = batch_of(task, samples=8)["views"]
    assert not torch.equal(short["mask"], long["mask"])


def test_predicting_the_normalised_target_costs_nothing():
    target = at_blocks(normalise(torch.randn(2, 9, 8)), torch.tensor([[[0, 4]], [[8, 1]]]))
    assert absolute_error(target, target, torch.ones(2, 1, 2)) == 0


def test_the_loss_is_the_mean_of_both_masks(task):
    batch = batch_of(task)
    both = task.eval().step(batch).loss
    alone = [task.step({**batch, "views": [view]}).loss for view in batch["views"]]
    torch.testing.assert_close(both, sum(alone) / 2)


def test_the_teacher_sees_each_clip_once_and_whole(task):
    seen = []
    task.teacher.module.blocks[0].register_forward_hook(lambda *a: seen.append(a[2].shape))
    task.step(batch_of(task)).loss.backward()
    assert seen == [(4, 32, task.encoder.width)]
    assert all(p.grad is None for p in task.teacher.parameters())


def test_the_encoder_computes_the_context_alone(task):
    seen = []
    task.encoder.blocks[0].register_forward_hook(lambda *a: seen.append(a[2].shape[1]))
    task.step(batch_of(task))
    assert seen == [2, 2]  # one of 16 places, in 2 time steps, for each mask


def test_air_is_no_target(task):
    batch = batch_of(task)
    for view in batch["views"]:
        view["tissue"] = torch.zeros_like(view["tissue"])
    assert task.step(batch).loss == 0


def test_the_teacher_is_slower_than_that_of_pictures(task):
    old = task.teacher.module.norm.weight.clone()
    torch.nn.init.normal_(task.encoder.norm.weight)
    task.after_update(0.5)
    m = cosine_momentum(0.998, 0.5)
    wanted = m * old + (1 - m) * task.encoder.norm.weight
    torch.testing.assert_close(task.teacher.module.norm.weight, wanted)


def test_error_has_the_gradient_of_finite_differences():
    y = torch.randn(3, 1, 2, 4, dtype=torch.float64, requires_grad=True)
    target, weight = torch.randn(3, 1, 2, 4, dtype=torch.float64) * 3, torch.rand(3, 1, 2).double()
    assert torch.autograd.gradcheck(lambda p: absolute_error(p, target, weight), y)
