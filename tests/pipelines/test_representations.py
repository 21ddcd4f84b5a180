"""The benchmark of representations: its scores and its ledger."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from pipelines._bench_frozen import pad_to
from pipelines._bench_sets import auroc_components


def test_mean_of_the_components_is_the_auroc():
    rng = np.random.default_rng(0)
    scores, truth = np.round(rng.random(200), 1), rng.integers(0, 2, 200)
    assert np.mean(auroc_components(scores, truth)) == pytest.approx(roc_auc_score(truth, scores))


def test_spread_of_the_components_is_delongs_variance():
    rng = np.random.default_rng(1)
    truth = np.repeat([0, 1], [40, 60])
    repeats = [rng.normal(size=100) + truth for _ in range(400)]
    spread = np.std([roc_auc_score(truth, scores) for scores in repeats])
    told = np.mean([np.std(auroc_components(s, truth)) / np.sqrt(100) for s in repeats])
    assert told == pytest.approx(spread, rel=0.15)


def test_padding_repeats_the_edge_behind_the_picture():
    padded = pad_to(torch.arange(6.0).view(1, 2, 3), (4, 4))
    assert padded.shape == (1, 4, 4)
    assert padded[0, :, 3].tolist() == [2.0, 5.0, 5.0, 5.0]
