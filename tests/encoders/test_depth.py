"""Rates that fall towards the input, layer by layer."""

import pytest
import torch

from medssl.core.errors import ConfigError
from medssl.core.registry import HEADS
from medssl.core.task import ParamGroup
from medssl.encoders._base import build_encoder
from medssl.encoders._depth import by_depth
from medssl.training.optim import OptimConfig, apply_schedule, build_optimizer

DECAY = 0.75
# Encoder -> number of layers, a weight of the first, one of the last, and one that comes after.
KNOWN = {
    "vit3d-xs": (7, "embed.weight", "blocks.5.mlp.fc2.weight", "norm.weight"),
    "timm/vit_tiny_patch16_224": (13, "net.pos_embed", "net.blocks.11.norm1.bias", "net.norm.bias"),
    "timm/vit_small_patch14_reg4_dinov2": (
        13, "net.reg_token", "net.blocks.11.ls1.gamma", "net.norm.weight",
    ),
    "timm/vit_small_patch16_dinov3": (
        13, "net.patch_embed.proj.weight", "net.blocks.11.gamma_1", "net.norm.weight",
    ),
    "resenc-xs": (
        6, "body.stem.convs.0.conv.weight", "body.stages.4.blocks.0.conv1.conv.weight", None,
    ),
    "swin_unetr-xs": (
        5, "swinViT.patch_embed.proj.weight", "swinViT.layers4.0.blocks.0.norm1.weight", None,
    ),
    "timm/resnet18": (5, "body.net.conv1.weight", "body.net.layer4.1.conv2.weight", None),
    "timm/convnext_tiny": (
        4, "body.net.stem_0.weight", "body.net.stages_3.blocks.2.norm.weight", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_layers_follow_each_other_from_the_input(name):
    layers, first, last, after = KNOWN[name]
    with torch.device("cpu" if name.startswith("swin") else "meta"):
        encoder = build_encoder(name, {}, 1)
    names = [n for n, _ in encoder.named_parameters()]
    assert len(encoder.layers) == layers
    assert {first, last} <= set(names)
    assert (encoder.depth_of(first), encoder.depth_of(last)) == (0, layers - 1)
    beyond = [n for n in names if encoder.depth_of(n) == layers]
    assert (after in beyond) if after else not beyond
    assert {encoder.depth_of(n) for n in names} >= set(range(layers))


@pytest.mark.parametrize("name", ["vit3d-xs", "timm/vit_tiny_patch16_224", "resenc-xs"])
def test_rates_of_the_optimiser_are_the_formula(name):
    encoder = build_encoder(name, {}, 1)
    crop = (32, 32) if name.startswith("timm") else (16, 32, 16)
    module, _ = HEADS.module("classification")
    task = module.Head(encoder, [1, 1], module.Config(encoder_lr_scale=0.5), crop)
    optim = OptimConfig(lr=2.0, warmup=10)
    optimizer = build_optimizer(by_depth(task.param_groups(), encoder, DECAY), optim)
    apply_schedule(optimizer, optim, 4, 100)  # half of the warm-up
    rate_of = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    top = len(encoder.layers)
    for weight_name, weight in encoder.named_parameters():
        layer = encoder.depth_of(weight_name)
        assert rate_of[id(weight)] == pytest.approx(0.5 * DECAY ** (top - layer)), weight_name
    for weight in task.model.classifier.parameters():
        assert rate_of[id(weight)] == 1.0
    assert len(rate_of) == len(list(task.parameters()))


def test_the_tenth_block_is_not_the_first():
    encoder = build_encoder("vit3d-s", {}, 1)
    assert encoder.depth_of("blocks.1.norm1.weight") == 2
    assert encoder.depth_of("blocks.10.norm1.weight") == 11


def test_adapters_count_as_their_block():
    encoder = build_encoder("vit3d-xs", {"adapter": 4}, 1)
    assert encoder.depth_of("adapters.3.up.weight") == encoder.depth_of("blocks.3.norm1.bias") == 4


def test_a_decay_of_1_leaves_groups_alone():
    groups = [ParamGroup({"encoder.embed.bias": torch.nn.Parameter(torch.zeros(1))}, 0.5)]
    assert by_depth(groups, build_encoder("vit3d-xs", {}, 1), 1.0) is groups


def test_an_encoder_that_does_not_know_is_refused():
    encoder = build_encoder("smp/resnet34", {}, 1)
    with pytest.raises(ConfigError, match="how deep") as error:
        by_depth([], encoder, DECAY)
    assert "layer_decay=1" in error.value.fix
