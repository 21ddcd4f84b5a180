"""Adapters: nothing changes at first, and nothing else ever learns."""

import pytest
import torch

from medssl.core.ema import move_towards
from medssl.core.errors import ConfigError
from medssl.encoders._base import build_encoder
from medssl.objectives._parts.teacher import Teacher

SIZES = {"vit3d-xs": (16, 16, 16), "timm/vit_tiny_patch16_224": (32, 32)}


def pair(name):
    """An encoder, and the same one with adapters."""
    plain, adapted = (build_encoder(name, {"adapter": width}, 1) for width in (0, 4))
    own = {k: v for k, v in adapted.state_dict().items() if k.startswith("adapters.")}
    adapted.load_state_dict({**plain.state_dict(), **own}, strict=True)
    return plain, adapted


@pytest.mark.parametrize("name", SIZES)
def test_at_first_the_output_is_the_backbones_bit_for_bit(name):
    plain, adapted = pair(name)
    x = torch.randn(2, 1, *SIZES[name])
    with torch.no_grad():
        assert torch.equal(plain(x).global_BD, adapted(x).global_BD)
        assert torch.equal(plain(x).tokens_BND, adapted(x).tokens_BND)


@pytest.mark.parametrize("name", SIZES)
def test_only_adapters_learn_and_a_slow_teacher_moves_in_them_alone(name):
    _, adapted = pair(name)
    teacher = Teacher(adapted)
    start = {k: v.clone() for k, v in adapted.state_dict().items()}
    optimizer = torch.optim.AdamW(
        [p for p in adapted.parameters() if p.requires_grad], 0.1, weight_decay=0.5
    )
    for _ in range(2):
        adapted(torch.randn(2, 1, *SIZES[name])).global_BD.square().sum().backward()
        optimizer.step()
        move_towards(teacher.module, adapted, 0.5)
    for state in (adapted.state_dict(), teacher.module.state_dict()):
        moved = {k for k, v in state.items() if not torch.equal(v, start[k])}
        assert moved == {k for k in start if k.startswith("adapters.")}


@pytest.mark.parametrize("name", ["timm/vit_base_patch16_224", "vit3d-b"])
def test_less_than_a_hundredth_of_a_vit_b_learns(name):
    with torch.device("meta"):
        encoder = build_encoder(name, {"adapter": 8}, 1)
    weights = list(encoder.parameters())
    learning = sum(p.numel() for p in weights if p.requires_grad)
    # 12 blocks, down and up of 768 x 8 with biases.
    assert learning == 12 * (2 * 768 * 8 + 8 + 768)
    assert learning < 0.01 * sum(p.numel() for p in weights)


def test_a_convolutional_network_has_none():
    with pytest.raises(ConfigError, match="adapter"):
        build_encoder("timm/resnet18", {"adapter": 4}, 1)
