"""Golden checks of MoCo: closed forms, the queue, and keys of the same record."""

from math import log

import pytest
import torch

from medssl.core.seeding import seed_everything
from medssl.core.viewspec import Setting
from medssl.objectives import moco
from medssl.objectives._parts.contrast import info_nce, queue_nce
from medssl.objectives._parts.queue import Queue
from tests.objectives.toys import CROP, TinyEncoder, toy_batch, train


def tiny(**options):
    seed_everything(0)
    config = moco.Config(**{"hidden": 32, "out": 16, "queue": 24, **options})
    return moco.Objective(TinyEncoder(), config, Setting(crop=CROP, records=100)).train()


def state(task):
    return {name: value.clone() for name, value in task.state_dict().items()}


@pytest.mark.parametrize("length", [1, 7, 1024, 65536])
def test_v2_with_equal_embeddings_is_log_of_the_queue_plus_1(length):
    one = torch.ones(4, 8)
    loss = queue_nce(one, one, torch.ones(length, 8), temperature=0.2)
    assert loss.item() == pytest.approx(log(length + 1), abs=1e-5)


def test_v3_with_equal_embeddings_is_2_tau_log_n_per_direction():
    one = torch.ones(8, 4)
    direction = 2 * 0.2 * info_nce(one, one, temperature=0.2).item()
    assert direction == pytest.approx(0.8318, abs=5e-5)
    assert 2 * direction == pytest.approx(1.6636, abs=5e-5)


def test_keys_of_the_querys_own_record_are_no_negatives():
    one = torch.ones(2, 8)
    same = torch.tensor([[True, False, True], [False, False, False]])
    loss = queue_nce(one, one, torch.ones(3, 8), temperature=0.2, same_BM=same)
    assert loss.item() == pytest.approx((log(2) + log(4)) / 2, abs=1e-6)


def test_a_queue_of_own_keys_only_gives_0_with_a_graph():
    query = torch.randn(2, 8, requires_grad=True)
    every = torch.ones(2, 3, dtype=torch.bool)
    loss = queue_nce(query, query.detach(), torch.randn(3, 8), temperature=0.2, same_BM=every)
    loss.backward()
    assert loss.item() == 0


def pushed(length, batches):
    queue = Queue(length, 1)
    for first, size in batches:
        keys = torch.arange(first, first + size)
        queue.push(keys[:, None].float(), keys + 100)
    return queue


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 9])
def test_the_queue_holds_the_last_keys_in_order_whatever_the_batch(size):
    # The ring wraps: its length need not be a multiple of the batch, nor be longer.
    queue = pushed(8, [(first, size) for first in range(0, 6 * size, size)])
    ring = queue.key_KD.flatten().roll(-int(queue.pointer)).long()
    filled = min(8, 6 * size)
    expected = torch.arange(6 * size - filled, 6 * size)
    assert torch.equal(ring[8 - filled :], expected)
    assert torch.equal(queue.record_K.roll(-int(queue.pointer))[8 - filled :], expected + 100)


def test_the_queue_starts_with_random_directions_of_no_record():
    queue = Queue(64, 16)
    torch.testing.assert_close(queue.key_KD.norm(dim=1), torch.ones(64))
    assert (queue.record_K == -1).all()


def test_keys_pointer_and_records_are_in_the_state():
    queue, other = pushed(8, [(0, 3)]), Queue(8, 1)
    other.load_state_dict(queue.state_dict())
    for each in (queue, other):
        each.push(torch.full((6, 1), 9.0), torch.arange(6))
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in queue.state_dict().items())
    assert set(queue.state_dict()) == {"key_KD", "record_K", "pointer"}


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_the_teacher_is_m_times_itself_plus_the_rest_of_the_student(momentum):
    task = tiny(momentum=momentum)
    slow = state(task.teacher.module.encoder)
    torch.nn.init.normal_(task.encoder.embed.weight)
    fast = state(task.encoder)
    task.after_update(0.5)
    for name, value in task.teacher.module.encoder.state_dict().items():
        assert torch.equal(value, slow[name].lerp(fast[name], 1 - momentum))


def test_v3s_momentum_reaches_1_at_the_end():
    task = tiny(version="v3", momentum=0.0)
    torch.nn.init.normal_(task.encoder.embed.weight)
    slow = state(task.teacher)
    task.after_update(1.0)
    assert all(torch.equal(value, slow[name]) for name, value in state(task.teacher).items())


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_step_changes_no_state_and_keys_and_teacher_get_no_gradient(version):
    task = tiny(version=version, norm="layer")
    before = state(task)
    task.step(toy_batch(task, 6)).loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in state(task).items())
    assert all(p.grad is None for p in task.teacher.parameters())
    assert all(p.grad is not None for p in task.head.parameters())


def test_the_queue_takes_the_keys_of_all_micro_batches_after_the_update():
    task = tiny()
    first, second = toy_batch(task, 6, seed=1), toy_batch(task, 6, seed=2)
    for batch in (first, second):
        task.step(batch)
    task.after_update(0.1)
    assert task.queue.record_K[:12].tolist() == [*first["record"], *second["record"]]
    assert task.queue.record_K[12:].eq(-1).all()
    teacher = tiny().teacher
    keys = torch.nn.functional.normalize(teacher(first["views"][1]["x"]), dim=1)
    torch.testing.assert_close(task.queue.key_KD[:6], keys)


def test_validation_and_skipped_updates_leave_the_queue_alone():
    task = tiny()
    batch = toy_batch(task, 6)
    task.step(batch)
    task.discard_update()
    with torch.no_grad():
        task.step(batch)
    task.eval()
    task.step(batch)
    before = state(task.queue)
    task.after_update(0.1)
    assert all(torch.equal(value, before[name]) for name, value in state(task.queue).items())


def test_a_queue_full_of_the_querys_record_gives_no_negatives():
    task = tiny()
    batch = {**toy_batch(task, 6), "record": torch.full((6,), 3)}
    task.queue.record_K.fill_(3)
    assert task.step(batch).loss.item() == 0


def test_a_frozen_patch_embedding_keeps_its_random_weights():
    task = tiny(version="v3", freeze_patch_embedding=True)
    before = task.encoder.embed.weight.clone()
    train(task, steps=3)
    assert torch.equal(task.encoder.embed.weight, before)
    frozen = {name for name, p in task.encoder.named_parameters() if not p.requires_grad}
    assert frozen == {"embed.weight", "embed.bias"}
