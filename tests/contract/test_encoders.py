"""What every registered encoder promises: volumes, clips, and the images of library bridges."""

import numpy as np
import pytest
import torch

from medssl.core.errors import ConfigError, UsageError
from medssl.core.masks import random_mask
from medssl.core.preprocess import Contract
from medssl.core.registry import ENCODERS
from medssl.encoders._base import build_encoder
from medssl.encoders.card import Card, load_card, part_of, save_model

SIZES = {
    "resenc-xs": (16, 32, 16),
    "vit3d-xs": (16, 32, 16),
    "video_vit-xs": (4, 32, 48),
    "frame_vit-xs": (32, 48),
    "pytorchvideo/x3d_s": (4, 64, 96),
    "frames/timm/resnet18": (2, 64, 96),
    "frames/timm/vit_tiny_patch16_224": (2, 32, 48),
    "swin_unetr-xs": (64, 32, 32),
    "timm/resnet18": (64, 96),
    "timm/convnext_tiny": (64, 64),
    "timm/swin_tiny_patch4_window7_224": (64, 96),
    "timm/vit_tiny_patch16_224": (64, 96),
    "timm/vit_small_patch14_reg4_dinov2": (56, 70),
    "timm/vit_small_patch16_dinov3": (64, 96),
    "smp/resnet34": (64, 64),
    "smp/efficientnet-b0": (64, 64),
    "smp/mit_b0": (64, 96),
}
TOKENS = [
    "vit3d-xs",
    "video_vit-xs",
    "frame_vit-xs",
    *(name for name in SIZES if name.startswith("timm/vit_")),
]
FAST = [
    "resenc-xs", "vit3d-xs", "video_vit-xs", "frame_vit-xs", "timm/resnet18",
    "timm/vit_tiny_patch16_224",
    "smp/mit_b0", "pytorchvideo/x3d_s", "frames/timm/resnet18",
]  # fmt: skip
SOME = [*FAST, "swin_unetr-xs"]


def quick(names):
    """These encoders, in the fast run the fast ones alone."""
    return [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in names]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def picture(name, batch=2, channels=1):
    return torch.randn(batch, channels, *SIZES[name])


def masks(encoder, size, batch=2):
    draws = [random_mask(np.random.default_rng(i), encoder.grid(size), 0.5) for i in range(batch)]
    return torch.from_numpy(np.stack(draws))


def hidden_voxels(encoder, mask, size):
    hidden = mask.view(len(mask), 1, *encoder.grid(size))
    for axis, edge in enumerate(encoder.token_size, start=2):
        hidden = hidden.repeat_interleave(edge, axis)
    return hidden


def test_every_family_is_tested_here():
    tested = {name.partition("/")[0].partition("-")[0] for name in SIZES}
    assert tested == {entry.name for entry in ENCODERS.entries}


def test_encoders_say_whether_they_take_images_volumes_or_clips():
    kinds = {name: build_encoder(name, {}, 1).kind for name in FAST}
    clips = {name for name in FAST if name.startswith(("video_vit", "pytorchvideo", "frames"))}
    pictures = {name for name in FAST if name.startswith(("timm", "smp", "frame_vit"))}
    assert {name for name, kind in kinds.items() if kind == "clip"} == clips
    assert {name for name, kind in kinds.items() if kind == "image"} == pictures


@pytest.mark.parametrize("name", SIZES)
def test_features_have_the_promised_shapes(name):
    encoder = build_encoder(name, {}, 2).eval()
    x = picture(name, channels=2)
    encoder.check_size(SIZES[name])
    features = encoder(x)
    tokens = encoder.tokens(features, SIZES[name])
    assert features.global_BD.shape == (2, encoder.width)
    assert tokens.shape == (2, np.prod(encoder.grid(SIZES[name])), encoder.token_width)
    assert encoder.returns_tokens == (features.tokens_BND is not None) == (name in TOKENS)
    sizes = [tuple(level.shape[2:]) for level in features.pyramid]
    assert sizes == sorted(sizes, reverse=True)
    assert not encoder.mask_refusal


@pytest.mark.parametrize("name", quick(SIZES))
def test_a_sample_does_not_see_its_batch(name):
    encoder = build_encoder(name, {}, 1).eval()
    x = picture(name)
    with torch.no_grad():
        alone, together = encoder(x[:1]).global_BD, encoder(x).global_BD[:1]
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)


# Squeeze-and-excite sees the whole picture, and an untrained EfficientNet little else.
@pytest.mark.parametrize("name", quick(n for n in SIZES if "efficientnet" not in n))
def test_tokens_lie_in_raster_order(name):
    # A change of the last block of the first row moves the tokens there most.
    encoder = build_encoder(name, {}, 1).eval()
    size, grid = SIZES[name], encoder.grid(SIZES[name])
    x = picture(name, batch=1)
    changed = x.clone()
    corner = tuple(slice(0, edge) for edge in encoder.token_size[:-1])
    changed[(..., *corner, slice(-encoder.token_size[-1], None))] += 5
    with torch.no_grad():
        before, after = (encoder.tokens(encoder(y), size) for y in (x, changed))
    moved = (after - before).norm(dim=-1)[0].argmax()
    place = np.array(np.unravel_index(int(moved), grid))
    corner = np.array([*[0] * (len(grid) - 1), grid[-1] - 1])
    assert abs(place - corner).max() <= 1  # convolutions see beyond a block


@pytest.mark.parametrize("name", quick(SIZES))
def test_hidden_voxels_cannot_be_seen(name):
    encoder = build_encoder(name, {}, 1).eval()
    x, size = picture(name), SIZES[name]
    mask = masks(encoder, size)
    changed = torch.where(hidden_voxels(encoder, mask, size), 100 * torch.randn_like(x), x)
    fill = torch.randn(encoder.token_width)
    with torch.no_grad():
        for filled in (None, fill) if encoder.returns_tokens else (None,):
            seen, other = encoder(x, mask, filled), encoder(changed, mask, filled)
            assert torch.equal(seen.global_BD, other.global_BD)
        assert not torch.equal(encoder(x).global_BD, encoder(changed).global_BD)


@pytest.mark.parametrize("name", TOKENS)
def test_only_visible_tokens_are_computed_and_named(name):
    encoder = build_encoder(name, {}, 1).eval()
    mask = masks(encoder, SIZES[name])
    features = encoder(picture(name), mask)
    assert not mask.gather(1, features.token_index_BN).any()
    assert features.tokens_BND.shape[1] == features.token_index_BN.shape[1] == (~mask[0]).sum()
    assert features.pyramid == []


@pytest.mark.parametrize("name", TOKENS)
def test_a_mask_that_hides_nothing_changes_nothing(name):
    # Positions, rotary ones too, follow the tokens that are kept.
    encoder = build_encoder(name, {}, 1).eval()
    x = picture(name)
    nothing = torch.zeros(2, int(np.prod(encoder.grid(SIZES[name]))), dtype=torch.bool)
    dense, kept = encoder(x), encoder(x, nothing)
    torch.testing.assert_close(dense.tokens_BND, kept.tokens_BND, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(dense.global_BD, kept.global_BD, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", TOKENS)
def test_kept_tokens_know_where_they_were(name):
    # The same picture everywhere: which tokens are kept matters through positions alone.
    encoder = build_encoder(name, {}, 1).eval()
    x = torch.ones(1, 1, *SIZES[name])
    count = int(np.prod(encoder.grid(SIZES[name])))
    first = torch.arange(count)[None] >= 2
    apart = (torch.arange(count)[None] % (count - 1)) > 0
    assert not torch.allclose(encoder(x, first).tokens_BND, encoder(x, apart).tokens_BND)


@pytest.mark.parametrize("name", TOKENS)
def test_fill_takes_the_place_of_hidden_tokens(name):
    encoder = build_encoder(name, {}, 1).eval()
    mask = masks(encoder, SIZES[name])
    x, fill = picture(name), torch.randn(encoder.token_width, requires_grad=True)
    features = encoder(x, mask, fill)
    assert features.tokens_BND.shape[1] == mask.shape[1]
    assert features.pyramid
    features.tokens_BND.square().sum().backward()
    assert fill.grad.abs().min() > 0


@pytest.mark.parametrize("name", quick(SIZES))
def test_decoder_gives_every_voxel_its_classes(name):
    encoder = build_encoder(name, {}, 1)
    decoder = encoder.make_decoder(5)
    x = picture(name)
    assert decoder(x, encoder(x)).shape == (2, 5, *SIZES[name])
    assert [k for k in decoder.state_dict() if k.startswith(decoder.last_layer)]


@pytest.mark.parametrize("name", quick(SIZES))
def test_maps_of_a_decoder_grow_and_the_first_cost_no_later_block(name):
    encoder = build_encoder(name, {}, 1)
    decoder = encoder.make_decoder(5)
    x = picture(name)
    maps = list(decoder.maps(x, encoder(x)))
    sizes = [m[0, 0].numel() for m in maps]
    assert sizes == sorted(sizes)
    assert len(sizes) >= 3
    first = next(decoder.maps(x, encoder(x))).square().mean()
    used = torch.autograd.grad(first, list(decoder.parameters()), allow_unused=True)
    maps[-1].square().mean().backward()
    late = [p.grad for p, grad in zip(decoder.parameters(), used, strict=True) if grad is None]
    assert sum(grad is not None for grad in late) > 0


@pytest.mark.parametrize("name", quick(SIZES))
def test_every_weight_gets_a_gradient_from_some_use(name):
    encoder = build_encoder(name, {}, 1)
    x, size = picture(name), SIZES[name]
    features = encoder(x)
    loss = features.global_BD.square().mean() + encoder.tokens(features, size).square().mean()
    loss.backward()
    silent = [key for key, p in encoder.named_parameters() if p.grad is None]
    assert silent == []


@pytest.mark.parametrize("name", quick(SIZES))
def test_reloads_strictly_from_its_card(name, tmp_path):
    encoder = build_encoder(name, {}, 1)
    card = Card(
        encoder=name, in_channels=1, channels=("T1",), contract=Contract(), modality="MR",
        patch_size=SIZES[name],
    )  # fmt: skip
    save_model(tmp_path / "model", card, {"encoder": encoder})
    reread, weights = load_card(tmp_path)
    assert reread.patch_size == SIZES[name]
    own = encoder.state_dict()
    assert all(torch.equal(v, own[k]) for k, v in part_of(weights, "encoder").items())


@pytest.mark.parametrize("name", ENCODERS.names())
def test_every_variant_builds(name):
    # MONAI, smp and MViT compute rates on the default device.
    with torch.device("cpu" if any(w in name for w in ("swin_unetr", "smp", "mvit")) else "meta"):
        encoder = build_encoder(name, {}, 1)
    assert sum(p.numel() for p in encoder.parameters()) > 1e5


@pytest.mark.parametrize("name", SIZES)
def test_sizes_that_do_not_divide_are_refused_with_a_near_one(name):
    encoder = build_encoder(name, {}, 1)
    near = tuple(4 * side for side in encoder.size_multiple)
    wrong = (*near[:-1], near[-1] + 1)  # a clip may have any number of frames
    with pytest.raises(ConfigError) as error:
        encoder.check_size(wrong)
    assert error.value.fix == f"crop={list(near)}".replace(" ", "")
    encoder.check_size(near)


@pytest.mark.parametrize("name", ["resenc-xs", "swin_unetr-xs", "timm/resnet18", "smp/resnet34"])
def test_one_voxel_at_the_deepest_stage_is_refused(name):
    encoder = build_encoder(name, {}, 1)
    with pytest.raises(ConfigError, match=r"one (voxel|pixel)") as error:
        encoder.check_size(encoder.size_multiple)
    assert "crop=" in error.value.fix


@pytest.mark.parametrize("name", quick(n for n in SOME if not n.startswith(("smp", "frames"))))
def test_gradient_checkpointing_changes_neither_values_nor_gradients_nor_statistics(name):
    plain = build_encoder(name, {}, 1)
    saving = build_encoder(name, {"gradient_checkpointing": True}, 1)
    saving.load_state_dict(plain.state_dict())
    x = picture(name)
    for encoder in (plain, saving):
        encoder(x).global_BD.square().sum().backward()
    for (key, p), q in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert p.grad is None or torch.equal(p.grad, q.grad), key
    for (key, value), other in zip(
        plain.state_dict().items(), saving.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), key


@pytest.mark.parametrize("name", quick(SOME))
def test_half_precision_stays_near_single(name):
    encoder = build_encoder(name, {}, 1).eval()
    x = picture(name)
    with torch.no_grad():
        exact = encoder(x).global_BD
        with torch.autocast("cpu", torch.bfloat16):
            half = encoder(x).global_BD.float()
    assert half.isfinite().all()
    assert (half - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("name", quick(SOME))
def test_weights_are_a_function_of_the_seed(name):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_encoder(name, {}, 1).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_an_unknown_option_names_the_nearest():
    with pytest.raises((ConfigError, UsageError), match="drop_pth"):
        build_encoder("timm/resnet18", {"drop_pth": 0.1}, 1)


def test_m_has_the_layers_of_nnunet_resenc():
    # Published layout of nnU-Net's ResEnc encoders (Isensee et al. 2024): blocks per stage.
    with torch.device("meta"):
        body = build_encoder("resenc-l", {}, 1).body
    assert [len(stage.blocks) for stage in body.stages] == [1, 3, 4, 6, 6, 6]
    assert list(body.output_channels) == [32, 64, 128, 256, 320, 320]
