"""Golden checks of Chaitanya et al. (methods 1.3): what is a negative, and closed forms."""

from itertools import product
from math import exp, log

import pytest
import torch

from medssl.core.errors import ConfigError
from medssl.objectives._parts.contrast import nt_xent
from medssl.objectives._parts.grid_regions import region_layout, region_nce, region_vectors
from medssl.objectives._parts.partitions import (
    Rows,
    across_records,
    negatives,
    own_pairs,
    pair_nce,
    within,
)

MODES = ("G_R", "G_D-", "G_D")


def rows(records, parts, views=2):
    """Rows of these records, each with so many parts and views of each part."""
    told = [
        (sample * parts + part, view, part, record)
        for (sample, record), part, view in product(enumerate(records), range(parts), range(views))
    ]
    slot, view, part, record = torch.tensor(told).T
    position = (part + 0.5)[:, None] / parts
    return Rows(slot, view, part, record, position.expand(-1, 3))


def positives(told, mode, reach=1.0):
    across = across_records(told) & within(told, reach)
    return own_pairs(told) | across if mode == "G_D" else own_pairs(told)


def loss(z, told, mode, temperature=0.1):
    return pair_nce(z, positives(told, mode), negatives(told, mode), temperature)


@pytest.mark.parametrize(("mode", "left"), [("G_R", 46), ("G_D-", 36), ("G_D", 36)])
def test_equal_embeddings_leave_a_guess_among_the_negatives(mode, left):
    told = rows(range(6), parts=4)
    assert (negatives(told, mode).sum(1) == left).all()
    assert loss(torch.ones(48, 8), told, mode).item() == pytest.approx(log(1 + left), abs=1e-6)


def test_48_images_of_4_parts_cost_log_37():
    assert loss(torch.ones(48, 8), rows(range(6), 4), "G_D").item() == pytest.approx(
        3.6109, abs=5e-5
    )


@pytest.mark.parametrize("parts", [3, 4, 6])
@pytest.mark.parametrize("mode", ["G_D-", "G_D"])
def test_no_negative_shares_the_part_of_its_anchor(mode, parts):
    for records in ([0], [0, 1], [0, 1, 2, 3], [5, 5, 2]):
        told = rows(records, parts)
        negative = negatives(told, mode)
        for i, j in product(range(len(negative)), repeat=2):
            assert negative[i, j] == (told.part_N[i] != told.part_N[j])


def test_one_volume_has_no_other_volume():
    told, z = rows([3], parts=4), torch.randn(8, 5)
    assert torch.equal(positives(told, "G_D"), positives(told, "G_D-"))
    assert torch.equal(loss(z, told, "G_D"), loss(z, told, "G_D-"))


@pytest.mark.parametrize("mode", ["G_D-", "G_D"])
def test_one_part_has_no_negatives_and_costs_0_without_pull(mode):
    z = torch.randn(12, 5, requires_grad=True)
    value = loss(z, rows(range(6), parts=1), mode)
    value.backward()
    assert value.item() == 0
    assert torch.equal(z.grad, torch.zeros(12, 5))


def test_each_slice_its_own_part_is_simclr():
    told, z = rows([0], parts=7), torch.randn(14, 5)
    assert torch.equal(negatives(told, "G_D-"), negatives(told, "G_R"))
    expected = nt_xent(z[::2], z[1::2], temperature=0.1)
    torch.testing.assert_close(loss(z, told, "G_D-"), expected, rtol=1e-6, atol=1e-6)


def test_parts_take_the_views_of_the_same_part_out_of_simclrs_negatives():
    told = rows(range(3), parts=4)
    gone = negatives(told, "G_R") & ~negatives(told, "G_D-")
    same = (told.part_N[:, None] == told.part_N) & (told.slot_N[:, None] != told.slot_N)
    assert torch.equal(gone, same)


def test_random_mode_is_nt_xent():
    told, z = rows(range(4), parts=3), torch.randn(24, 5)
    expected = nt_xent(z[::2], z[1::2], temperature=0.3)
    torch.testing.assert_close(loss(z, told, "G_R", 0.3), expected, rtol=1e-6, atol=1e-6)


def test_a_part_in_one_direction_has_the_closed_form():
    told = rows(range(6), parts=4)
    z = torch.eye(4)[told.part_N]  # all pairs have cosine 1, all negatives 0
    assert loss(z, told, "G_D", 0.5).item() == pytest.approx(log(1 + 36 * exp(-2)), abs=1e-6)


def test_a_record_is_never_its_own_other_volume():
    told = rows([5, 5, 2], parts=2)
    pairs = across_records(told).nonzero()
    assert {tuple(told.record_N[pair].tolist()) for pair in pairs} == {(5, 2), (2, 5)}
    assert all(told.part_N[i] == told.part_N[j] for i, j in pairs)
    assert all(told.view_N[i] == told.view_N[j] for i, j in pairs)


def test_volumes_that_show_different_places_are_no_pair():
    told = rows([0, 1], parts=1)
    aside = torch.tensor([[0.5, 0.5, 0.1], [0.5, 0.5, 0.5], [0.5, 0.5, 0.4], [0.5, 0.5, 0.9]])
    kept = across_records(told) & within(told._replace(position_N3=aside), 0.35)
    assert kept.nonzero().tolist() == [[0, 2], [2, 0]]


@pytest.mark.parametrize("mode", MODES)
def test_the_loss_is_the_sum_that_is_written_down(mode):
    told = rows([0, 1, 1], parts=2)
    torch.manual_seed(0)
    z = torch.randn(12, 4, dtype=torch.float64)
    u = z / z.norm(dim=1, keepdim=True)
    terms = []
    for i, j in product(range(12), repeat=2):
        own = told.slot_N[i] == told.slot_N[j] and i != j
        other = mode == "G_D" and (
            told.record_N[i] != told.record_N[j]
            and told.part_N[i] == told.part_N[j]
            and told.view_N[i] == told.view_N[j]
        )
        if not (own or other):
            continue
        apart = told.slot_N != told.slot_N[i] if mode == "G_R" else told.part_N != told.part_N[i]
        e = (u[i] @ u.T / 0.2).exp()
        terms.append(-torch.log(e[j] / (e[j] + e[apart].sum())))
    torch.testing.assert_close(loss(z, told, mode, 0.2), torch.stack(terms).mean())


def test_low_temperatures_stay_finite():
    z = torch.tensor([[1.0, 0.0], [1.0, 1e-3], [-1.0, 0.0], [-1.0, 1e-3]], requires_grad=True)
    value = loss(z, rows([0], parts=2), "G_D-", temperature=1e-3)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(z.grad).all()


SELF = torch.tensor([[0, 1], [1, 0]])


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_regions_that_differ_have_the_closed_form(temperature):
    near = region_layout((16, 16)).near_RK
    z = torch.eye(13).expand(2, -1, -1)
    found = region_nce(z, SELF, near, temperature).item()
    assert found == pytest.approx(log(1 + 10 * exp(-1 / temperature)), abs=1e-6)


@pytest.mark.parametrize("size", [(16, 16), (9, 12, 7)])
def test_equal_regions_leave_a_guess_among_11(size):
    layout = region_layout(size)
    z = region_vectors(torch.ones(2, 3, *size), layout.cells_RC)
    assert region_nce(z, SELF, layout.near_RK, 0.1).item() == pytest.approx(log(11), abs=1e-5)


def test_the_local_loss_is_the_sum_that_is_written_down():
    near = region_layout((9, 9)).near_RK
    torch.manual_seed(1)
    z = torch.randn(2, 13, 6, dtype=torch.float64)
    f, g = z / z.norm(dim=2, keepdim=True)
    terms = []
    for a, b in ((f, g), (g, f)):
        for p in range(13):
            e = [((a[p] @ b[p]) / 0.2).exp()]
            e += [((a[p] @ other[n]) / 0.2).exp() for n in near[p] for other in (a, b)]
            terms.append(-torch.log(e[0] / sum(e)))
    torch.testing.assert_close(region_nce(z, SELF, near, 0.2), torch.stack(terms).mean())


@pytest.mark.parametrize(("size", "count", "cells"), [
    ((7, 7), 13, 9), ((24, 15), 13, 9), ((7, 9, 8), 35, 27), ((4, 16, 16), 13, 27),
    ((2, 16, 16), 13, 18),
])  # fmt: skip
def test_regions_are_distinct_and_lie_in_the_map(size, count, cells):
    found = region_layout(size).cells_RC
    assert found.shape == (count, cells)
    assert len({tuple(region) for region in found.tolist()}) == count
    assert 0 <= found.min() <= found.max() < torch.Size(size).numel()


def test_regions_of_15_cells_reach_into_all_corners_and_grid_regions_are_apart():
    cells = region_layout((15, 15)).cells_RC
    assert {0, 14, 14 * 15, 224} <= set(cells[:9].flatten().tolist())
    assert len(set(cells[:9].flatten().tolist())) == 81


@pytest.mark.parametrize("size", [(16, 16), (12, 20), (9, 9, 16)])
def test_regions_beside_one_are_the_five_nearest_others(size):
    layout = region_layout(size)
    place = torch.stack(torch.unravel_index(layout.cells_RC, size), -1).double().mean(1)
    for region, near in enumerate(layout.near_RK.tolist()):
        far = (place - place[region]).norm(dim=1)
        others = [n for n in range(len(place)) if n not in near]
        assert region in others
        assert len(set(near)) == 5
        assert far[near].max() <= min(far[n] for n in others if n != region) + 1e-9


@pytest.mark.parametrize("size", [(6, 6), (3, 3, 20)])
def test_maps_without_room_for_regions_are_refused(size):
    with pytest.raises(ConfigError, match="too small") as refusal:
        region_layout(size)
    assert "decoder_blocks" in refusal.value.fix


@pytest.mark.parametrize("turn", ["scale", "rotate"])
def test_losses_see_directions_alone(turn):
    z = torch.randn(48, 8, dtype=torch.float64)
    other = 3 * z if turn == "scale" else z @ torch.linalg.qr(torch.randn(8, 8).double())[0]
    told = rows(range(6), parts=4)
    torch.testing.assert_close(loss(z, told, "G_D"), loss(other, told, "G_D"))
    near = region_layout((9, 9)).near_RK
    regions = [x[:26].view(2, 13, 8) for x in (z, other)]
    torch.testing.assert_close(*(region_nce(x, SELF, near, 0.1) for x in regions))


def test_gradients_are_those_of_finite_differences():
    told = rows([0, 1], parts=2)
    z = torch.randn(8, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: loss(x, told, "G_D", 0.5), (z,))
    near = region_layout((9, 9)).near_RK
    f = torch.randn(2, 13, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: region_nce(x, SELF, near, 0.5), (f,))
