"""Golden checks of VoCo: labels by overlap, closed forms of its terms, padding, the slow head."""

from math import log

import pytest
import torch

from medssl.core.viewspec import Intensity
from medssl.objectives.voco import likeness_of_tiles, overlap_shares, position_losses
from tests.objectives.tiny import batch_of, make, run

SIZE = (4, 8, 6)
SEEN = torch.ones(1, 3, dtype=torch.bool)


def places(*starts, flips=(1, 1, 1)):
    """Plain places (1, V, 3, 4) of crops that begin at these voxels."""
    place = torch.zeros(1, len(starts), 3, 4, dtype=torch.float64)
    place[0, :, range(3), range(3)] = torch.tensor(flips, dtype=torch.float64)
    last = torch.tensor([n - 1.0 if f < 0 else 0.0 for n, f in zip(SIZE, flips, strict=True)])
    place[0, :, :, 3] = torch.tensor(starts, dtype=torch.float64) + last
    return place


TILES = places(*((7, 8 * i, 6 * j) for i in range(3) for j in range(3)))


@pytest.mark.parametrize("tile", range(9))
def test_an_aligned_crop_has_a_one_hot_label(tile):
    share = overlap_shares(TILES[:, tile : tile + 1], TILES, SIZE)[0, 0]
    assert share.tolist() == [float(k == tile) for k in range(9)]


@pytest.mark.parametrize("start", [(7, 4, 0), (7, 0, 3)])
def test_half_a_shift_gives_two_halves(start):
    share = overlap_shares(places(start), TILES, SIZE)[0, 0]
    assert sorted(share.tolist()) == [0] * 7 + [0.5, 0.5]


def test_half_a_shift_along_two_axes_gives_four_quarters():
    share = overlap_shares(places((7, 12, 9)), TILES, SIZE)[0, 0]
    assert share.tolist() == [0, 0, 0, 0, 0.25, 0.25, 0, 0.25, 0.25]


def test_the_label_of_any_crop_in_the_grid_sums_to_1():
    starts = [(7, h, w) for h in range(17) for w in range(13)]
    total = overlap_shares(places(*starts), TILES, SIZE).sum(2)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


def test_a_crop_that_leaves_the_grid_misses_what_lies_outside():
    assert overlap_shares(places((7, -2, 0)), TILES, SIZE).sum().item() == pytest.approx(0.75)


def test_mirrored_crops_show_the_same_box():
    plain, turned = (places((7, 5, 2), flips=f) for f in ((1, 1, 1), (1, -1, -1)))
    assert torch.equal(overlap_shares(plain, TILES, SIZE), overlap_shares(turned, TILES, SIZE))


@pytest.mark.parametrize("encoder", ["vit3d-xs", "timm/resnet18"])
def test_labels_of_real_batches_are_shares(encoder):
    task = make("voco", encoder, crops=5)
    share = task._shares(batch_of(task, samples=6))
    assert share.shape == (6, 5, 9)
    torch.testing.assert_close(share.sum(2), torch.ones_like(share[..., 0]), rtol=0, atol=1e-9)
    assert (share > 0).sum(2).max() <= 4  # a crop touches four base crops at most


def test_likeness_that_is_the_share_costs_nothing():
    share = torch.tensor([[[0.25, 0.75, 0.0]]])
    positive, negative = position_losses(share, share, SEEN)
    assert positive.item() == pytest.approx(0, abs=1e-5)
    assert negative.item() == pytest.approx(0, abs=1e-5)


def test_positive_weighs_with_the_share_and_negative_is_a_mean():
    # |y - l| = (1/4, 1/2) under weights (3/4, 1/4); the third lies apart with l = 1/2.
    share, cosine = torch.tensor([[[0.75, 0.25, 0.0]]]), torch.tensor([[[0.5, 0.75, 0.5]]])
    positive, negative = position_losses(cosine, share, SEEN)
    assert positive.item() == pytest.approx(0.75 * log(4 / 3) + 0.25 * log(2), abs=1e-5)
    assert negative.item() == pytest.approx(log(2), abs=1e-5)


def test_negative_cosines_count_as_0():
    share = torch.tensor([[[1.0, 0.0, 0.0]]])
    a, b = (position_losses(torch.tensor([[[1.0, c, c]]]), share, SEEN)[1] for c in (0.0, -0.9))
    assert torch.equal(a, b)


def test_the_worst_answer_is_finite():
    share, cosine = torch.tensor([[[1.0, 0.0, 0.0]]]), torch.tensor([[[-1.0, 1.0, 1.0]]])
    losses = position_losses(cosine, share, SEEN)
    assert all(loss.item() == pytest.approx(-log(1e-6), rel=1e-2) for loss in losses)


def test_equal_base_crops_cost_1_opposite_ones_0():
    one = torch.ones(1, 3, 4) / 2
    assert likeness_of_tiles(one, SEEN).item() == pytest.approx(1)
    turned = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    assert likeness_of_tiles(turned, SEEN[:, :2]).item() == 0


def test_base_crops_without_tissue_count_nowhere():
    seen = torch.tensor([[True, True, False]])
    share, cosine = torch.tensor([[[0.5, 0.0, 0.5]]]), torch.rand(1, 1, 3)
    other = cosine.clone()
    other[..., 2] = 0.99
    assert position_losses(cosine, share, seen) == position_losses(other, share, seen)
    z = torch.nn.functional.normalize(torch.randn(1, 3, 4), dim=2)
    assert torch.equal(likeness_of_tiles(z, seen), likeness_of_tiles(z[:, :2], seen[:, :2]))


def test_no_tissue_at_all_costs_nothing_and_gives_no_nan():
    z = torch.randn(1, 3, 4, requires_grad=True)
    none = torch.zeros(1, 3, dtype=torch.bool)
    unit = torch.nn.functional.normalize(z, dim=2)
    losses = (
        *position_losses(unit[:, :1] @ unit.mT, torch.rand(1, 1, 3), none),
        likeness_of_tiles(unit, none),
    )
    sum(losses).backward()
    assert [loss.item() for loss in losses] == [0, 0, 0]
    assert torch.equal(z.grad, torch.zeros_like(z))


def test_the_slow_head_is_m_times_itself_plus_the_rest_of_the_head():
    task = make("voco", "resenc-xs", momentum=0.75)
    before = [p.clone() for p in task.teacher.parameters()]
    run(task, batch_of(task), steps=1)
    wanted = [0.75 * a + 0.25 * b for a, b in zip(before, task.head.parameters(), strict=True)]
    for slow, value in zip(task.teacher.parameters(), wanted, strict=True):
        torch.testing.assert_close(slow, value)


def test_grey_values_alone_of_the_options_of_a_look_can_be_given():
    task = make("voco", "resenc-xs", intensity={"noise": 0.0})
    default = Intensity.model_validate(task.config.intensity.model_dump())
    assert default.noise == 0
    assert default.gamma == (0.7, 1.5)


@pytest.mark.slow
def test_it_learns_where_a_crop_lies():
    task = make("voco", "vit3d-xs", tiles=2)
    batch = batch_of(task, samples=8)
    run(task, batch, steps=60)
    assert task.step(batch).log["position_accuracy"] > 0.5  # a guess among four: 0.25
