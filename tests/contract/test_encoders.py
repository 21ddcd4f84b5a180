"""What every registered encoder promises."""

import numpy as np
import pytest
import torch

from medssl.core.errors import ConfigError
from medssl.core.masks import random_mask
from medssl.core.preprocess import Contract
from medssl.core.registry import ENCODERS
from medssl.encoders._base import build_encoder
from medssl.encoders.card import Card, load_card, part_of, save_model

SMALL = [name for name in ENCODERS.names() if name.endswith("-xs")]
SIZE = (16, 32, 16)


def masks(encoder, batch=2):
    grid = encoder.grid(SIZE)
    draws = [random_mask(np.random.default_rng(i), grid, 0.5) for i in range(batch)]
    return torch.from_numpy(np.stack(draws))


@pytest.mark.parametrize("name", SMALL)
def test_features_have_the_promised_shapes(name):
    encoder = build_encoder(name, {}, 2)
    features = encoder(torch.randn(3, 2, *SIZE))
    assert features.global_BD.shape == (3, encoder.width)
    assert all(len(level) == 3 for level in features.pyramid)
    if encoder.returns_tokens:
        assert features.tokens_BND.shape[1] == np.prod(encoder.grid(SIZE))


@pytest.mark.parametrize("name", SMALL)
def test_decoder_gives_every_voxel_its_classes(name):
    encoder = build_encoder(name, {}, 1)
    x = torch.randn(2, 1, *SIZE)
    assert encoder.make_decoder(5)(x, encoder(x)).shape == (2, 5, *SIZE)


@pytest.mark.parametrize("name", SMALL)
def test_hidden_voxels_cannot_be_seen(name):
    encoder = build_encoder(name, {}, 1).eval()
    x, mask = torch.randn(2, 1, *SIZE), masks(encoder)
    hidden = mask.view(2, 1, *encoder.grid(SIZE))
    for axis, size in enumerate(encoder.token_size, start=2):
        hidden = hidden.repeat_interleave(size, axis)
    changed = torch.where(hidden, torch.randn_like(x) * 100, x)
    assert torch.equal(encoder(x, mask).global_BD, encoder(changed, mask).global_BD)


@pytest.mark.parametrize("name", SMALL)
def test_token_index_names_the_visible_tokens(name):
    encoder = build_encoder(name, {}, 1)
    mask = masks(encoder)
    index = encoder(torch.randn(2, 1, *SIZE), mask).token_index_BN
    if index is None:
        pytest.skip(f"{name} returns no tokens")
    assert not mask.gather(1, index).any()
    assert index.shape[1] == int((~mask[0]).sum())


@pytest.mark.parametrize("name", SMALL)
def test_reloads_strictly_from_its_card(name, tmp_path):
    encoder = build_encoder(name, {}, 1)
    card = Card(
        encoder=name, in_channels=1, channels=("T1",), contract=Contract(), modality="MR",
        patch_size=SIZE,
    )  # fmt: skip
    save_model(tmp_path / "model", card, {"encoder": encoder})
    _, weights = load_card(tmp_path)
    for key, value in part_of(weights, "encoder").items():
        assert torch.equal(value, encoder.state_dict()[key])


@pytest.mark.parametrize("name", ENCODERS.names())
def test_every_variant_builds(name):
    with torch.device("meta"):
        encoder = build_encoder(name, {}, 1)
    assert sum(p.numel() for p in encoder.parameters()) > 1e5


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(17, 32, 32), (32, 32, 33)])
def test_sizes_that_do_not_divide_are_refused_with_a_near_one(name, size):
    with pytest.raises(ConfigError, match=r"crop=\[(16|32|40),32,32\]"):
        build_encoder(name, {}, 1).check_size(size)


def test_one_voxel_at_the_deepest_stage_is_refused():
    with pytest.raises(ConfigError, match="one voxel"):
        build_encoder("resenc-xs", {}, 1).check_size((16, 16, 16))


def test_m_has_the_layers_of_nnunet_resenc():
    # Published layout of nnU-Net's ResEnc encoders (Isensee et al. 2024): blocks per stage.
    with torch.device("meta"):
        body = build_encoder("resenc-l", {}, 1).body
    assert [len(stage.blocks) for stage in body.stages] == [1, 3, 4, 6, 6, 6]
    assert list(body.output_channels) == [32, 64, 128, 256, 320, 320]
