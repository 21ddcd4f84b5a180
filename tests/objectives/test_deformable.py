"""Deformable attention over slices: known offsets, order, padding, spacing."""

import pytest
import torch
import torch.nn.functional as F

from medssl.objectives._parts.deformable import (
    DeformableAttention,
    SliceTransformer,
    mean_inside,
    places_in_order,
    weights_at,
)

SLICES = 6


def attention(offset, heads=1):
    """One point per head at ``offset`` slices; value and output layers are the identity."""
    layer = DeformableAttention(8, heads, points=1)
    with torch.no_grad():
        layer.offset.bias.fill_(offset)
        for identity in (layer.value, layer.out):
            identity.weight.copy_(torch.eye(8))
            identity.bias.zero_()
    return layer


def stack(batch=2, inside=SLICES, seed=0):
    x = torch.randn(batch, SLICES, 8, generator=torch.Generator().manual_seed(seed))
    place = torch.arange(float(SLICES)).expand(batch, -1)
    return x, place, place < inside


@pytest.mark.parametrize("heads", [1, 4])
def test_without_offset_it_is_the_identity(heads):
    x, place, inside = stack()
    torch.testing.assert_close(attention(0.0, heads)(x, place, inside), x)


@pytest.mark.parametrize("k", [1, 2, -3])
def test_an_integer_offset_is_a_shift_and_beyond_the_ends_is_0(k):
    x, place, inside = stack()
    shifted = torch.zeros_like(x)
    shifted[:, max(-k, 0) : SLICES - max(k, 0)] = x[:, max(k, 0) : SLICES + min(k, 0)]
    torch.testing.assert_close(attention(k)(x, place, inside), shifted)


def test_half_an_offset_is_the_mean_of_two_neighbours():
    x, place, inside = stack()
    found = attention(0.5)(x, place, inside)
    torch.testing.assert_close(found[:, :-1], (x[:, :-1] + x[:, 1:]) / 2)


def test_padding_never_contributes():
    x, place, inside = stack(inside=4)
    torch.manual_seed(1)
    layer = DeformableAttention(8, 2, 4)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    other = torch.where(inside[..., None], x, 1e6)
    torch.testing.assert_close(
        layer(x, place, inside)[:, :4], layer(other, place, inside)[:, :4], rtol=0, atol=0
    )


def test_padding_gives_no_gradient():
    x, place, inside = stack(inside=4)
    x.requires_grad_()
    attention(1.5)(x, place, inside)[:, :4].sum().backward()
    assert not x.grad[:, 4:].any()
    assert x.grad[:, 1:4].all()


def test_any_place_agrees_with_torch_grid_sample():
    x, own, inside = stack(batch=3, seed=2)
    place = torch.empty(3, 50).uniform_(-2, SLICES + 1)
    grid = torch.stack([place * 2 / (SLICES - 1) - 1, torch.zeros_like(place)], -1)[:, None]
    expected = F.grid_sample(x.transpose(1, 2)[:, :, None], grid, align_corners=True)
    found = weights_at(place, own, inside) @ x
    torch.testing.assert_close(found, expected[:, :, 0].transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_offsets_learn_by_the_difference_of_neighbours_at_whole_places_too():
    x, own, inside = stack(batch=1)
    place = torch.tensor([[1.0, 2.25, 3.0]], requires_grad=True)
    (weights_at(place, own, inside) @ x).sum().backward()
    steps = (x[:, 1:] - x[:, :-1]).sum(2)
    torch.testing.assert_close(place.grad, steps[:, 1:4])


def test_at_the_start_heads_look_in_different_directions_and_points_count_alike():
    layer = DeformableAttention(16, 8, 4)
    assert not layer.offset.weight.any()
    assert not layer.weight.weight.any()
    bias_MK = layer.offset.bias.view(8, 4)
    assert len(set(bias_MK[:, 0].tolist())) == 8
    torch.testing.assert_close(bias_MK[:, 3], 4 * bias_MK[:, 0])
    torch.testing.assert_close(bias_MK.sum(0), torch.zeros(4))


def test_places_follow_the_offsets_of_the_slices_inside():
    offset = torch.tensor([[3.0, -3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    inside = torch.tensor([[True, True, True, False], [True, False, False, False]])
    found = places_in_order(offset, inside)
    assert found[inside].tolist() == [2.0, 0.0, 1.0, 0.0]


def holistic(x, offset_mm, inside, hidden=None):
    torch.manual_seed(0)
    transformer = SliceTransformer(8, 16, 2, 4, 3)
    for block in transformer.blocks:
        torch.nn.init.normal_(block.attention.offset.weight)
    return mean_inside(transformer(x, offset_mm, inside, hidden), inside)


def test_permuting_slices_with_their_positions_leaves_the_volume_unchanged():
    x, place, inside = stack(inside=5)
    offset = 2.5 * (place - 2)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    turned = holistic(x[:, order], offset[:, order], inside[:, order])
    torch.testing.assert_close(turned, holistic(x, offset, inside))
    assert not torch.allclose(holistic(x[:, order], offset, inside), turned)


def test_spacing_in_mm_is_seen():
    x, place, inside = stack()
    thin, thick = holistic(x, place, inside), holistic(x, 5 * place, inside)
    assert not torch.allclose(thin, thick, atol=1e-3)


def test_stacks_of_a_batch_are_apart():
    x, place, inside = stack()
    alone = torch.cat([holistic(x[[b]], place[[b]], inside[[b]]) for b in range(2)])
    torch.testing.assert_close(holistic(x, place, inside), alone)


def test_a_hidden_slice_cannot_be_seen():
    x, place, inside = stack()
    hidden = place == 2
    other = torch.where(hidden[..., None], -x, x)
    torch.testing.assert_close(
        holistic(x, place, inside, hidden), holistic(other, place, inside, hidden), rtol=0, atol=0
    )
