"""Tubelets: what is particular to the clip transformer."""

import pytest
import torch

from medssl.core.errors import ConfigError
from medssl.encoders._base import build_encoder
from medssl.encoders._tokens import sincos_positions


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return build_encoder("video_vit-xs", {}, 1).eval()


def test_64_frames_of_112_pixels_are_1568_tokens(encoder):
    # DISCOVR: tubelets of 2 x 16 x 16, 32 x 7 x 7.
    assert encoder.grid((64, 112, 112)) == (32, 7, 7)
    assert 32 * 7 * 7 == 1568


def test_positions_are_separable_in_time_row_and_column(encoder):
    codes = sincos_positions((4, 3, 5), encoder.width)[0].view(4, 3, 5, 3, -1)
    time, row, column = codes.unbind(3)
    assert torch.equal(time, time[:, :1, :1].expand_as(time))
    assert torch.equal(row, row[:1, :, :1].expand_as(row))
    assert torch.equal(column, column[:1, :1].expand_as(column))


def test_a_clip_played_backwards_is_another_clip(encoder):
    x = torch.randn(1, 1, 8, 32, 32)
    with torch.no_grad():
        there, back = encoder(x).global_BD, encoder(x.flip(2)).global_BD
    assert (there - back).abs().max() > 1e-3


def test_a_still_clip_has_no_time_but_that_of_its_positions(encoder):
    still = torch.randn(1, 1, 1, 32, 32).expand(-1, -1, 8, -1, -1)
    embedded = encoder.embed(still)
    assert torch.allclose(embedded, embedded[:, :, :1].expand_as(embedded), atol=1e-6)


def test_the_encoder_of_single_frames_has_the_size_of_the_clips_and_other_weights(encoder):
    frames = encoder.per_frame()
    assert frames.token_size == (1, 16, 16)
    assert (frames.width, len(frames.blocks)) == (encoder.width, len(encoder.blocks))
    qkv = "blocks.0.attn.qkv.weight"
    assert not torch.equal(frames.get_parameter(qkv), encoder.get_parameter(qkv))
    assert frames(torch.randn(2, 1, 1, 32, 32)).tokens_BND.shape == (2, 4, encoder.width)


def test_an_odd_number_of_frames_is_refused(encoder):
    with pytest.raises(ConfigError, match="no multiple") as refusal:
        encoder.check_size((15, 112, 112))
    assert refusal.value.fix == "crop=[16,112,112]"


def test_a_crop_without_time_is_refused_with_an_example(encoder):
    with pytest.raises(ConfigError) as refusal:
        encoder.check_size((112, 112))
    assert refusal.value.fix == "e.g. crop=[16,112,112]"
