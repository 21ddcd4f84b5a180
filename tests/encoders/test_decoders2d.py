"""Dense decoders of image encoders."""

import pytest
import segmentation_models_pytorch as smp
import torch

from medssl.core.errors import ConfigError
from medssl.encoders._base import build_encoder

KINDS = [
    ("timm/resnet18", "unet"), ("timm/resnet18", "unetplusplus"), ("timm/resnet18", "fpn"),
    ("timm/convnext_atto", "unet"), ("timm/convnext_atto", "fpn"),
    ("timm/vit_tiny_patch16_224", "dpt"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_every_weight_learns_from_the_picture(name, kind):
    encoder = build_encoder(name, {}, 1)
    decoder = encoder.make_decoder(3, kind)
    x = torch.randn(2, 1, 96, 64)
    logits = decoder(x, encoder(x))
    assert logits.shape == (2, 3, 96, 64)
    logits.square().mean().backward()
    assert [k for k, p in decoder.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kind", ["unet", "unetplusplus"])
def test_the_finest_map_is_what_smp_gives_to_the_last_layer(kind):
    encoder = build_encoder("timm/resnet18", {}, 1).eval()
    decoder = encoder.make_decoder(3, kind).eval()
    x = torch.randn(2, 1, 64, 96)
    with torch.no_grad():
        features = encoder(x)
        maps = list(decoder.maps(x, features))
        assert torch.equal(maps[-1], decoder.net(decoder.steps(x, features)))
    assert [tuple(m.shape[2:]) for m in maps] == [(4 << k, 6 << k) for k in range(5)]


@pytest.mark.parametrize(
    ("kind", "theirs"), [("unet", smp.Unet), ("unetplusplus", smp.UnetPlusPlus)]
)
def test_layers_are_those_of_smp(kind, theirs):
    model = theirs("resnet34", encoder_weights=None, in_channels=1, classes=2).eval()
    encoder = build_encoder("smp/resnet34", {}, 1).eval()
    decoder = encoder.make_decoder(2, kind).eval()
    encoder.body.net.load_state_dict(model.encoder.state_dict(), strict=True)
    decoder.net.load_state_dict(model.decoder.state_dict(), strict=True)
    decoder.out.load_state_dict(model.segmentation_head[0].state_dict(), strict=True)
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(decoder(x, encoder(x)), model(x))


@pytest.mark.parametrize(
    ("name", "asked", "known"),
    [
        ("timm/vit_tiny_patch16_224", "unet", "dpt"),
        ("timm/resnet18", "dpt", "unet"),
        ("timm/convnext_atto", "unetplusplus", "unet"),  # no map at stride 2 to nest from
        ("vit3d-xs", "unet", "unetr"),
        ("swin_unetr-xs", "unetr", "swin_unetr"),
    ],
)
def test_decoders_that_do_not_fit_are_refused(name, asked, known):
    with pytest.raises(ConfigError) as error:
        build_encoder(name, {}, 1).make_decoder(2, asked)
    assert known in error.value.fix


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("timm/vit_tiny_patch16_224", {"patch_size": 4}, (32, 32)),
        ("timm/vit_small_patch14_reg4_dinov2", {}, (70, 42)),  # an odd grid of odd patches
        ("timm/resnet18", {"output_stride": 8, "token_size": 8}, (32, 32)),
        ("timm/vgg11", {}, (64, 64)),
    ],
)
def test_small_and_odd_pictures_come_back_at_their_size(name, options, size):
    encoder = build_encoder(name, options, 1)
    encoder.check_size(size)
    x = torch.randn(2, 1, *size)
    assert encoder.make_decoder(2)(x, encoder(x)).shape == (2, 2, *size)


def test_swin_unetr_is_monais():
    from monai.networks.nets import SwinUNETR

    encoder = build_encoder("swin_unetr-xs", {}, 1)
    decoder = encoder.make_decoder(3)
    theirs = SwinUNETR(1, 3, feature_size=12).eval()
    own = {key.removeprefix("net."): value for key, value in decoder.state_dict().items()}
    theirs.load_state_dict({**encoder.state_dict(), **own}, strict=True)
    x = torch.randn(1, 1, 64, 32, 32)
    with torch.no_grad():
        assert torch.equal(decoder.eval()(x, encoder.eval()(x)), theirs(x))
