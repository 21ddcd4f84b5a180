"""What every registered head promises, on every kind of encoder."""

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map

from medssl.core.registry import HEADS
from medssl.core.seeding import seed_everything
from medssl.core.viewspec import ViewSpec
from medssl.encoders._base import build_encoder
from medssl.training.optim import OptimConfig, build_optimizer

CROPS = {
    "resenc-xs": (16, 32, 16), "vit3d-xs": (16, 32, 16), "timm/resnet18": (64, 96),
    "video_vit-xs": (4, 32, 32),
}  # fmt: skip
CASES = [
    (name, encoder)
    for name in HEADS.names()
    for encoder in CROPS
    if (name, encoder) != ("segmentation", "timm/resnet18")
    and (encoder != "video_vit-xs" or name == "classification")
]
pytestmark = pytest.mark.parametrize(("name", "encoder"), CASES)


def head(name, encoder, **options):
    seed_everything(0)
    module, _ = HEADS.module(name)
    network = build_encoder(encoder, {}, 1)
    part = {
        "segmentation": lambda: network.make_decoder(3),
        "classification": lambda: (5, 3, 2),
        "phase": lambda: (5, 3, 2),
        "tools": lambda: ((5, 3, 2), 6),
    }[name]()
    return module.Head(network, part, module.Config(**options), CROPS[encoder])


def batch(encoder, count=2, name=""):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, *CROPS[encoder], generator=generator)
    label = (x[:, 0] > 0).to(torch.uint8) + (x[:, 0] > 1)
    target = torch.arange(count) % 3
    target = nn.functional.one_hot(target, 3) if name == "tools" else target
    return {"views": [{"x": x, "label": label}], "target": target}


def test_loss_is_one_finite_float32(name, encoder):
    loss = head(name, encoder).step(batch(encoder, name=name)).loss
    assert (loss.ndim, loss.dtype) == (0, torch.float32)
    assert torch.isfinite(loss)


def test_loss_of_half_precision_outputs_is_the_same(name, encoder, monkeypatch):
    task, sample = head(name, encoder).eval(), batch(encoder, name=name)
    with torch.no_grad():
        full = task.step(sample).loss
        logits = task.model(sample["views"][0]["x"])
        monkeypatch.setattr(task.model, "forward", lambda _: logits.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            half = task.step(sample).loss
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=1e-2)


def test_every_weight_learns(name, encoder):
    task = head(name, encoder)
    task.step(batch(encoder, name=name)).loss.backward()
    assert [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None] == []


def test_batch_of_one_works(name, encoder):
    assert torch.isfinite(head(name, encoder).step(batch(encoder, 1, name)).loss)


def test_sample_order_does_not_matter(name, encoder):
    task = head(name, encoder).eval()
    views = batch(encoder, name=name)
    turned = tree_map(lambda value: value.flip(0), views)
    with torch.no_grad():
        torch.testing.assert_close(task.step(views).loss, task.step(turned).loss)


def test_every_parameter_in_one_group(name, encoder):
    task = head(name, encoder)
    optimizer = build_optimizer(task.param_groups(), OptimConfig())
    grouped = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped}) == len(list(task.parameters()))


def test_a_frozen_encoder_stays_bitwise_after_train_and_eval(name, encoder):
    task = head(name, encoder, freeze_encoder=True)
    before = {k: v.clone() for k, v in task.model.encoder.state_dict().items()}
    optimizer = build_optimizer(task.param_groups(), OptimConfig(lr=0.1))
    for _ in range(2):
        task.eval()
        task.train()
        task.step(batch(encoder, name=name)).loss.backward()
        optimizer.step()
    assert all(torch.equal(v, before[k]) for k, v in task.model.encoder.state_dict().items())
    assert not any(module.training for module in task.model.encoder.modules())
    own = [p for n, p in task.named_parameters() if not n.startswith("model.encoder.")]
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in own}


def test_a_head_learns_first_and_the_encoder_from_its_share_on(name, encoder):
    task = head(name, encoder, freeze_share=0.3)
    optimizer = build_optimizer(task.param_groups(), OptimConfig(lr=0.1, weight_decay=0.5))
    for step in range(10):
        before = {k: v.clone() for k, v in task.encoder.state_dict().items()}
        task.train()
        task.step(batch(encoder, name=name)).loss.backward()
        task.before_update(step / 10)
        grads = [p.grad for p in task.encoder.parameters()]
        optimizer.step()
        optimizer.zero_grad()
        task.after_update((step + 1) / 10)
        still = all(torch.equal(v, before[k]) for k, v in task.encoder.state_dict().items())
        assert still == all(grad is None for grad in grads) == (step < 3)
        assert task.encoder.training == (step >= 2)  # of the next step


def test_a_resumed_head_rests_as_long(name, encoder):
    task, other = (head(name, encoder, freeze_share=0.5) for _ in range(2))
    task.after_update(0.6)
    other.load_state_dict(task.state_dict())
    assert (task.rests, other.rests) == (False, False)


def test_views_are_data_with_crops_of_the_head(name, encoder):
    spec = head(name, encoder).views()
    assert isinstance(spec, ViewSpec)
    assert [view.crop for view in spec.views] == [CROPS[encoder]]
    assert (spec.clip is not None) == (encoder == "video_vit-xs")
