"""Slices, volumes and hidden slices: weights, phases, padding, pictures."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from medssl.core.seeding import generator, seed_everything
from medssl.core.viewspec import Setting
from medssl.objectives import image_volume
from medssl.objectives._parts.dino import cross_view_entropy
from medssl.objectives._parts.sinkhorn import sinkhorn
from medssl.objectives._parts.slices import (
    hidden_regression,
    same_slices,
    slice_numbers,
    swapped_entropy,
)
from tests.objectives.ddp import assert_two_ranks_equal_one
from tests.objectives.tiny import sample_of
from tests.objectives.toys import CROP, TinyEncoder

SMALL = {
    "slices": 5, "prototypes": 6, "volume_prototypes": 4, "hidden": 16, "out": 8, "width": 16,
    "heads": 4, "points": 2, "queue": 7, "volumes_from": 0.0,
}  # fmt: skip
PICTURES, VOLUMES = (1, 5), (0, 2, 3, 4)


def task_of(**options):
    seed_everything(0)
    config = image_volume.Config(**{**SMALL, **options})
    return image_volume.Objective(TinyEncoder(), config, Setting(crop=CROP, records=8))


def batch_of(task, records):
    spec = task.views()
    return default_collate([sample_of(spec, n, generator(1, "view", n)) for n in records])


def fill(task):
    task.queue.push(torch.randn(7, 8), torch.zeros(7, dtype=torch.long))
    return task


@pytest.mark.parametrize("weights", [None, torch.ones(5), torch.full((5,), 0.125)])
def test_equal_weights_are_plain_sinkhorn(weights):
    scores = torch.randn(5, 3)
    torch.testing.assert_close(sinkhorn(scores, 0.3, 4, weights), sinkhorn(scores, 0.3, 4))


def test_a_sample_of_weight_two_is_two_samples():
    scores = torch.randn(5, 3)
    twice = sinkhorn(torch.cat([scores, scores[:1]]), 0.3, 4)
    weighted = sinkhorn(scores, 0.3, 4, torch.tensor([2.0, 1, 1, 1, 1]))
    torch.testing.assert_close(weighted, twice[:5])


def test_neighbours_in_one_volume_are_not_forced_apart():
    # Six equal slices of one volume and another picture; two prototypes of equal mass.
    scores = torch.tensor([[1.0, 0.0]] * 6 + [[0.0, 1.0]])
    alone = sinkhorn(scores, 0.05, 100)
    shared = sinkhorn(scores, 0.05, 100, torch.tensor([1 / 6] * 6 + [1.0]))
    assert alone[0, 0].item() == pytest.approx(3.5 / 6, abs=1e-3)
    assert shared[0, 0].item() == pytest.approx(1.0, abs=1e-3)


def test_slices_are_the_same_where_their_numbers_are():
    place = torch.zeros(2, 2, 3, 4)
    place[:, 0, 0, 0], place[:, 1, 2, 0] = 3, 2  # steps along d, and along w
    place[0, 0, 0, 3], place[1, 0, 0, 3], place[:, 1, 2, 3] = 4, 10, 1
    numbers = torch.stack([slice_numbers(view, 4) for view in place])
    assert numbers[:, 0].tolist() == [[4, 7, 10, 13], [10, 13, 16, 19]]
    inside = torch.ones(2, 2, 4, dtype=torch.bool)
    inside[1, 1, 3] = False
    same = same_slices(numbers, inside)
    assert same[0].nonzero().tolist() == [[2, 0], [3, 1]]
    assert same[1].nonzero().tolist() == [[0, 0], [1, 1], [2, 2]]


def test_swapped_entropy_of_one_slice_is_that_of_swav():
    codes, scores = torch.rand(2, 5, 3).softmax(2), torch.randn(2, 5, 3)
    found = swapped_entropy(codes[:, :, None], scores[:, :, None], torch.ones(5, 1, 1).bool(), 0.1)
    torch.testing.assert_close(found, cross_view_entropy(codes, scores, 0.1))


def test_a_volume_counts_as_much_as_a_picture():
    codes = torch.zeros(2, 2, 4, 3)
    codes[..., 0] = 1
    scores = torch.zeros(2, 2, 4, 3)
    scores[:, 0, :, 0] = 100.0  # the volume is right, the picture guesses
    same = torch.zeros(2, 4, 4, dtype=torch.bool)
    same[0], same[1, 0, 0] = torch.eye(4, dtype=torch.bool), True
    torch.testing.assert_close(
        swapped_entropy(codes, scores, same, 1.0), torch.tensor(3.0).log() / 2
    )


def test_hidden_regression_pulls_on_hidden_slices_alone_and_not_on_targets():
    predicted = torch.randn(2, 3, 4, 8, requires_grad=True)
    target = torch.randn(2, 3, 4, 8, requires_grad=True)
    hidden = torch.rand(2, 3, 4) < 0.5
    hidden_regression(predicted, target, hidden).backward()
    assert target.grad is None
    assert torch.equal(predicted.grad.any(3), hidden)


def test_nothing_hidden_costs_nothing():
    x = torch.randn(2, 3, 4, 8)
    assert hidden_regression(x, -x, torch.zeros(2, 3, 4, dtype=torch.bool)) == 0
    assert hidden_regression(x, x, torch.ones(2, 3, 4, dtype=torch.bool)) < 1e-6
    opposite = hidden_regression(x, -x, torch.ones(2, 3, 4, dtype=torch.bool))
    torch.testing.assert_close(opposite, torch.tensor(4.0))


@pytest.mark.parametrize(("ratio", "count"), [(0.2, 1), (0.4, 2), (0.5, 2), (0.99, 4), (0.01, 1)])
def test_the_number_of_hidden_slices_is_exact(ratio, count):
    batch = batch_of(task_of(mask_ratio=ratio), [*VOLUMES, *PICTURES])
    for view in batch["views"]:
        assert view["mask"].sum(1).tolist() == [count] * 4 + [0, 0]
        assert not (view["mask"] & ~view["inside"]).any()


def test_pictures_take_part_in_the_first_task_only():
    task = task_of(norm="layer")
    batch = batch_of(task, PICTURES)
    terms = task.terms(batch)
    assert (terms["inter"], terms["mask"]) == (0, 0)
    x = torch.cat([view["x"][:, :, 0] for view in batch["views"]])
    scores = task.prototypes(task.head(task.encoder(x).global_BD)).view(2, 2, 6)
    codes = torch.stack([sinkhorn(view.detach(), 0.05) for view in scores])
    torch.testing.assert_close(terms["intra"], cross_view_entropy(codes, scores, 0.1))


def test_a_batch_of_pictures_leaves_finite_gradients():
    task = task_of()
    task.step(batch_of(task, PICTURES)).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in task.parameters())


def test_places_without_a_slice_change_nothing():
    task = fill(task_of())
    batch = batch_of(task, [*PICTURES, *VOLUMES])
    before = task.step(batch).loss
    for view in batch["views"]:
        empty = ~view["inside"][:, None, :, None, None].expand_as(view["x"])
        assert empty.any()
        view["x"][empty] = 1e4
    assert torch.equal(task.step(batch).loss, before)


def test_the_encoder_learns_from_slices_first_and_from_volumes_later():
    task = task_of(volumes_from=0.5)
    batch = batch_of(task, VOLUMES)
    for progress, reached in ((0.0, False), (0.5, True)):
        task.progress.fill_(progress)
        for name in ("inter", "mask"):
            weights = list(task.encoder.parameters())
            grads = torch.autograd.grad(task.terms(batch)[name], weights, allow_unused=True)
            assert any(g is not None and g.any() for g in grads) is reached
            learns = torch.autograd.grad(task.terms(batch)[name], task.transformer.hidden,
                                         allow_unused=True)[0]  # fmt: skip
            assert (learns is not None and bool(learns.any())) is (name == "mask")


def test_the_queue_takes_both_embeddings_of_a_volume_and_none_of_a_picture():
    task = task_of(queue=100)
    batch = batch_of(task, [*VOLUMES, *PICTURES])
    task.step(batch)
    task.discard_update()
    task.after_update(0.1)
    assert int(task.queue.pointer) == 0
    task.step(batch)
    task.after_update(0.1)
    assert task.queue.record_K[:8].tolist() == [n for n in VOLUMES for _ in range(2)]
    assert int(task.queue.pointer) == 8


def test_swapping_the_views_changes_nothing():
    task = fill(task_of(norm="layer"))
    batch = batch_of(task, [*VOLUMES, *PICTURES])
    turned = {**batch, "views": batch["views"][::-1]}
    torch.testing.assert_close(task.step(batch).loss, task.step(turned).loss)


def test_prototypes_rest_at_first():
    task = task_of(freeze_last=0.5)
    task.step(batch_of(task, VOLUMES)).loss.backward()
    task.before_update(0.4)
    frozen = {n for n, p in task.named_parameters() if p.grad is None}
    assert frozen == {"prototypes.weight", "volume_prototypes.weight"}


def test_heads_have_to_fit_the_width():
    with pytest.raises(ValueError, match="no multiple of 3 heads"):
        image_volume.Config(width=16, heads=3)


def ranks_task(full):
    return fill(task_of()) if full else task_of()


def ranks_batch(records):
    return batch_of(task_of(), records)


@pytest.mark.slow
def test_two_ranks_equal_one_whatever_they_hold():
    assert_two_ranks_equal_one(
        {
            f"{label}, queue {full}": (partial(ranks_task, full), partial(ranks_batch, records))
            for full in (False, True)
            for label, records in {
                "volumes": VOLUMES,
                "the second rank has pictures only": (0, 2, *PICTURES),
                "one volume more": (0, 1, 2, 3),
                "pictures": (1, 5),
            }.items()
        }
    )


def test_stacks_of_the_batch_are_what_the_records_are():
    batch = batch_of(task_of(), [*VOLUMES, *PICTURES])
    counts = [view["inside"].sum(1).tolist() for view in batch["views"]]
    assert counts == [[5] * 4 + [1] * 2] * 2
    shared = [
        same_slices(
            torch.stack([slice_numbers(v["place"], 5) for v in batch["views"]]),
            torch.stack([v["inside"] for v in batch["views"]]),
        ).sum((1, 2)).tolist()
    ]  # fmt: skip
    assert (np.array(shared[0][:4]) >= 3).all()
    assert shared[0][4:] == [1, 1]
