"""What every registered objective promises, with every kind of encoder."""

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_map
from torch.utils.data import default_collate

from medssl.core.registry import OBJECTIVES
from medssl.core.seeding import generator, seed_everything
from medssl.core.viewspec import Setting
from medssl.encoders._base import build_encoder
from medssl.training.optim import OptimConfig, build_optimizer
from medssl.views.build import Source, build_views

CROP = (16, 32, 16)
CASES = [(name, encoder) for name in OBJECTIVES.names() for encoder in ("resenc-xs", "vit3d-xs")]


def tiny_task(name, encoder):
    seed_everything(0)
    module, _ = OBJECTIVES.module(name)
    setting = Setting(crop=CROP, records=4)
    return module.Objective(build_encoder(encoder, {}, 1), module.Config(), setting)


def tiny_batch(task, batch=4):
    shape = (20, 24, 18)
    volume = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)

    def read(start, stop):
        return volume[:, start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]]

    source = Source(
        read=read, shape_DHW=shape, spacing_mm=(1.0, 1.0, 1.0), air=(-1.0,), fill=(-4.0,)
    )
    return default_collate(
        [
            {"views": build_views(task.views(), generator(0, "view", i), source), "record": i}
            for i in range(batch)
        ]
    )


@pytest.mark.parametrize(("name", "encoder"), CASES)
def test_loss_is_one_finite_float32(name, encoder):
    task = tiny_task(name, encoder)
    loss = task.step(tiny_batch(task)).loss
    assert loss.ndim == 0
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


@pytest.mark.parametrize(("name", "encoder"), CASES)
def test_every_weight_learns(name, encoder):
    task = tiny_task(name, encoder)
    task.step(tiny_batch(task)).loss.backward()
    assert [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(("name", "encoder"), CASES)
def test_loss_falls_in_30_steps(name, encoder):
    task = tiny_task(name, encoder)
    batch = tiny_batch(task)
    optimizer = torch.optim.Adam(task.parameters(), 1e-3)
    losses = []
    for _ in range(30):
        loss = task.step(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize(("name", "encoder"), CASES)
def test_sample_order_does_not_matter(name, encoder):
    task = tiny_task(name, encoder).eval()
    batch = tiny_batch(task)
    turned = tree_map(lambda value: value.flip(0), batch)
    with torch.no_grad():
        torch.testing.assert_close(task.step(batch).loss, task.step(turned).loss)


@pytest.mark.parametrize(("name", "encoder"), CASES)
def test_batch_of_one_works(name, encoder):
    task = tiny_task(name, encoder)
    assert torch.isfinite(task.step(tiny_batch(task, batch=1)).loss)


@pytest.mark.parametrize(("name", "encoder"), CASES)
def test_state_dict_round_trip(name, encoder):
    task, other = tiny_task(name, encoder), tiny_task(name, encoder)
    torch.nn.init.normal_(next(other.parameters()))
    other.load_state_dict(task.state_dict(), strict=True)
    batch = tiny_batch(task)
    with torch.no_grad():
        assert torch.equal(task.eval().step(batch).loss, other.eval().step(batch).loss)


@pytest.mark.parametrize(("name", "encoder"), CASES)
def test_every_parameter_in_one_group_and_vectors_undecayed(name, encoder):
    task = tiny_task(name, encoder)
    optimizer = build_optimizer(task.param_groups(), OptimConfig())
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped}) == len(list(task.parameters()))
    for group in optimizer.param_groups:
        if group["weight_decay"]:
            assert all(p.ndim > 1 for p in group["params"])


@pytest.mark.parametrize(("name", "encoder"), CASES)
def test_bfloat16_loss_is_near_float32(name, encoder):
    task = tiny_task(name, encoder).eval()
    batch = tiny_batch(task)
    with torch.no_grad():
        full = task.step(batch).loss
        with torch.autocast("cpu", torch.bfloat16):
            half = task.step(batch).loss
    assert abs(float(full - half)) < 1e-2 * max(1.0, float(full))
