"""Adapters learn from crops, changed tokens and regions: golden checks 2.18."""

import copy
from functools import cache, partial

import pytest
import torch

from medssl.core.errors import ConfigError
from medssl.core.seeding import seed_everything
from medssl.core.viewspec import Setting
from medssl.encoders._base import build_encoder
from medssl.objectives._parts.regions import regions_of
from medssl.objectives.glare import Objective, PatchChanges, change_tokens, region_distance
from tests.objectives.ddp import assert_two_ranks_equal_one
from tests.objectives.tiny import ENCODERS, batch_of, config_of, make, run

VIT = "vit3d-xs"
CROP, OPTIONS = ENCODERS[VIT]
GRID = (4, 4, 2)


@cache
def _adapted():
    seed_everything(0)
    return build_encoder(VIT, {**OPTIONS, "adapter": 4}, 1)


def adapted(**options):
    """The objective on a transformer with adapters."""
    encoder, setting = copy.deepcopy(_adapted()), Setting(crop=CROP, records=8)
    seed_everything(1)
    return Objective(encoder, config_of("glare", **options), setting)


def adapted_batch():
    return batch_of(adapted(), samples=4)


def same_view_twice(task):
    """Both crops of every sample are one and the same."""
    batch = batch_of(task)
    return {**batch, "views": [batch["views"][0]] * 2}


def test_after_training_all_but_adapters_is_bit_equal_in_student_and_teacher():
    task = adapted(momentum=0.5)
    start = {k: v.clone() for k, v in task.encoder.state_dict().items()}
    run(task, batch_of(task), steps=3, lr=0.01)
    for encoder in (task.encoder, task.teacher.module):
        moved = {k for k, v in encoder.state_dict().items() if not torch.equal(v, start[k])}
        assert moved == {k for k in start if k.startswith("adapters.")}


def test_heads_learn_beside_the_adapters():
    task = adapted(freeze_last=0.0)
    start = {k: v.clone() for k, v in task.heads.state_dict().items()}
    run(task, batch_of(task), steps=1)
    learnt = dict(task.heads.named_parameters())
    assert not any(torch.equal(learnt[k], start[k]) for k in learnt)


def test_the_share_of_weights_that_learn_is_reported():
    task = adapted()
    width, depth = task.encoder.width, len(task.encoder.adapters)
    learning = depth * (2 * width * 4 + 4 + width)
    every = sum(p.numel() for p in task.encoder.parameters())
    told = task.step(batch_of(task)).log["learning_share"].item()
    assert told == pytest.approx(learning / every)
    assert make("glare", VIT).step(batch_of(task)).log["learning_share"] == 1


@pytest.mark.parametrize("encoder", ["resenc-xs", VIT, "timm/vit_tiny_patch16_224"])
def test_equal_crops_with_unchanged_tokens_have_a_regional_loss_of_zero(encoder):
    task = make("glare", encoder, changes={"share": 0.0}).eval()
    loss = task.terms(same_view_twice(task))["region"].item()
    # Sides of 24 are no power of two: places are rounded.
    assert loss < 1e-9 if "timm" in encoder else loss == 0
    other = make("glare", encoder, changes={"share": 0.0}).eval()
    assert other.terms(batch_of(other))["region"] > 1e-5  # other crops of the same record


def test_regions_are_matched_by_place_not_by_index():
    task = make("glare", VIT, changes={"share": 0.0}).eval()
    batch = same_view_twice(task)
    tokens = task.encoder.tokens(task.teacher(batch["views"][0]["x"]), CROP)
    a, turned = batch["views"][0], tokens.view(4, *GRID, -1).flip(1).flatten(1, 3)
    # The same crop upside down: its token d is token 3 - d of the first.
    mirror = torch.eye(4, dtype=torch.float64)
    mirror[0, 0], mirror[0, 3] = -1, CROP[0] - 1
    b = {**a, "place": a["place"] @ mirror}
    assert task._regional(a, b, tokens, turned).item() < 1e-12
    assert task._regional(a, b, tokens, tokens).item() > 1e-5


def test_crops_that_share_nothing_have_no_regions():
    task = make("glare", VIT)
    batch = batch_of(task)
    batch["views"][1]["place"][:, 1, 3] += 1000
    batch["views"][1]["x"] = batch["views"][0]["x"]
    terms = task.terms(batch)
    assert terms["region"].item() == 0
    terms["region"].backward()


def test_air_is_neither_changed_nor_a_region():
    task = make("glare", VIT)
    batch = batch_of(task)
    for view in batch["views"]:
        view["tissue"] = torch.zeros_like(view["tissue"])
    output = task.step(batch)
    assert output.log["patch"].item() == output.log["region"].item() == 0
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in task.parameters() if p.grad is not None)


def test_opposite_regions_are_four_apart():
    x = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    regions = regions_of(torch.tensor([[1, 2]]))
    assert region_distance(x, -x, regions).item() == pytest.approx(4)
    assert region_distance(x, 3 * x, regions).item() == 0


def changed(x, tissue=None, **options):
    tissue = torch.ones(len(x), 32, dtype=torch.bool) if tissue is None else tissue
    return change_tokens(x, tissue, torch.arange(len(x)), GRID, PatchChanges(**options))


def token_blocks(x):
    """(B, N, voxels) of a crop (B, 1, 16, 32, 16)."""
    cut = x.view(len(x), 4, 4, 4, 8, 2, 8)
    return cut.permute(0, 1, 3, 5, 2, 4, 6).reshape(len(x), 32, -1)


def test_the_wanted_number_of_tokens_changes_and_no_other():
    x = torch.randn(3, 1, *CROP)
    y, mask = changed(x, share=0.25)
    assert mask.sum(1).tolist() == [8, 8, 8]
    assert torch.equal((token_blocks(y) != token_blocks(x)).any(2), mask)


def test_air_stays_as_it_is():
    tissue = torch.zeros(2, 32, dtype=torch.bool)
    tissue[0, :3] = True
    _, mask = changed(torch.randn(2, 1, *CROP), tissue, share=0.5)
    assert torch.equal(mask, tissue)


def test_tokens_of_one_crop_change_unlike_each_other():
    x = torch.randn(1, 1, *CROP)
    y, _ = changed(x, share=1.0, strength=0.5, blurred=0.0)
    slope = token_blocks(y).std(2) / token_blocks(x).std(2)
    assert slope.min() > 0.5 - 1e-4
    assert slope.max() < 1.5 + 1e-4
    assert slope.std() > 0.1
    shift = (token_blocks(y) - slope[..., None] * token_blocks(x)).mean(2)
    assert shift.std() > 0.1


def test_a_blurred_token_is_the_mean_over_five_voxels_per_axis():
    x = torch.zeros(1, 1, *CROP)
    x[0, 0, 8, 16, 8] = 125.0
    y, _ = changed(x, share=1.0, strength=0.0, blurred=1.0)
    assert y[0, 0, 6:11, 14:19, 6:11].unique().tolist() == pytest.approx([1.0])
    assert y.sum().item() == pytest.approx(125.0)


def test_without_strength_and_blur_nothing_changes():
    x = torch.randn(2, 1, *CROP)
    torch.testing.assert_close(changed(x, share=1.0, strength=0.0, blurred=0.0)[0], x)


def test_changes_follow_from_the_sample_not_from_its_row():
    task = make("glare", VIT).eval()
    batch = batch_of(task)
    whole = task._look(batch).assigned.patches[2]
    last = {**batch, "record": batch["record"][3:]}
    last["views"] = [{k: v[3:] for k, v in view.items()} for view in batch["views"]]
    assert torch.equal(task._look(last).assigned.patches[2], whole[[3, 7]])


def test_the_teacher_sees_tokens_as_they_are():
    batch = batch_of(make("glare", VIT))
    tasks = [make("glare", VIT, changes={"strength": s}).eval() for s in (0.1, 2.0)]
    a, b = (task._look(batch).assigned for task in tasks)
    assert torch.equal(a.targets_VBK, b.targets_VBK)
    assert not torch.equal(a.logits_VBK, b.logits_VBK)


def test_weights_of_the_terms():
    task = make("glare", VIT, patch_weight=0.5, region_weight=3.0).eval()
    batch = batch_of(task)
    terms = task.terms(batch)
    expected = terms["global"] + 0.5 * terms["patch"] + 3 * terms["region"]
    assert task.step(batch).loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert "patch" not in make("glare", VIT, patch_weight=0.0).terms(batch)


def test_bending_is_refused_as_places_would_be_wrong():
    with pytest.raises(ConfigError, match="elastic_mm"):
        config_of("glare", views={"spatial": {"elastic_mm": 2.0}})


@pytest.mark.slow
def test_two_ranks_equal_one_with_adapters_and_centres():
    assert_two_ranks_equal_one({
        "adapters": (adapted, adapted_batch),
        "centring": (partial(adapted, targets="centring"), adapted_batch),
    })  # fmt: skip
