"""Golden checks of MoCo: closed forms, the queue, and keys of the same record."""

from math import log

import pytest
import torch

from medssl.objectives._parts.contrast import info_nce, queue_nce
from medssl.objectives.moco import Queue


@pytest.mark.parametrize("length", [1, 7, 1024])
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
