"""Swapped prediction: codes, queue, prototypes."""

import math

import pytest
import torch

from medssl.core.seeding import seed_everything
from medssl.core.viewspec import Setting
from medssl.objectives import swav
from medssl.objectives._parts.queue import Queue
from tests.objectives.toys import CROP, TinyEncoder, differing, fit, resumed, straight, toy_batch

SMALL = {"prototypes": 6, "hidden": 16, "out": 8, "queue": 12, "queue_from": 0.25}


def task_of(**options):
    seed_everything(0)
    config = swav.Config(**{**SMALL, **options})
    return swav.Objective(TinyEncoder(), config, Setting(crop=CROP, records=8))


def test_loss_of_a_fresh_task_is_near_log_k():
    task = task_of(prototypes=256, out=128, temperature=1.0)
    assert task.terms(toy_batch(task, 32))["swap"].item() == pytest.approx(math.log(256), rel=0.02)


def test_one_prototype_costs_nothing():
    task = task_of(prototypes=1)
    assert task.step(toy_batch(task)).loss.item() == 0


def test_equal_scores_give_uniform_codes_and_log_k():
    task = task_of()
    with torch.no_grad():
        task.prototypes.weight.copy_(task.prototypes.weight[:1].expand(6, -1).clone())
    _, _, codes = task._look(toy_batch(task))
    torch.testing.assert_close(codes, torch.full((2, 16, 6), 1 / 6))
    assert task.step(toy_batch(task)).loss.item() == pytest.approx(math.log(6), abs=1e-5)


def test_small_views_predict_and_give_no_codes():
    task = task_of(local_views=3)
    _, scores, codes = task._look(toy_batch(task))
    assert (len(scores), len(codes)) == (5, 2)
    assert not codes.requires_grad


def test_swapping_the_full_views_changes_nothing():
    task = task_of(local_views=0, norm="layer")
    batch = toy_batch(task)
    turned = {**batch, "views": batch["views"][::-1]}
    torch.testing.assert_close(task.step(batch).loss, task.step(turned).loss)


@pytest.mark.parametrize("length", [3, 5, 8])
def test_queue_keeps_the_last_vectors(length):
    queue = Queue(length, 1)
    for first in range(0, 12, 4):  # 12 vectors in pushes of 4
        numbers = torch.arange(first, first + 4)
        queue.push(numbers[:, None].float(), numbers)
    assert sorted(queue.record_K.tolist()) == list(range(12 - length, 12))
    assert torch.equal(queue.key_KD[:, 0].long(), queue.record_K)
    assert queue.full


def test_a_queue_that_is_not_full_is_not_used():
    queue = Queue(5, 2)
    queue.push(torch.ones(4, 2), torch.arange(4))
    assert not queue.full


def test_codes_use_the_queue_from_its_share_of_the_steps_on():
    task = task_of(local_views=0)
    scores = torch.randn(4, 6)
    for queue in task.queues:
        queue.push(torch.randn(12, 8), torch.zeros(12, dtype=torch.long))
    early = task._codes(0, scores)
    task.progress.fill_(0.25)
    late = task._codes(0, scores)
    assert late.shape == early.shape == (4, 6)
    assert not torch.allclose(late, early)
    torch.testing.assert_close(late.sum(1), torch.ones(4))


def test_queue_takes_the_embeddings_of_an_update_and_none_of_a_skipped_one():
    task = task_of(queue=100)
    task.step(toy_batch(task, 8))
    task.discard_update()
    task.after_update(0.1)
    assert [int(q.pointer) for q in task.queues] == [0, 0]
    for seed in (0, 1):  # two micro-batches
        task.step(toy_batch(task, 8, seed))
    task.after_update(0.1)
    assert [int(q.pointer) for q in task.queues] == [16, 16]
    lengths = task.queues[0].key_KD[:16].norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(16))


def test_prototypes_rest_at_first_and_have_length_1_after_each_update():
    task = task_of(freeze_last=0.5)
    before = task.prototypes.weight.clone()
    fit(task, 0, 4)
    assert torch.equal(task.prototypes.weight, before)
    fit(task, 4, 6)
    assert not torch.equal(task.prototypes.weight, before)
    torch.testing.assert_close(task.prototypes.weight.norm(dim=1), torch.ones(6))


@pytest.mark.parametrize("samples", [1, 2])
def test_tiny_batches_and_constant_pictures_are_finite(samples):
    task = task_of(norm="layer")
    batch = toy_batch(task, samples)
    for view in batch["views"]:
        view["x"] = torch.zeros_like(view["x"])
    loss = task.step(batch).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in task.parameters())


def test_a_run_taken_up_is_the_run_without_a_break():
    assert differing(resumed(task_of), straight(task_of)) == []


@pytest.mark.parametrize(
    "name",
    ["queues.0.key_KD", "queues.1.key_KD", "queues.0.pointer", "prototypes.weight", "progress"],
)
def test_every_saved_field_decides_what_comes_next(name):
    def make():
        # Full at the break, or at the end with vectors from before the break.
        return task_of(queue=20 if name == "progress" else 40, queue_from=0.8)

    spoilt, right = resumed(make, spoil=name), straight(make)
    assert differing(spoilt, right)
    if "pointer" not in name:
        assert "encoder.net.1.weight" in differing(spoilt, right)
