"""Stages, what rests in them, and that views, parts and maps meet as the losses think."""

from functools import cache, partial
from itertools import islice

import pytest
import torch
from pydantic import ValidationError

from medssl.core.errors import ConfigError
from medssl.core.seeding import seed_everything
from medssl.encoders._base import build_encoder
from medssl.objectives._parts.grid_regions import region_layout, region_nce, region_vectors
from medssl.objectives._parts.norm import across_ranks
from medssl.objectives._parts.partitions import Rows, negatives, own_pairs, pair_nce
from medssl.objectives.local_global import Config
from medssl.training.optim import OptimConfig, build_optimizer
from tests.objectives.ddp import assert_two_ranks_equal_one
from tests.objectives.tiny import CLIPS, ENCODERS, batch_of, make

STAGED = {"global_share": 0.5, "local_share": 0.25}


def staged(encoder, progress=0.0, **options):
    task = make("local_global", encoder, **{**STAGED, **options})
    task.progress.fill_(progress)
    return task


@cache
def batch_at(step):
    return batch_of(staged("timm/resnet18"), first=4 * step)


def train(task, start, stop, total=4, optimizer=None):
    """Steps of a run of ``total``, as the loop makes them."""
    optimizer = optimizer or build_optimizer(task.param_groups(), OptimConfig(lr=1e-2))
    for step in range(start, stop):
        task.step(batch_at(step)).loss.backward()
        task.before_update(step / total)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        task.after_update((step + 1) / total)
    return optimizer


def moved(task, before):
    """Parts of the task with a tensor that changed."""
    state = task.state_dict()
    changed = {k for k, v in before.items() if not torch.equal(v, state[k])}
    return {name.partition(".")[0] for name in changed} - {"progress"}


def copied(task):
    return {k: v.clone() for k, v in task.state_dict().items()}


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.5, 0.25), "global global local joint joint"),
        ((0.5, 0.5), "global global local local local"),
        ((1.0, 0.0), "global global global global global"),
        ((0.0, 0.3), "local local joint joint joint"),
        ((0.9, 0.1), "global global global global local"),
        ((0.0, 0.0), "joint joint joint joint joint"),
    ],
)
def test_stages_take_their_shares_of_the_steps(shares, expected):
    task = make("local_global", "resenc-xs", global_share=shares[0], local_share=shares[1])
    found = []
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        task.after_update(progress)
        found.append(task.stage)
    assert found == expected.split()


def test_a_stage_begins_with_the_step_that_its_share_names():
    task = make("local_global", "resenc-xs", global_share=0.3, local_share=0.7)
    found = []
    for step in range(10):
        found.append(task.stage)
        task.after_update((step + 1) / 10)
    assert found == 3 * ["global"] + 7 * ["local"]


def test_shares_above_1_are_refused():
    with pytest.raises(ValidationError, match="at most 1 together"):
        Config(global_share=0.7, local_share=0.4)


@pytest.mark.parametrize(
    ("progress", "learns"),
    [
        (0.0, {"encoder", "head"}),
        (0.5, {"decoder", "local_head"}),
        (0.75, {"encoder", "head", "decoder", "local_head"}),
    ],
)
def test_weights_and_statistics_of_other_stages_stay_bitwise(progress, learns):
    task = staged("timm/resnet18").train()
    optimizer = build_optimizer(task.param_groups(), OptimConfig(lr=1e-2, weight_decay=0.5))
    task.after_update(0.75)
    train(task, 3, 4, optimizer=optimizer)  # all weights have momentum
    task.after_update(progress)
    before = copied(task)
    train(task, int(4 * progress), int(4 * progress) + 1, optimizer=optimizer)
    assert moved(task, before) == learns


def test_an_encoder_that_goes_on_learning_does():
    task = staged("timm/resnet18", 0.5, freeze_encoder=False).train()
    before = copied(task)
    train(task, 2, 3)
    assert moved(task, before) == {"encoder", "decoder", "local_head"}


def test_a_frozen_encoder_sees_a_view_whatever_else_is_in_the_batch():
    task = staged("timm/resnet18", 0.5).train()
    seen = []
    task.encoder.register_forward_hook(lambda *a: seen.append(a[2].global_BD))
    batch = batch_of(task, 4)
    task.step(batch)
    for view in batch["views"]:
        view["x"][1:] *= 5
    task.step(batch)
    assert not seen[0].requires_grad
    assert torch.equal(seen[0][0], seen[1][0])
    assert task.encoder.training


@pytest.mark.parametrize("progress", [0.0, 0.5, 0.75])
def test_every_weight_has_a_gradient_in_every_stage_and_none_that_rests_keeps_it(progress):
    task = staged("resenc-xs", progress)
    task.step(batch_of(task)).loss.backward()
    assert all(p.grad is not None for p in task.parameters())
    rests = {id(p) for p in task.resting()}
    assert not any(p.grad.any() for p in task.parameters() if id(p) in rests)
    task.before_update(progress)
    assert all((p.grad is None) == (id(p) in rests) for p in task.parameters())


@pytest.mark.parametrize("at", [pytest.param(1, marks=pytest.mark.slow), 2, 3])
def test_resume_over_changes_of_the_stage_is_bitwise(at):
    fresh = partial(staged, "timm/resnet18")
    whole, first, second = fresh(), fresh(), fresh()
    train(whole, 0, 4)
    optimizer = train(first, 0, at)
    second.load_state_dict(copied(first), strict=True)
    taken_up = build_optimizer(second.param_groups(), OptimConfig(lr=1e-2))
    taken_up.load_state_dict(optimizer.state_dict())
    train(second, at, 4, optimizer=taken_up)
    state = second.state_dict()
    assert [k for k, v in whole.state_dict().items() if not torch.equal(v, state[k])] == []


@pytest.mark.parametrize("progress", [0.0, 0.5, 0.75])
def test_all_views_of_a_step_pass_the_encoder_at_once(progress):
    task = staged("timm/resnet18", progress, partitions=3)
    sizes = []
    task.encoder.register_forward_hook(lambda *a: sizes.append(len(a[1][0])))
    task.step(batch_of(task))
    kinds = 3 if task.stage == "joint" else 2
    assert sizes == [kinds * 3 * 4]


@pytest.mark.parametrize(
    ("shares", "views"), [((1.0, 0.0), 2), ((0.0, 1.0), 2), ((0.5, 0.5), 3), ((0.0, 0.0), 3)]
)
def test_views_that_no_stage_needs_are_not_asked_for(shares, views):
    task = make("local_global", "resenc-xs", global_share=shares[0], local_share=shares[1])
    assert len(task.views().views) == views
    assert (task.decoder is None) == (shares == (1.0, 0.0))
    assert (task.head is None) == (shares == (0.0, 1.0))
    assert torch.isfinite(task.step(batch_of(task)).loss)


@pytest.mark.parametrize("encoder", ["resenc-xs", "timm/resnet18"])
def test_twins_show_the_same_voxels_and_no_view_is_empty(encoder):
    task = staged(encoder)
    views = batch_of(task)["views"]
    assert len(views) == 3 * 4
    for part in range(4):
        a, b, c = views[3 * part : 3 * part + 3]
        assert torch.equal(a["place"], b["place"])
        assert not torch.equal(a["x"], b["x"])
        assert not torch.equal(a["place"], c["place"])
        for view in (a, b, c):
            assert (view["part"] == part).all()
            assert (view["x"].flatten(1).std(1) > 0).all()


def test_the_global_loss_compares_views_encoded_alone():
    task = make(
        "local_global", "resenc-xs", global_share=1.0, local_share=0.0, norm="layer",
        global_mode="G_D-",
    ).eval()  # fmt: skip
    batch = batch_of(task, 3)
    z, told = [], []
    for place, view in enumerate(batch["views"]):
        part, kind = divmod(place, 2)
        for sample in range(3):
            z.append(task.head(task.encoder(view["x"][sample : sample + 1]).global_BD)[0])
            told.append((10 * sample + part, kind, part, sample))
    rows = Rows(*torch.tensor(told).T, position_N3=torch.zeros(24, 3))
    expected = pair_nce(torch.stack(z), own_pairs(rows), negatives(rows, "G_D-"), 0.1)
    torch.testing.assert_close(task.step(batch).loss, expected, rtol=1e-4, atol=1e-5)


def test_the_local_loss_compares_regions_of_a_view_and_its_twin():
    task = staged("resenc-xs", 0.5).eval()
    batch = batch_of(task, 2)
    losses = []
    for place in range(0, 12, 3):
        for sample in range(2):
            pair = [batch["views"][place + k]["x"][sample : sample + 1] for k in (0, 1)]
            maps = [next(islice(task.decoder.maps(x, task.encoder(x)), 2, None)) for x in pair]
            layout = region_layout(tuple(maps[0].shape[2:]))
            z = region_vectors(task.local_head(torch.cat(maps)), layout.cells_RC)
            pairs = torch.tensor([[0, 1], [1, 0]])
            losses.append(region_nce(z, pairs, layout.near_RK, 0.1))
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(task.step(batch).loss, expected, rtol=1e-4, atol=1e-5)


def test_pairs_of_two_volumes_matter_and_those_that_lie_apart_are_counted():
    near, far = (staged("resenc-xs", 0.75, local_mode="L_D", reach=r) for r in (1.0, 0.0))
    batch = batch_of(near)
    losses = [task.step(batch) for task in (near, far)]
    assert losses[0].log["pairs_dropped"] == losses[0].log["local_pairs_dropped"] == 0
    assert losses[1].log["pairs_dropped"] == losses[1].log["local_pairs_dropped"] == 1
    for name in ("global", "local"):
        assert losses[0].log[name] > losses[1].log[name]


@pytest.mark.parametrize("encoder", sorted(set(ENCODERS) - {CLIPS}))
def test_what_is_left_of_the_decoder_gives_the_map_of_the_whole(encoder):
    crop, options = ENCODERS[encoder]
    task = staged(encoder)
    seed_everything(7)
    net = build_encoder(encoder, options, 1).eval()
    whole = net.make_decoder(1).eval()
    own = task.decoder.state_dict()
    full = whole.state_dict()
    assert own.keys() < full.keys()
    assert not any(key.startswith(whole.last_layer) for key in own)
    task.decoder.load_state_dict({key: full[key] for key in own}, strict=True)
    x = torch.randn(2, 1, *crop)
    maps = [
        next(islice(decoder.eval().maps(x, net(x)), 2, None)) for decoder in (task.decoder, whole)
    ]
    assert torch.equal(*maps)


def test_more_blocks_than_the_decoder_has_are_refused():
    with pytest.raises(ConfigError, match="has 4 blocks, not 5") as refusal:
        staged("resenc-xs", decoder_blocks=5)
    assert refusal.value.fix == "objective.decoder_blocks=4"


def test_maps_that_are_too_small_are_refused_before_the_first_step():
    with pytest.raises(ConfigError, match="too small"):
        staged("resenc-xs", decoder_blocks=1)


MODES = {
    "G_R, L_R": {},
    "G_D-, L_D": {"global_mode": "G_D-", "local_mode": "L_D"},
    "G_D, L_R": {"global_mode": "G_D"},
    "local stage, L_R": {"progress": 0.5},
    "local stage, L_D": {"progress": 0.5, "local_mode": "L_D"},
}


def two_rank_case(options):
    given = {"progress": 0.75, "global_mode": "G_R", "reach": 1.0, **options}
    return across_ranks(staged("timm/resnet18", **given))


def two_rank_batch(options):
    # A record comes twice, once on each rank.
    return {**batch_of(two_rank_case(options)), "record": torch.tensor([0, 5, 5, 8])}


@pytest.mark.slow
def test_two_ranks_equal_one_in_every_mode():
    assert_two_ranks_equal_one({
        name: (partial(two_rank_case, options), partial(two_rank_batch, options))
        for name, options in MODES.items()
    })  # fmt: skip
