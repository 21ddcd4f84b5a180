"""The dense embedding: which places match, what counts as a negative, and golden checks 1.2."""

from math import exp, log

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medssl.core.seeding import generator, seed_everything
from medssl.core.viewspec import Spatial, View, ViewSpec
from medssl.encoders._base import build_encoder
from medssl.objectives._parts.correspondence import (
    cell_centres,
    chosen,
    hashed,
    inside,
    numbered,
    sample_keys,
    to_record,
    to_view,
    vectors_at,
)
from medssl.objectives._parts.dense import DenseEmbedding, Embedded, EmbeddingConfig
from medssl.objectives._parts.dense_contrast import (
    Negatives,
    hard_negatives,
    look,
    match,
    place_nce,
)
from medssl.objectives._parts.views import ExactViews
from medssl.views.build import build_views
from tests.objectives.tiny import batch_of, config_of, make
from tests.views.sources import source

# Channel c of a voxel holds its coordinate c: linear interpolation gives places exactly.
RAMP = np.stack(np.meshgrid(*(np.arange(n) for n in (30, 34, 28)), indexing="ij")).astype(
    np.float32
)
TURNED = Spatial(rotate_deg=10.0, scale=(0.8, 1.2), flip=True)


def two_views(seed, crop=(12, 16, 12)):
    """Views of the ramp, as a batch of one."""
    spec = ViewSpec(views=(View(crop=crop, count=2, spatial=TURNED),), overlap=0.5)
    views = build_views(spec, generator(seed), source(RAMP))
    return [{k: torch.as_tensor(np.asarray(v))[None] for k, v in view.items()} for view in views]


def shown(view, points_BN3):
    """Coordinates in the record that a view shows at its points, read from its voxels."""
    size = view["x"].shape[2:]
    scaled = (2 * points_BN3 + 1) / torch.tensor(size) - 1
    grid = scaled.flip(-1).view(1, 1, 1, -1, 3).float()
    found = torch.nn.functional.grid_sample(view["x"], grid, align_corners=False)
    return found.view(3, -1).T


@pytest.mark.parametrize("seed", range(4))
def test_matching_places_of_two_views_show_the_same_point(seed):
    a, b = two_views(seed)
    points = cell_centres((6, 8, 6), (12, 16, 12), torch.device("cpu"))[None]
    seen = to_view(to_record(points, a["place"]), b["place"])
    within = inside(seen, (12, 16, 12))[0]
    in_record = to_record(points, a["place"])[0]
    deep = ((in_record > 1) & (in_record < torch.tensor(RAMP.shape[1:]) - 2)).all(1) & within
    assert deep.sum() > 20
    here, there = shown(a, points)[deep], shown(b, seen)[deep]
    assert (here - there).abs().max() < 1e-2
    assert (here - in_record[deep]).abs().max() < 1e-2


def test_a_point_outside_the_view_is_no_match():
    points = torch.tensor([[[0.0, 0.0, 0.0], [3.0, 3.0, 3.0], [3.1, 0.0, 0.0], [0.0, -0.1, 0.0]]])
    assert inside(points, (4, 4, 4)).tolist() == [[True, True, False, False]]
    assert inside(torch.tensor([[[0.0, 3.0, 3.0]]]), (4, 4)).tolist() == [[True]]


@pytest.mark.parametrize(("grid", "size"), [((2, 3, 2), (4, 6, 4)), ((2, 3), (8, 6))])
def test_vectors_at_cell_centres_are_those_of_the_cells(grid, size):
    cells = torch.nn.functional.normalize(torch.randn(1, 5, *grid), dim=1)
    centres = cell_centres(grid, size, torch.device("cpu"))[None]
    found = vectors_at(cells, centres, size)
    torch.testing.assert_close(found, cells.flatten(2).transpose(1, 2), rtol=0, atol=1e-5)


def test_one_negative_has_the_closed_form():
    positive, negative = torch.tensor([[0.9]]), torch.tensor([[[0.4]]])
    loss = place_nce(positive, negative, torch.tensor([[[True]]]), 0.5)
    assert loss.item() == pytest.approx(log(1 + exp((0.4 - 0.9) / 0.5)), abs=1e-6)


def test_gradcheck():
    args = [torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)]
    found = torch.rand(2, 3, 4) > 0.3
    inputs = [x.requires_grad_() for x in args]
    assert torch.autograd.gradcheck(lambda p, n: place_nce(p, n, found, 0.5), inputs)


def test_the_hardest_far_places_are_taken_and_no_near_one():
    likeness = torch.rand(2, 3, 50)
    far = torch.rand(2, 3, 50) > 0.4
    index, found = hard_negatives(likeness, far, torch.tensor([1, 2]), Negatives(10, 10))
    assert far.gather(2, index)[found].all()
    best = likeness.masked_fill(~far, -1).topk(10, 2).indices
    assert torch.equal(index.sort(2).values, best.sort(2).values)


def test_fewer_far_places_than_wanted_are_marked():
    far = torch.zeros(1, 1, 8, dtype=torch.bool)
    far[..., 3] = True
    index, found = hard_negatives(torch.rand(1, 1, 8), far, torch.tensor([0]), Negatives(6, 4))
    assert index[found].tolist() == [3]


def sides(seed, spacing_mm=1.0):
    """Both views of the ramp with random vectors."""
    key, views = torch.tensor([seed]), two_views(seed)
    spacing = torch.full((1, 3), spacing_mm)
    draw = torch.Generator().manual_seed(seed)
    maps = [torch.nn.functional.normalize(torch.randn(1, 4, 6, 8, 6, generator=draw), dim=1)
            for _ in range(2)]  # fmt: skip
    return [look(v, Embedded(m, m), spacing, hashed(key, n), 200)
            for n, (v, m) in enumerate(zip(views, maps, strict=True))]  # fmt: skip


def test_distances_are_in_mm_of_the_patient():
    near, wide = (match(*sides(3, mm), torch.tensor([7]), 10) for mm in (1.0, 5.0))
    torch.testing.assert_close(5 * near.apart_BPM, wide.apart_BPM)


def test_anchors_are_tissue_that_both_views_show():
    a, b = sides(5)
    air = a._replace(tissue_BM=a.tissue_BM & (a.record_BM3[..., 0] > 15))
    found = match(air, b, torch.tensor([7]), 20)
    assert found.kept_BP.any()
    places = found.apart_BPM[..., :200].argmin(2)  # an anchor is a cell of its own pool
    chosen_places = air.record_BM3[0, places[found.kept_BP]]
    assert (chosen_places[:, 0] > 15).all()
    assert inside(to_view(chosen_places[None], b.place_B34), b.size).all()


def test_views_without_a_common_place_cost_nothing():
    task = make("anatomy", "resenc-xs")
    batch = batch_of(task)
    batch["views"][1]["place"] = batch["views"][1]["place"] + 1000
    output = task.step(batch)
    output.loss.backward()
    assert output.loss.item() == 0
    assert output.log["anchor_share"] == 0


def test_air_alone_costs_nothing():
    task = make("anatomy", "resenc-xs")
    batch = batch_of(task)
    for view in batch["views"]:
        view["tissue"] = torch.zeros_like(view["tissue"])
    assert task.step(batch).loss.item() == 0


def test_records_of_one_patient_are_no_negatives_of_each_other():
    task = make("anatomy", "resenc-xs", others=8)
    batch = batch_of(task)
    apart = task.terms({**batch, "patient": torch.tensor([0, 1, 2, 3])})
    same = task.terms({**batch, "patient": torch.zeros(4, dtype=torch.int64)})
    none = make("anatomy", "resenc-xs", others=0).terms(batch)
    assert torch.equal(same["coarse"], none["coarse"])
    assert apart["coarse"] > same["coarse"]
    assert torch.equal(apart["fine"], same["fine"])


def test_what_is_drawn_follows_from_the_sample_alone():
    place = torch.randn(5, 3, 4, dtype=torch.float64)
    record = torch.arange(5)
    keys = sample_keys([place, place + 1], record)
    assert torch.equal(keys[2:], sample_keys([place[2:], place[2:] + 1], record[2:]))
    assert torch.equal(keys, sample_keys([place.float(), (place + 1).float()], record))
    assert len(set(keys.tolist())) == 5
    assert keys[0] != sample_keys([place[:1] + 0.01, place[:1] + 1], record[:1])[0]


def test_keys_are_even_and_unlike():
    keys = numbered(torch.tensor([0, 1]), 20_000).double() / 2**31
    assert keys.mean().item() == pytest.approx(0.5, abs=0.01)
    assert keys.std().item() == pytest.approx(12**-0.5, abs=0.01)
    assert abs(np.corrcoef(keys[0], keys[1])[0, 1]) < 0.02
    assert abs(np.corrcoef(keys[0][1:], keys[0][:-1])[0, 1]) < 0.02


def test_chosen_are_allowed_ones_and_every_one_is_as_likely():
    allowed = torch.tensor([[True, False, True, True]]).expand(3000, 4)
    index, found = chosen(numbered(torch.arange(3000), 4), allowed, 1)
    assert found.all()
    counts = index.flatten().bincount(minlength=4) / 3000
    assert counts[1] == 0
    assert (counts[[0, 2, 3]] - 1 / 3).abs().max() < 0.04


def test_bending_is_refused():
    with pytest.raises(ValidationError, match="wrong by the bend"):
        ExactViews(spatial={"elastic_mm": 2.0})
    assert ExactViews(spatial={"rotate_deg": 3.0}).spatial.scale == (0.8, 1.2)


@pytest.mark.parametrize(
    ("wanted", "grids"), [((2, 8), (16, 4)), ((1, 16), (32, 2)), ((3, 3), (16, 16))]
)
def test_strides_are_those_asked_for(wanted, grids):
    net = build_encoder("resenc-xs", {}, 1)
    config = EmbeddingConfig(width=8, hidden=4, fine_stride=wanted[0], coarse_stride=wanted[1])
    task = DenseEmbedding(net, config, (32, 32, 32))
    fine, coarse = task(net(torch.randn(1, 1, 32, 32, 32)))
    assert (fine.shape[2], coarse.shape[2]) == grids
    torch.testing.assert_close(fine.norm(dim=1), torch.ones(1, *[grids[0]] * 3))


def test_transformers_have_one_vector_per_token():
    task = make("anatomy", "vit3d-xs", embedding={"width": 8, "hidden": 4})
    fine, coarse = task.embedding(task.encoder(torch.randn(1, 1, 16, 32, 16)))
    assert fine.shape[2:] == coarse.shape[2:] == (4, 4, 2)


def test_the_seed_of_the_probe_leaves_no_trace_in_the_encoder():
    seed_everything(0)
    net = build_encoder("timm/resnet18", {"token_size": 4, "output_stride": 8}, 1)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    DenseEmbedding(net.train(), config_of("anatomy").embedding, (32, 32))
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
