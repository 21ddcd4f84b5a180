"""Token bookkeeping of the volume transformer."""

import pytest
import torch

from medssl.core.config import Component
from medssl.encoders._base import build_encoder, in_mm
from medssl.encoders._tokens import (
    cached_positions,
    relative_pitch,
    sincos_positions,
    take_tokens,
    visible_index,
)
from medssl.encoders._vit3d import upsampling_steps


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


def test_equal_distances_in_mm_give_the_positions_of_token_counts():
    for token_size, spacing_mm in [((8, 8, 8), (2.0, 2.0, 2.0)), ((4, 16, 16), (4.0, 1.0, 1.0))]:
        pitch = relative_pitch(token_size, spacing_mm)
        assert torch.equal(sincos_positions((2, 3, 4), 96, pitch), sincos_positions((2, 3, 4), 96))


def test_thick_slices_lie_as_far_apart_as_they_are():
    # 5 mm slices of 1 mm pixels, cubic tokens: one token along D is five along W.
    codes = sincos_positions((2, 1, 6), 96, relative_pitch((8, 8, 8), (5.0, 1.0, 1.0)))[0]
    codes = codes.view(2, 6, 3, 32)
    torch.testing.assert_close(codes[1, 0, 0], codes[0, 5, 2])


def test_cached_positions_survive_inference_mode():
    with torch.inference_mode():
        codes = cached_positions((2, 2), 8, (3.0, 1.0), torch.device("cpu"))
    assert not codes.is_inference()
    assert torch.equal(codes, sincos_positions((2, 2), 8, (3.0, 1.0)))


def test_spacing_changes_what_the_volume_transformer_sees():
    encoders = []
    for options in ({}, {"spacing_mm": (5.0, 1.0, 1.0)}):
        torch.manual_seed(0)
        encoders.append(build_encoder("vit3d-xs", options, 1).eval())
    assert encoders[0].state_dict().keys() == encoders[1].state_dict().keys()
    x = torch.randn(1, 1, 16, 16, 16)
    assert not torch.allclose(encoders[0](x).global_BD, encoders[1](x).global_BD)


def test_registers_are_seen_and_never_returned():
    encoder = build_encoder("vit3d-xs", {"registers": 4}, 1)
    x = torch.randn(2, 1, 16, 16, 32)
    features = encoder(x)
    assert features.tokens_BND.shape[1] == features.token_index_BN.shape[1] == 16
    assert features.pyramid[0].shape[2:] == (2, 2, 4)
    features.tokens_BND.square().sum().backward()
    assert encoder.register_1RD.grad.abs().sum() > 0


def test_a_run_tells_its_spacing_to_encoders_that_place_tokens_in_mm():
    told = in_mm(Component(name="vit3d-xs"), (5.0, 1.0, 1.0))
    assert build_encoder(told.name, told.options, 1).pitch == (5.0, 1.0, 1.0)
    own = Component(name="vit3d-xs", spacing_mm=[2.0, 1.0, 1.0])
    assert in_mm(own, (5.0, 1.0, 1.0)) == own
    assert in_mm(Component(name="resenc-xs"), (5.0, 1.0, 1.0)).options == {}
