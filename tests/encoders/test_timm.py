"""What is particular to timm's networks."""

import pytest
import torch

from medssl.core.errors import ConfigError
from medssl.encoders._base import build_encoder


@pytest.mark.parametrize(
    "name",
    [
        "deit_tiny_distilled_patch16_224",  # two prefix tokens
        "deit3_small_patch16_224",  # no position for the class token
        "eva02_tiny_patch14_224",  # rotary and learnt positions
        "vit_small_patch16_rope_mixed_224",  # rotary positions per block and head
        "vit_base_patch16_siglip_224",  # no class token
    ],
)
def test_plain_transformers_keep_their_positions_under_a_mask(name):
    encoder = build_encoder(f"timm/{name}", {}, 1).eval()
    side = 4 * encoder.token_size[0]
    x = torch.randn(2, 1, side, side)
    nothing = torch.zeros(2, 16, dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(x).tokens_BND, encoder(x, nothing).tokens_BND, atol=1e-5, rtol=1e-4
        )
        some = torch.arange(16).expand(2, -1) % 3 == 0
        assert encoder(x, some).tokens_BND.shape == (2, 10, encoder.token_width)


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch14_dinov2",
        "vit_small_patch14_reg4_dinov2",
        "vit_small_patch16_dinov3",
        "eva02_tiny_patch14_224",
    ],
)
def test_features_are_timms(name):
    encoder = build_encoder(f"timm/{name}", {}, 3).eval()
    side = 5 * encoder.token_size[0]
    x = torch.randn(1, 3, side, side)
    with torch.no_grad():
        theirs = encoder.net.fc_norm(encoder.net.forward_features(x))
        ours = encoder(x)
    prefix = encoder.net.num_prefix_tokens
    torch.testing.assert_close(ours.global_BD, theirs[:, 0])
    torch.testing.assert_close(ours.tokens_BND, theirs[:, prefix:])
    maps = encoder.net.forward_intermediates(x, intermediates_only=True)
    torch.testing.assert_close(ours.pyramid[3], maps[3])


def test_hiding_tokens_equals_a_transformer_of_the_rest():
    # One block, no positions: attention over the visible tokens alone, by hand.
    encoder = build_encoder("timm/vit_tiny_patch16_224", {}, 1).eval()
    encoder.net.pos_embed.data.zero_()
    x = torch.randn(1, 1, 64, 64)
    mask = torch.arange(16)[None] >= 4  # the first row stays
    with torch.no_grad():
        masked, cropped = encoder(x, mask), encoder(x[:, :, :16])
    torch.testing.assert_close(masked.tokens_BND, cropped.tokens_BND, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(masked.global_BD, cropped.global_BD, atol=1e-5, rtol=1e-4)


def test_positions_of_the_built_size_are_not_resampled():
    encoder = build_encoder("timm/vit_tiny_patch16_224", {}, 1)
    tokens = torch.zeros(1, 14, 14, 192)
    expected = encoder.net.pos_embed[:, 1:].view(1, 14, 14, 192)
    found = encoder.net._pos_embed(tokens)[:, 1:].view(1, 14, 14, 192)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "maxvit_tiny_tf_224"])
def test_networks_of_one_size_refuse_others(name):
    encoder = build_encoder(f"timm/{name}", {}, 1)
    encoder.check_size((224, 224))
    with pytest.raises(ConfigError, match="built for one size"):
        encoder.check_size((96, 96))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("convnext_atto", {"output_stride": 5}),
        ("levit_128", {"output_stride": 8}),
        ("crossvit_9_240", {}),
        ("resnet18", {"image_size": 64}),
        ("resnet18", {"patch_size": 4}),
        ("convnext_atto", {"token_size": 2}),
        ("beit_base_patch16_224", {"token_size": 17}),
        ("vit_tiny_patch16_224", {"token_size": 4}),
    ],
)
def test_options_a_network_does_not_have_are_refused(name, options):
    with pytest.raises(ConfigError):
        build_encoder(f"timm/{name}", options, 1)


@pytest.mark.parametrize("name", ["efficientnet_b0", "densenet121", "convnext_atto"])
def test_batch_statistics_move_once_with_gradient_checkpointing(name):
    plain = build_encoder(f"timm/{name}", {}, 1)
    saving = build_encoder(f"timm/{name}", {"gradient_checkpointing": True}, 1)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 1, 64, 64)
    for encoder in (plain, saving):
        encoder(x).global_BD.square().sum().backward()
    pairs = zip(plain.state_dict().items(), saving.state_dict().values(), strict=True)
    assert [key for (key, value), other in pairs if not torch.equal(value, other)] == []


def test_a_teacher_copied_from_a_checkpointed_student_is_its_own():
    from copy import deepcopy

    student = build_encoder("timm/resnet18", {"gradient_checkpointing": True}, 1)
    teacher = deepcopy(student)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    student(torch.randn(2, 1, 64, 64)).global_BD.sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_drop_path_is_asked_for():
    rates = {}
    for rate in (0.0, 0.3):
        encoder = build_encoder("timm/vit_tiny_patch16_224", {"drop_path": rate}, 1)
        last = encoder.net.blocks[-1].drop_path1
        rates[rate] = getattr(last, "drop_prob", 0.0)
    assert rates == {0.0: 0.0, 0.3: pytest.approx(0.3)}
