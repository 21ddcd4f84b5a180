"""What is particular to pytorchvideo's networks, and to image encoders on frames."""

import sys

import pytest
import torch

from medssl.core.errors import ConfigError
from medssl.encoders._base import build_encoder

SMALL = (8, 64, 64)
# Channels of the deepest map (the papers' tables), and frames per step of it.
DEEPEST = {
    "x3d_s": (192, 1),
    "slowfast_r50": (2048 + 256, 4),
    "mvit_base_16x4": (768, 2),
    "r2plus1d_r50": (2048, 4),
    "csn_r101": (2048, 8),
}


def build(name, channels=1, **options):
    torch.manual_seed(0)
    if name.startswith("mvit"):
        options = {"image_size": SMALL, **options}
    return build_encoder(f"pytorchvideo/{name}", options, channels).eval()


@pytest.mark.parametrize("name", DEEPEST)
def test_maps_are_those_of_the_papers_at_a_32nd_of_the_side(name):
    encoder = build(name, 3)
    width, frames = DEEPEST[name]
    features = encoder(torch.randn(1, 3, *SMALL))
    assert encoder.kind == "clip"
    assert features.pyramid[-1].shape == (1, width, SMALL[0] // frames, 2, 2)
    assert features.global_BD.shape == (1, width)
    assert features.tokens_BND is None


@pytest.mark.parametrize("name", ["x3d_s", "slowfast_r50", "mvit_base_16x4"])
def test_features_are_the_librarys(name):
    from pytorchvideo.models import hub

    encoder = build(name, 3)
    options = {"spatial_size": 64, "temporal_size": 8} if name.startswith("mvit") else {}
    theirs = getattr(hub, name)(pretrained=False, **options).eval()
    missing = theirs.load_state_dict(
        {k.removeprefix("body.").removeprefix("net."): v for k, v in encoder.state_dict().items()},
        strict=False,
    )
    assert missing.unexpected_keys == []
    x = torch.randn(1, 3, *SMALL)
    if name == "slowfast_r50":
        slow = x[:, :, torch.linspace(0, 7, 2).long()]
        theirs.blocks = theirs.blocks[:5]
        wanted, fast = theirs([slow, x])
        wanted = torch.cat([wanted.mean((2, 3, 4)), fast.mean((2, 3, 4))], 1)
    elif name == "x3d_s":
        theirs.blocks = theirs.blocks[:5]
        wanted = theirs(x).mean((2, 3, 4))
    else:
        theirs.head = None
        wanted = theirs(x)[:, 1:].mean(1)
    torch.testing.assert_close(encoder(x).global_BD, wanted, atol=1e-5, rtol=1e-4)


def test_mvit_takes_the_one_size_it_is_built_for():
    encoder = build("mvit_base_16x4")
    encoder.check_size(SMALL)
    with pytest.raises(ConfigError, match="built for one size") as refusal:
        encoder.check_size((16, 64, 64))
    assert "image_size" in refusal.value.fix


@pytest.mark.parametrize("name", ["mvit_base_16x4", "slowfast_r50"])
def test_hidden_blocks_cannot_be_seen(name):
    encoder = build(name)
    grid = encoder.grid(SMALL)
    x = torch.randn(1, 1, *SMALL)
    mask = torch.arange(grid[0] * 16)[None] % 3 == 0
    hidden = mask.view(1, 1, *grid)
    for axis, edge in enumerate(encoder.token_size, start=2):
        hidden = hidden.repeat_interleave(edge, axis)
    with torch.no_grad():
        seen, other = (encoder(y, mask).global_BD for y in (x, x.masked_fill(hidden, 9.0)))
    assert torch.equal(seen, other)


def test_both_paths_of_slowfast_reach_the_decoder():
    encoder = build("slowfast_r50")
    x = torch.randn(1, 1, *SMALL, requires_grad=True)
    assert encoder.make_decoder(2)(x, encoder(x)).shape == (1, 2, *SMALL)
    encoder(x).global_BD.sum().backward()
    assert (x.grad.abs().amax((0, 1, 3, 4)) > 0).all()


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("x3d_s", {"image_size": (8, 64, 64)}, "has no image_size"),
        ("slowfast_r50", {"token_size": (2, 16, 16)}, "below the finest map"),
        ("mvit_base_16x4", {"token_size": (3, 16, 16)}, "does not divide"),
        ("x3d_z", {}, "unknown pytorchvideo network 'x3d_z'"),
    ],
)
def test_what_a_network_cannot_do_is_refused_with_a_way_out(name, options, word):
    with pytest.raises(ConfigError, match=word) as refusal:
        build(name, **options)
    assert refusal.value.fix


def test_without_the_library_its_installation_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorchvideo.models.hub", None)
    with pytest.raises(ConfigError, match="not installed") as refusal:
        build("x3d_s")
    assert "medssl[video]" in refusal.value.fix


def test_frames_are_read_one_by_one_and_time_is_seen_by_the_clips_vector_alone():
    encoder = build_encoder("frames/timm/resnet18", {}, 1).eval()
    x = torch.randn(1, 1, 3, 64, 64)
    with torch.no_grad():
        image = encoder.image(x[0].transpose(0, 1))
        there, back = encoder(x), encoder(x.flip(2))
    torch.testing.assert_close(there.pyramid[-1][0].transpose(0, 1), image.pyramid[-1])
    torch.testing.assert_close(back.pyramid[-1].flip(2), there.pyramid[-1])
    assert not torch.allclose(there.global_BD, back.global_BD)


def test_without_blocks_over_time_the_clips_vector_is_the_mean_of_its_frames():
    encoder = build_encoder("frames/timm/resnet18", {"temporal_depth": 0}, 1).eval()
    x = torch.randn(2, 1, 3, 64, 64)
    frames = torch.stack([encoder.image(x[:, :, t]).global_BD for t in range(3)])
    torch.testing.assert_close(encoder(x).global_BD, frames.mean(0), atol=1e-5, rtol=1e-4)


def test_frames_of_a_wrong_size_and_volumes_are_refused():
    with pytest.raises(ConfigError, match="takes a volume"):
        build_encoder("frames/vit3d-xs", {}, 1)
    with pytest.raises(ConfigError, match="no multiple"):
        build_encoder("frames/timm/resnet18", {}, 1).check_size((4, 63, 64))
    with pytest.raises(ConfigError, match="do not fit the image encoder"):
        build_encoder("frames/timm/resnet18", {}, 1).check_size((4, 32, 32))
    with pytest.raises(ConfigError, match=r"encoder\.image has no weights"):
        build_encoder("frames/timm/resnet18", {"image": {"weights": "timm"}}, 1)
