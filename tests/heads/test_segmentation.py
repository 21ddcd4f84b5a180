"""Losses and wiring of the segmentation head."""

import pytest
import torch

from medssl.core.errors import ConfigError
from medssl.core.seeding import seed_everything
from medssl.encoders._base import build_encoder
from medssl.heads.segmentation import Config, Head, soft_dice_loss
from medssl.training.optim import OptimConfig, build_optimizer

CROP = (16, 32, 16)


def head(encoder="resenc-xs", **options):
    seed_everything(0)
    network = build_encoder(encoder, {}, 1)
    return Head(network, network.make_decoder(3), Config(**options), CROP)


def batch():
    labels = torch.zeros(2, *CROP, dtype=torch.uint8)
    labels[:, 4:10, 8:20, 4:12] = 1
    labels[:, 10:14, 8:20, 4:12] = 2
    x = labels[:, None].float() + 0.1 * torch.randn(2, 1, *CROP)
    return {"views": [{"x": x, "label": labels}]}


def test_dice_loss_of_a_half_right_guess():
    # 4 voxels of class 1, 2 of them predicted: Dice = (2*2 + 1) / (2 + 4 + 1).
    labels = torch.tensor([1, 1, 1, 1, 0, 0]).view(1, 1, 1, 6)
    sure = torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0, -1.0]).view(1, 1, 1, 1, 6) * 50
    logits = torch.cat([-sure, sure], dim=1)
    assert soft_dice_loss(logits, labels).item() == pytest.approx(1 - 5 / 7, abs=1e-6)


def test_absent_class_costs_nothing_when_not_predicted():
    labels = torch.zeros(1, 1, 1, 4, dtype=torch.long)
    logits = torch.tensor([50.0, -50.0]).view(1, 2, 1, 1, 1).expand(1, 2, 1, 1, 4)
    assert soft_dice_loss(logits, labels).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("encoder", ["resenc-xs", "vit3d-xs"])
def test_head_learns_a_box(encoder):
    task, sample = head(encoder), batch()
    optimizer = torch.optim.Adam(task.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        loss = task.step(sample).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_frozen_encoder_stays_bitwise_and_is_not_optimised():
    task = head(freeze_encoder=True)
    before = {k: v.clone() for k, v in task.model.encoder.state_dict().items()}
    optimizer = build_optimizer(task.param_groups(), OptimConfig())
    task.step(batch()).loss.backward()
    optimizer.step()
    assert all(torch.equal(v, before[k]) for k, v in task.model.encoder.state_dict().items())
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(
        list(task.model.decoder.parameters())
    )


def test_encoder_rate_is_scaled():
    groups = head(encoder_lr_scale=0.1).param_groups()
    assert [group.lr_scale for group in groups] == [0.1, 1.0]


def test_one_class_labels_give_a_finite_loss():
    sample = batch()
    [view] = sample["views"]
    view["label"] = torch.zeros_like(view["label"])
    assert torch.isfinite(head().step(sample).loss)


@pytest.mark.parametrize("decoder", ["auto", "unet"])
def test_pictures_are_segmented_by_an_image_encoder(decoder):
    seed_everything(0)
    network = build_encoder("timm/resnet18", {}, 3)
    flat = Head(network, network.make_decoder(2, decoder), Config(decoder=decoder), (64, 96))
    labels = torch.zeros(1, 64, 96, dtype=torch.uint8)
    labels[:, 20:40, 30:60] = 1
    x = labels[:, None].float().expand(1, 3, 64, 96) + 0.1 * torch.randn(1, 3, 64, 96)
    optimizer = torch.optim.Adam(flat.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = flat.step({"views": [{"x": x, "label": labels}]}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert flat.model(x).shape == (1, 2, 64, 96)
    assert losses[-1] < 0.5 * losses[0]


def test_a_crop_of_three_sides_is_refused_by_an_image_encoder():
    network = build_encoder("timm/resnet18", {}, 3)
    with pytest.raises(ConfigError, match="3 sides"):
        Head(network, network.make_decoder(2), Config(), (64, 64, 64))
