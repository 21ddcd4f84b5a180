"""Loss, weights and reload of the tool head."""

import math

import pytest
import torch
from torch import nn

from medssl.heads.tools import positive_weights, weighted_bce


def test_weights_of_selfsupsurg_are_frames_without_over_frames_with():
    # 25 % of Cholec80 in their table: 0.56 and 40.9 for a frequent and a rare tool.
    found = positive_weights([641, 239], 1000 * 10)
    assert found.tolist() == pytest.approx([(10000 - 641) / 641, 40.84], rel=1e-3)
    assert positive_weights([641], 1000).item() == pytest.approx(0.56, abs=1e-2)


@pytest.mark.parametrize("count", [0, 10])
def test_a_tool_that_is_never_or_always_there_has_a_finite_weight(count):
    assert positive_weights([count], 10).tolist() == [1.0]


def test_loss_is_torchs_and_an_undecided_one_costs_log_2_without_weights():
    logits, there = torch.randn(5, 3), torch.randint(2, (5, 3))
    weight = torch.tensor([1.0, 2.0, 5.0])
    golden = nn.BCEWithLogitsLoss(pos_weight=weight)(logits, there.float())
    torch.testing.assert_close(weighted_bce(logits, there, weight), golden)
    undecided = weighted_bce(torch.zeros(5, 3), there, torch.ones(3))
    assert undecided.item() == pytest.approx(math.log(2))


def test_weighted_positives_and_negatives_pull_alike_over_the_counted_frames():
    there = torch.tensor([[1], [0], [0], [0]])
    logits = torch.zeros(4, 1, requires_grad=True)
    weighted_bce(logits, there, positive_weights([1], 4)).backward()
    assert logits.grad.sum().item() == pytest.approx(0, abs=1e-7)


def test_large_logits_of_half_precision_stay_finite():
    logits = torch.tensor([[3e4, -3e4]]).bfloat16()
    assert torch.isfinite(weighted_bce(logits, torch.tensor([[0, 1]]), torch.ones(2)))
