"""Golden checks of SimCLR: closed forms of NT-Xent, and what counts as a negative."""

from math import exp, log

import pytest
import torch

from medssl.objectives._parts.contrast import info_nce, nt_xent


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_equal_embeddings_leave_a_guess_among_2n_minus_1(temperature):
    one = torch.ones(8, 4)
    assert nt_xent(one, one, temperature=temperature).item() == pytest.approx(2.7081, abs=5e-5)
    assert nt_xent(one, one, temperature=temperature).item() == pytest.approx(log(15), abs=1e-6)


def test_orthonormal_samples_have_the_closed_form():
    # N = 8, t = .5: the positive has cosine 1, the other 14 views 0.
    loss = nt_xent(torch.eye(8), torch.eye(8), temperature=0.5).item()
    assert loss == pytest.approx(log(1 + 14 * exp(-2)), abs=1e-6)
    assert loss == pytest.approx(1.0629, abs=5e-5)


def test_info_nce_of_equal_pairs_is_log_n():
    one = torch.ones(8, 4)
    assert info_nce(one, one, temperature=0.1).item() == pytest.approx(2.0794, abs=5e-5)


def test_info_nce_of_orthonormal_pairs_has_the_closed_form():
    loss = info_nce(torch.eye(8), torch.eye(8), temperature=0.1).item()
    assert loss == pytest.approx(3.177e-4, abs=5e-7)
    assert loss == pytest.approx(log(1 + 7 * exp(-10)), abs=1e-6)


def test_the_positive_counts_and_the_view_itself_does_not():
    # Views of a sample are opposite and everything else is orthogonal: -log(e^-2 / (e^-2 + 2)).
    a = torch.eye(2)
    loss = nt_xent(a, -a, temperature=0.5).item()
    assert loss == pytest.approx(log(1 + 2 * exp(2)), abs=1e-6)


def test_views_of_the_same_record_are_no_negatives():
    # Equal embeddings: each view of records (0, 0, 1) sees its partner and 2 or 4 negatives.
    one = torch.ones(3, 4)
    loss = nt_xent(one, one, temperature=0.1, record_B=torch.tensor([0, 0, 1])).item()
    assert loss == pytest.approx((4 * log(3) + 2 * log(5)) / 6, abs=1e-6)


def test_different_records_change_nothing():
    a, b = torch.randn(5, 4), torch.randn(5, 4)
    apart = nt_xent(a, b, temperature=0.3, record_B=torch.tensor([7, 3, 9, 0, 1]))
    assert torch.equal(apart, nt_xent(a, b, temperature=0.3))


def test_own_record_gets_no_gradient():
    a = torch.randn(3, 4, requires_grad=True)
    b = torch.randn(3, 4)
    logits = nt_xent(a, b, temperature=0.3, record_B=torch.tensor([5, 5, 5]))
    logits.backward()
    # Only the positive is left: the loss is 0 and does not pull.
    assert logits.item() == 0
    assert torch.equal(a.grad, torch.zeros(3, 4))


def test_a_batch_of_one_has_no_negatives_and_a_loss_of_0_with_a_graph():
    a = torch.randn(1, 4, requires_grad=True)
    loss = nt_xent(a, torch.randn(1, 4), temperature=0.1)
    loss.backward()
    assert loss.item() == 0


def test_queries_of_rank_1_find_their_keys_in_the_second_half():
    keys = torch.eye(6)
    halves = [info_nce(keys[3 * r : 3 * r + 3], keys, temperature=0.1, first=3 * r) for r in (0, 1)]
    whole = info_nce(keys, keys, temperature=0.1)
    assert (halves[0] + halves[1]).item() / 2 == pytest.approx(whole.item(), abs=1e-9)
    wrong = info_nce(keys[3:], keys, temperature=0.1, first=0)
    assert wrong > 10
