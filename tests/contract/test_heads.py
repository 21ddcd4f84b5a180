"""What every registered head promises, on every kind of encoder."""

import pytest
import torch
from torch.utils._pytree import tree_map

from medssl.core.registry import HEADS
from medssl.core.seeding import seed_everything
from medssl.encoders._base import build_encoder
from medssl.training.optim import OptimConfig, build_optimizer

CROP = (16, 32, 16)
CASES = [(name, encoder) for name in HEADS.names() for encoder in ("resenc-xs", "vit3d-xs")]
pytestmark = pytest.mark.parametrize(("name", "encoder"), CASES)


def head(name, encoder):
    seed_everything(0)
    module, _ = HEADS.module(name)
    network = build_encoder(encoder, {}, 1)
    return module.Head(network, network.make_decoder(3), module.Config(), CROP)


def batch(count=2):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, *CROP, generator=generator)
    label = (x[:, 0] > 0).to(torch.uint8) + (x[:, 0] > 1)
    return {"views": [{"x": x, "label": label}]}


def test_loss_is_one_finite_float32(name, encoder):
    loss = head(name, encoder).step(batch()).loss
    assert (loss.ndim, loss.dtype) == (0, torch.float32)
    assert torch.isfinite(loss)


def test_every_weight_learns(name, encoder):
    task = head(name, encoder)
    task.step(batch()).loss.backward()
    assert [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None] == []


def test_batch_of_one_works(name, encoder):
    assert torch.isfinite(head(name, encoder).step(batch(1)).loss)


def test_sample_order_does_not_matter(name, encoder):
    task = head(name, encoder).eval()
    views = batch()
    turned = tree_map(lambda value: value.flip(0), views)
    with torch.no_grad():
        torch.testing.assert_close(task.step(views).loss, task.step(turned).loss)


def test_every_parameter_in_one_group(name, encoder):
    task = head(name, encoder)
    optimizer = build_optimizer(task.param_groups(), OptimConfig())
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped}) == len(list(task.parameters()))
