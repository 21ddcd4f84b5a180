"""SimMIM: a learnt token inside, one linear layer out, L1 on hidden tissue (methods 2.1)."""

import numpy as np
import pytest
import torch

from medssl.core.masks import draw_mask
from medssl.core.viewspec import Setting
from medssl.encoders._base import build_encoder
from medssl.encoders._tokens import blocks_to_voxels
from medssl.objectives.simmim import Config, Objective
from tests.objectives.tiny import ENCODERS, batch_of, make


def predictions(task, batch):
    seen = []
    handle = task.head.register_forward_hook(lambda *a: seen.append(a[2]))
    with torch.no_grad():
        task.eval().step(batch)
    handle.remove()
    return seen[0]


def hidden_voxels(task, view):
    grid = task.encoder.grid(tuple(view["x"].shape[2:]))
    return blocks_to_voxels(view["mask"], grid, task.encoder.token_size)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_no_prediction_depends_on_a_hidden_voxel(encoder):
    task = make("simmim", encoder)
    batch = batch_of(task)
    view = batch["views"][0]
    before = predictions(task, batch)
    view["x"] = torch.where(hidden_voxels(task, view), torch.randn_like(view["x"]), view["x"])
    assert torch.equal(predictions(task, batch), before)


@pytest.mark.parametrize("encoder", ["vit3d-xs", "timm/vit_tiny_patch16_224"])
def test_the_mask_token_enters_the_encoder_and_nothing_else_is_hidden(encoder):
    task = make("simmim", encoder)
    batch = batch_of(task)
    before = predictions(task, batch)
    torch.nn.init.normal_(task.mask_token)
    assert not torch.equal(predictions(task, batch), before)
    batch["views"][0]["mask"] = torch.zeros_like(batch["views"][0]["mask"])
    unmasked = predictions(task, batch)
    torch.nn.init.normal_(task.mask_token)
    assert torch.equal(predictions(task, batch), unmasked)


def test_loss_is_the_mean_absolute_error_of_hidden_tissue():
    # A head that says 0: what is left is the mean of |x| over hidden tissue, per sample.
    task = make("simmim", "resenc-xs")
    torch.nn.init.zeros_(task.head.weight)
    torch.nn.init.zeros_(task.head.bias)
    batch = batch_of(task)
    view = batch["views"][0]
    counted = hidden_voxels(task, view) & view["tissue"]
    expected = [x[c].abs().mean() for x, c in zip(view["x"], counted, strict=True) if c.any()]
    loss = task.step(batch).loss
    assert loss.item() == pytest.approx(float(sum(expected) / len(view["x"])), rel=1e-5)


def test_hidden_squares_are_32_px_for_tokens_of_16_as_in_the_paper():
    encoder = build_encoder("timm/vit_tiny_patch16_224", {}, 3)
    spec = Objective(encoder, Config(), Setting(crop=(224, 224), records=1)).views().views[0].mask
    mask = draw_mask(np.random.default_rng(0), spec, (14, 14)).reshape(7, 2, 7, 2)
    assert (mask.any((1, 3)) == mask.all((1, 3))).all()
    assert mask.sum() == 4 * int(0.6 * 49)


@pytest.mark.parametrize(
    ("crop", "cell"), [((32, 48, 32), 2), ((24, 32, 32), 1), ((16, 16, 16), 1)]
)
def test_cells_fit_the_token_grid_by_default(crop, cell):
    task = Objective(build_encoder("vit3d-xs", {}, 1), Config(), Setting(crop=crop, records=1))
    spec = task.views().views[0].mask
    assert spec.cell == cell
    assert draw_mask(np.random.default_rng(0), spec, task.encoder.grid(crop)).any()


def test_every_stage_of_a_convolutional_encoder_is_trained():
    task = make("simmim", "resenc-xs")
    task.step(batch_of(task)).loss.backward()
    deepest = [p for n, p in task.encoder.named_parameters() if "stages.4" in n]
    assert deepest
    assert all(p.grad is not None for p in deepest)
    assert any(p.grad.abs().max() > 0 for p in deepest)
