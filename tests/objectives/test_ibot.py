"""iBOT: what differs from DINO."""

import pytest
import torch

from medssl.core.seeding import seed_everything
from medssl.core.viewspec import Setting
from medssl.encoders._base import build_encoder
from medssl.objectives import ibot
from tests.objectives.toys import CROP, TinyEncoder, differing, resumed, straight, toy_batch

SMALL = {"prototypes": 8, "hidden": 16, "bottleneck": 8}


def task_of(encoder=None, crop=CROP, **options):
    seed_everything(0)
    config = ibot.Config(**{**SMALL, **options})
    return ibot.Objective(encoder or TinyEncoder(), config, Setting(crop=crop, records=8))


def test_views_are_two_with_blocks_hidden_in_half_of_them():
    [view] = task_of().views().views
    assert view.count == 2
    assert view.mask.kind == "block"
    assert (view.mask.ratio, view.mask.probability) == ((0.1, 0.5), 0.5)


def test_one_head_where_widths_agree_and_two_elsewhere():
    assert task_of().heads.patch is None
    resenc = build_encoder("resenc-xs", {}, 1)
    assert task_of(resenc, (32, 32, 32)).heads.patch is not None
    assert task_of(shared_head=False).heads.patch is not None


def test_an_encoder_without_tokens_has_no_mask_token_to_learn():
    assert task_of(build_encoder("resenc-xs", {}, 1), (32, 32, 32)).mask_token is None
    assert task_of().mask_token.shape == (32,)


def test_patches_are_compared_within_a_view_and_samples_across_views():
    # A student that answers as its teacher does: on hidden tokens the loss is the entropy.
    task = task_of(student_temperature=1.0)
    batch = toy_batch(task)
    targets, logits, mask = task._look(batch).assigned.patches
    from medssl.objectives._parts.dino import hidden_token_entropy

    own = hidden_token_entropy(targets, targets.log(), mask, 1.0)
    turned = hidden_token_entropy(targets, targets.roll(1, 0).log(), mask, 1.0)
    assert own < turned


def test_a_view_without_hidden_tokens_still_trains():
    task = task_of()
    batch = toy_batch(task)
    for view in batch["views"]:
        view["mask"] = torch.zeros_like(view["mask"])
    output = task.step(batch)
    output.loss.backward()
    assert output.log["patch"].item() == 0
    assert all(p.grad is not None for p in task.parameters() if p.requires_grad)
    task.after_update(0.5)


def test_centres_of_samples_and_tokens_are_separate():
    task = task_of(targets="centring")
    task.step(toy_batch(task))
    task.after_update(0.1)
    centres = [task.targets.centre_K, task.patch_targets.centre_K]
    assert all(c.abs().max() > 0 for c in centres)
    assert not torch.allclose(*centres)


@pytest.mark.parametrize("targets", ["centring", "sinkhorn"])
def test_a_run_taken_up_is_the_run_without_a_break(targets):
    def make():
        return task_of(targets=targets)

    assert differing(resumed(make), straight(make)) == []
