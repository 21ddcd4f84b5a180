"""SiT: corruption, repair of what was corrupted only, contrast with a clean teacher (2.11)."""

import pytest
import torch

from medssl.encoders._tokens import blocks_to_voxels
from medssl.objectives._parts.contrast import nt_xent
from medssl.objectives.sit import corrupt
from tests.objectives.tiny import ENCODERS, batch_of, make


def nothing_hidden(batch):
    for view in batch["views"]:
        view["mask"] = torch.zeros_like(view["mask"])
    return batch


def encoder_inputs(task, batch):
    """What the student's encoder saw: both views, one after the other."""
    seen = []
    handle = task.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        task.step(batch)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_changed_cells_are_those_of_the_mask(encoder):
    task = make("sit", encoder)
    batch = batch_of(task)
    for view in batch["views"]:
        view["x"] = torch.randn_like(view["x"])  # no two voxels are equal
    x = torch.cat([view["x"] for view in batch["views"]])
    mask = torch.cat([view["mask"] for view in batch["views"]])
    grid = task.encoder.grid(tuple(x.shape[2:]))
    changed = encoder_inputs(task, batch) != x
    assert torch.equal(changed, blocks_to_voxels(mask, grid, task.encoder.token_size))


def test_as_much_is_corrupted_as_asked_for():
    task = make("sit", "vit3d-xs", corruption=(0.4, 0.6))
    shares = torch.cat([v["mask"] for v in batch_of(task, 32)["views"]]).float().mean(1)
    tokens = 64
    assert shares.min() >= 0.4 - 1 / tokens
    assert shares.max() <= 0.6
    assert shares.std() > 0.02


def test_no_voxel_comes_from_another_patient():
    task = make("sit", "resenc-xs")
    batch = batch_of(task)
    for view in batch["views"]:  # each sample has its own grey value
        view["x"] = torch.ones_like(view["x"]) * torch.arange(1, 5).view(-1, 1, 1, 1, 1)
    seen = encoder_inputs(task, batch)
    for sample in range(8):
        assert set(seen[sample].unique().tolist()) <= {0.0, 1.0 + sample % 4}


def test_corruption_is_the_other_view_or_0():
    x, other = torch.randn(2, 100), torch.randn(2, 100)
    hidden, other_hidden = torch.rand(2, 100) > 0.5, torch.rand(2, 100) > 0.5
    out = corrupt(x, other, hidden, other_hidden)
    assert torch.equal(out[~hidden], x[~hidden])
    assert torch.equal(out[hidden & ~other_hidden], other[hidden & ~other_hidden])
    assert (out[hidden & other_hidden] == 0).all()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_nothing_corrupted_gives_no_repair_and_no_nan(encoder):
    task = make("sit", encoder)
    terms = task.terms(nothing_hidden(batch_of(task)))
    assert terms["reconstruction"] == 0
    assert torch.isfinite(terms["contrast"])


def test_without_corruption_a_fresh_teacher_gives_the_nt_xent_of_the_two_views():
    task = make("sit", "vit3d-xs", norm="layer").eval()
    batch = nothing_hidden(batch_of(task))
    one, two = (task.head(task.encoder(view["x"]).global_BD) for view in batch["views"])
    expected = nt_xent(one, two, temperature=0.2, record_B=batch["record"])
    torch.testing.assert_close(task.terms(batch)["contrast"], expected)


@pytest.mark.parametrize("encoder", ["resenc-xs", "vit3d-xs"])
def test_only_corrupted_tissue_pulls_on_the_repair(encoder):
    task = make("sit", encoder)
    batch = batch_of(task)
    seen = []
    (task.decoder or task.repair).register_forward_hook(
        lambda *a: (a[2].retain_grad(), seen.append(a[2]))[-1]
    )
    task.terms(batch)["reconstruction"].backward()
    mask = torch.cat([view["mask"] for view in batch["views"]])
    if task.decoder is None:
        pulled, allowed = seen[0].grad.abs().sum(2) > 0, mask
    else:
        tissue = torch.cat([view["tissue"] for view in batch["views"]])
        grid = task.encoder.grid(tuple(tissue.shape[2:]))
        pulled = seen[0].grad != 0
        allowed = blocks_to_voxels(mask, grid, task.encoder.token_size) & tissue
    assert pulled.any()
    assert not (pulled & ~allowed).any()


def test_the_teacher_sees_clean_views():
    task = make("sit", "vit3d-xs")
    batch = batch_of(task)
    seen = []
    task.teacher.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    task.step(batch)
    assert torch.equal(seen[0], torch.cat([view["x"] for view in batch["views"]]))


def test_swapping_the_views_changes_nothing():
    task = make("sit", "vit3d-xs", norm="layer").eval()
    batch = batch_of(task)
    loss = task.step(batch).loss
    swapped = task.step({**batch, "views": batch["views"][::-1]}).loss
    torch.testing.assert_close(swapped, loss)


def test_loss_is_the_weighted_sum_of_its_terms():
    task = make("sit", "vit3d-xs", reconstruction_weight=0.3, norm="layer").eval()
    batch = batch_of(task)
    terms = task.terms(batch)
    expected = terms["contrast"] + 0.3 * terms["reconstruction"]
    torch.testing.assert_close(task.step(batch).loss, expected)


def test_a_batch_of_one_has_no_negatives_but_still_repairs():
    task = make("sit", "vit3d-xs", norm="layer")
    terms = task.terms(batch_of(task, 1))
    assert terms["contrast"] == 0
    assert terms["reconstruction"] > 0


def test_the_student_repairs_and_the_teacher_follows():
    task = make("sit", "vit3d-xs")
    before = [p.clone() for p in task.teacher.parameters()]
    for p in task.head.parameters():
        torch.nn.init.normal_(p)
    task.after_update(0.0)
    student = torch.nn.ModuleList([task.encoder, task.head])
    for old, now, s in zip(before, task.teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(now, 0.996 * old + 0.004 * s)
