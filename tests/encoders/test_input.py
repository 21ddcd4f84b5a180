"""Input channels of image networks: grey, colour and others give the same activations."""

import pytest
import torch
from torch.nn.functional import conv2d

from medssl.encoders._base import build_encoder
from medssl.encoders._input import adapt_input, adapt_kernel


def test_grey_picture_gives_what_its_rgb_copy_gave():
    kernel, grey = torch.randn(8, 3, 5, 5).double(), torch.randn(2, 1, 16, 16).double()
    colour = conv2d(grey.expand(-1, 3, -1, -1), kernel, padding=2)
    torch.testing.assert_close(conv2d(grey, adapt_kernel(kernel, 1), padding=2), colour)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_equal_channels_give_what_one_gave(channels):
    kernel, grey = torch.randn(8, 1, 3, 3, 3).double(), torch.randn(1, 1, 6, 6, 6).double()
    spread = adapt_kernel(kernel, channels)
    copies = grey.expand(-1, channels, -1, -1, -1)
    one = torch.nn.functional.conv3d(grey, kernel)
    torch.testing.assert_close(torch.nn.functional.conv3d(copies, spread), one)


@pytest.mark.parametrize("name", ["timm/resnet18", "timm/vit_tiny_patch16_224", "smp/mit_b0"])
@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3), (1, 2), (3, 4)])
def test_an_encoder_keeps_its_activations_of_grey_pictures(name, before, after):
    scale = {"mean": (0.4,), "std": (0.2,)}
    first = build_encoder(name, scale, before).eval()
    second = build_encoder(name, {}, after).eval()
    second.load_state_dict(adapt_input(first.state_dict(), second), strict=True)
    grey = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        seen = [e(grey.expand(-1, e.in_channels, -1, -1)).global_BD for e in (first, second)]
    torch.testing.assert_close(*seen, atol=1e-5, rtol=1e-4)


def test_weights_of_another_width_do_not_pass():
    first = build_encoder("timm/resnet18", {}, 3)
    second = build_encoder("timm/resnet34", {}, 1)
    with pytest.raises(RuntimeError):
        second.load_state_dict(adapt_input(first.state_dict(), second), strict=True)


def test_input_is_scaled_by_mean_and_deviation_of_each_channel():
    options = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    scale = build_encoder("timm/resnet18", options, 3).scale
    # A pixel at the mean becomes 0; one deviation above it becomes 1.
    mean, std = (torch.tensor(options[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(scale(mean + std), torch.ones(1, 3, 1, 1))


def test_grey_input_gets_the_average_of_three_channels():
    options = {"mean": (0.4, 0.5, 0.6), "std": (0.1, 0.2, 0.3)}
    scale = build_encoder("timm/resnet18", options, 1).scale
    assert scale.mean_C.tolist() == pytest.approx([0.5])
    assert scale.std_C.tolist() == pytest.approx([0.2])


def test_random_weights_leave_the_input_alone():
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(build_encoder("timm/resnet18", {}, 1).scale(x), x)
