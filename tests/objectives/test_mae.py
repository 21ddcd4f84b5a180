"""Golden checks of masked autoencoding (methods 2.1)."""

import numpy as np
import pytest
import torch

from medssl.core.errors import ConfigError
from medssl.core.masks import hidden_count, random_mask
from medssl.core.viewspec import Setting
from medssl.encoders._base import build_encoder
from medssl.encoders._tokens import blocks_to_voxels
from medssl.objectives.mae import Config, Objective
from tests.objectives.tiny import ENCODERS, batch_of, make, ready


@pytest.mark.parametrize(("tokens", "ratio", "hidden"), [(196, 0.75, 147), (196, 0.9, 176)])
def test_hidden_counts_are_those_of_the_papers(tokens, ratio, hidden):
    assert hidden_count(tokens, ratio) == hidden


def test_masks_have_exact_counts_repeat_by_seed_and_differ_by_sample():
    first, again, other = (random_mask(np.random.default_rng(s), (6, 8, 6), 0.6) for s in (1, 1, 2))
    assert first.sum() == int(0.6 * 288)
    assert (first == again).all()
    assert (first != other).any()


def test_every_token_is_hidden_equally_often():
    draws = [random_mask(np.random.default_rng(s), (2, 2, 2), 0.5) for s in range(4000)]
    # Standard error of a share of 1/2 over 4000 draws is 0.008.
    assert np.abs(np.mean(draws, axis=0) - 0.5).max() < 5 * 0.008


def test_three_quarters_are_hidden_and_only_tissue_counts():
    task = make("mae", "vit3d-xs")
    batch = batch_of(task)
    view = batch["views"][0]
    assert (view["mask"].sum(1) == int(0.75 * view["mask"].shape[1])).all()
    hidden = _voxels(task, view)
    share = (view["tissue"] & hidden).float().mean()
    assert task.step(batch).log["target_share"] == pytest.approx(float(share), abs=1e-6)


def _voxels(task, view):
    grid = task.encoder.grid(tuple(view["x"].shape[2:]))
    return blocks_to_voxels(view["mask"], grid, task.encoder.token_size)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_no_prediction_depends_on_a_hidden_voxel(encoder):
    task = ready(make("mae", encoder)).eval()
    batch = batch_of(task)
    view = batch["views"][0]
    hidden = _voxels(task, view)
    seen = []
    (task.decoder or task.token_decoder).register_forward_hook(lambda *a: seen.append(a[2]))
    with torch.no_grad():
        task.step(batch)
        view["x"] = torch.where(hidden, torch.randn_like(view["x"]) * 50, view["x"])
        task.step(batch)
        view["x"] = torch.where(hidden, view["x"], view["x"] + 1)
        task.step(batch)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_only_patches_of_hidden_tissue_pull_on_the_prediction(encoder):
    task = make("mae", encoder)
    batch = batch_of(task)
    seen = []
    (task.decoder or task.token_decoder).register_forward_hook(
        lambda *a: (a[2].retain_grad(), seen.append(a[2]))[-1]
    )
    task.step(batch).loss.backward()
    [prediction] = seen
    view = batch["views"][0]
    if task.decoder is None:
        pulled, allowed = prediction.grad.abs().sum(2) > 0, view["mask"]
    else:
        pulled, allowed = prediction.grad != 0, _voxels(task, view) & view["tissue"]
    assert pulled.any()
    assert not (pulled & ~allowed).any()


def test_hidden_air_changes_nothing():
    task = make("mae", "timm/resnet18").eval()
    batch = batch_of(task)
    view = batch["views"][0]
    before = task.step(batch).loss
    air = _voxels(task, view) & ~view["tissue"]
    assert air.any()
    view["x"] = view["x"].masked_fill(air, 1e4)
    assert torch.equal(before, task.step(batch).loss)


def test_a_crop_without_tissue_costs_nothing():
    task = make("mae", "vit3d-xs")
    batch = batch_of(task)
    batch["views"][0]["tissue"] = torch.zeros_like(batch["views"][0]["tissue"])
    loss = task.step(batch).loss
    loss.backward()
    assert loss == 0
    assert all(torch.isfinite(p.grad).all() for p in task.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["block", "column", "blocks"])
def test_every_shape_of_mask_hides_equally_many_tokens(kind):
    task = make("mae", "vit3d-xs", mask_kind=kind, mask_ratio=0.5)
    batch = batch_of(task)
    assert len(set(batch["views"][0]["mask"].sum(1).tolist())) == 1
    assert torch.isfinite(task.step(batch).loss)


def test_visible_tokens_only_are_computed():
    task = make("mae", "vit3d-xs")
    batch = batch_of(task)
    view = batch["views"][0]
    shapes = []
    task.encoder.blocks[0].register_forward_hook(lambda *a: shapes.append(a[2].shape))
    task.step(batch)
    tokens = view["mask"].shape[1]
    assert shapes[0][1] == tokens - int(0.75 * tokens)


def test_cubes_that_do_not_fit_the_crop_are_refused_before_step_1():
    encoder = build_encoder("vit3d-xs", {}, 1)
    with pytest.raises(ConfigError, match="do not fit a grid"):
        Objective(encoder, Config(mask_kind="blocks"), Setting(crop=(24, 24, 24), records=1))
