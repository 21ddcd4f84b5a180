"""Token bookkeeping of the volume transformer."""

import pytest
import torch

from medssl.encoders._base import build_encoder
from medssl.encoders._tokens import sincos_positions, take_tokens, visible_index
from medssl.encoders.vit3d import upsampling_steps


def test_every_place_has_its_own_position():
    codes = sincos_positions((4, 5, 6), 96)[0]
    apart = torch.cdist(codes, codes) + 10 * torch.eye(len(codes))
    assert apart.min() > 0.1


def test_steps_along_one_axis_change_only_its_share():
    codes = sincos_positions((2, 2, 2), 96)[0].view(2, 2, 2, 3, 32)
    assert torch.equal(codes[0, 0, 0, 1:], codes[1, 0, 0, 1:])
    assert not torch.equal(codes[0, 0, 0, 0], codes[1, 0, 0, 0])


def test_visible_tokens_keep_raster_order():
    mask = torch.tensor([[True, False, False, True], [False, True, True, False]])
    index = visible_index(mask)
    assert index.tolist() == [[1, 2], [0, 3]]
    tokens = torch.arange(8.0).view(2, 4, 1)
    assert take_tokens(tokens, index).flatten().tolist() == [1.0, 2.0, 4.0, 7.0]


@pytest.mark.parametrize("size", [(8, 8, 8), (2, 8, 8), (4, 16, 16), (1, 4, 4)])
def test_upsampling_leads_back_to_full_resolution(size):
    factors = torch.tensor(upsampling_steps(size)).prod(0)
    assert tuple(factors.tolist()) == size


def test_anisotropic_patches_decode_to_the_input_grid():
    encoder = build_encoder("vit3d-xs", {"token_size": (2, 8, 8)}, 1)
    x = torch.randn(1, 1, 8, 32, 16)
    assert encoder.make_decoder(2)(x, encoder(x)).shape == (1, 2, 8, 32, 16)
