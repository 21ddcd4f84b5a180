"""Loss, weights and wiring of the classification head."""

import math

import pytest
import torch
from torch import nn

from medssl.core.seeding import seed_everything
from medssl.encoders._base import build_encoder
from medssl.heads.classification import (
    Classifier,
    Config,
    Head,
    balanced_weights,
    weighted_cross_entropy,
)

CROP = (16, 32, 16)


def head(counts=(4, 4), encoder="resenc-xs", crop=CROP, **options):
    seed_everything(0)
    return Head(build_encoder(encoder, {}, 1), counts, Config(**options), crop)


def batch(count=4, crop=CROP):
    """Class 1 has a bright box."""
    torch.manual_seed(1)
    target = torch.arange(count) % 2
    x = 0.3 * torch.randn(count, 1, *crop)
    x[target == 1, :, ..., 4:12] += 1.0
    return {"views": [{"x": x}], "target": target}


def test_equal_weights_equal_torch_cross_entropy():
    logits, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    ours = weighted_cross_entropy(logits, target, torch.ones(3))
    torch.testing.assert_close(ours, nn.functional.cross_entropy(logits, target))


def test_balanced_weights_times_torch_weighted_loss():
    # torch divides by the sum of weights; over a set with the counted classes that is N.
    target = torch.tensor([0, 0, 0, 1])
    logits, weights = torch.randn(4, 2), balanced_weights([3, 1])
    golden = nn.functional.cross_entropy(logits, target, weights)
    torch.testing.assert_close(weighted_cross_entropy(logits, target, weights), golden)


def test_an_undecided_head_costs_log_k_whatever_the_balance():
    target = torch.tensor([0] * 9 + [1])
    loss = weighted_cross_entropy(torch.zeros(10, 2), target, balanced_weights([9, 1]))
    assert loss.item() == pytest.approx(math.log(2))


def test_micro_batches_add_up_to_the_batch():
    logits, target, weight = torch.randn(8, 3), torch.arange(8) % 3, torch.tensor([0.2, 1.0, 5.0])
    parts = [
        weighted_cross_entropy(a, b, weight)
        for a, b in zip(logits.split(2), target.split(2), strict=True)
    ]
    whole = weighted_cross_entropy(logits, target, weight)
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_balanced_weights_make_classes_count_the_same():
    counts = torch.tensor([90, 9, 1])
    assert (balanced_weights(counts.tolist()) * counts).tolist() == pytest.approx([100 / 3] * 3)


def test_huge_logits_and_half_precision_stay_finite():
    logits = torch.tensor([[1e4, -1e4]], dtype=torch.float16)
    loss = weighted_cross_entropy(logits, torch.tensor([1]), torch.ones(2))
    assert loss.item() == 2e4


def test_size_and_offset_of_the_global_vector_do_not_matter():
    classifier, vector = Classifier(16, 3), torch.randn(5, 16)
    torch.testing.assert_close(
        classifier(100 * vector + 7), classifier(vector), rtol=1e-3, atol=1e-4
    )


def test_a_constant_vector_gives_the_bias():
    assert Classifier(16, 3)(torch.ones(2, 16)).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize(
    ("encoder", "crop"), [("resenc-xs", CROP), ("vit3d-xs", CROP), ("timm/resnet18", (64, 64))]
)
def test_head_learns_a_box(encoder, crop):
    task, sample = head(encoder=encoder, crop=crop), batch(crop=crop)
    optimizer = torch.optim.Adam(task.parameters(), 1e-3)
    for _ in range(15):
        output = task.step(sample)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert output.log["accuracy"] == 1
    assert output.loss < 0.5 * math.log(2)


def test_the_option_of_class_weights_changes_the_loss():
    sample = batch()
    losses = {
        option: head((30, 2), class_weights=option).eval().step(sample).loss.item()
        for option in ("balanced", "none")
    }
    assert losses["none"] == pytest.approx(math.log(2), rel=0.1)
    assert losses["balanced"] > 2 * losses["none"]  # two cases of the rare class in four


def test_dropout_acts_in_training_only():
    task, sample = head(dropout=0.5), batch()
    assert task.step(sample).loss != task.step(sample).loss
    task.eval()
    assert task.step(sample).loss == task.step(sample).loss


def test_encoder_rate_is_scaled():
    assert [g.lr_scale for g in head(encoder_lr_scale=0.1).param_groups()] == [0.1, 1.0]
