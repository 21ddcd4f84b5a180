"""Attentive probe: finds the token that a mean hides, and is a linear probe where all are alike."""

import numpy as np
import pytest

from medssl.core.errors import UsageError
from medssl.evaluation.attentive import attentive_probe, fit_attentive
from medssl.evaluation.classification import auroc
from medssl.evaluation.linear import linear_probe

TOKENS, WIDTH = 64, 16


def planted(n, seed):
    """One token of 64, at a random place, is marked in feature 0 and shows the class in feature 1.

    The mean shows the class 4 / 64 apart, with noise of 1 / sqrt(64): half a standard deviation.
    """
    rng = np.random.default_rng(seed)
    tokens, labels = rng.normal(size=(n, TOKENS, WIDTH)), np.arange(n) % 2
    place = rng.integers(TOKENS, size=n)
    tokens[np.arange(n), place, 0] += 8
    tokens[np.arange(n), place, 1] += 4 * labels - 2
    return tokens, labels, place


def test_the_probe_finds_a_planted_token_that_the_mean_hides():
    (train, y, _), (val, y_val, _), (test, y_test, place) = (
        planted(n, seed) for n, seed in ((200, 0), (100, 1), (400, 2))
    )
    probe = attentive_probe((train, y), (val, y_val))
    mean = linear_probe((train.mean(1), y), (val.mean(1), y_val))
    found = probe.scores(test)[:, 1] - probe.scores(test)[:, 0]
    by_mean = mean.scores(test.mean(1))
    assert auroc(y_test == 1, found) > 0.95
    assert auroc(y_test == 1, by_mean[:, 1] - by_mean[:, 0]) < 0.75
    assert (probe.attention(test).argmax(1) == place).mean() > 0.9


def test_on_tokens_that_are_all_alike_it_is_a_linear_probe():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), np.arange(60) % 3
    x[np.arange(60), y] += 4
    probe = fit_attentive(np.repeat(x[:, None], 5, axis=1), y, 1e-3)
    assert (probe.predict(np.repeat(x[:, None], 5, axis=1)) == y).mean() > 0.9
    assert probe.attention(np.repeat(x[:, None], 5, axis=1)) == pytest.approx(0.2)


def test_the_order_of_tokens_does_not_matter_and_shares_sum_to_1():
    tokens, labels, _ = planted(40, 0)
    probe = fit_attentive(tokens, labels, 1e-3)
    other = tokens[:, np.random.default_rng(1).permutation(TOKENS)]
    assert probe.scores(other) == pytest.approx(probe.scores(tokens), abs=1e-4)
    assert probe.attention(tokens).sum(1) == pytest.approx(1, abs=1e-6)


def test_same_seed_same_probe_and_a_constant_feature_changes_nothing():
    tokens, labels, _ = planted(40, 0)
    one = fit_attentive(tokens, labels, 1e-3).scores(tokens)
    assert (fit_attentive(tokens, labels, 1e-3).scores(tokens) == one).all()
    padded = np.concatenate([tokens, np.full((40, TOKENS, 1), 1e6)], axis=2)
    assert fit_attentive(padded, labels, 1e-3).scores(padded) == pytest.approx(one, abs=1e-4)


def test_labels_without_a_relation_to_the_tokens_are_not_found():
    (train, _, _), (val, _, _), (test, _, _) = (planted(80, seed) for seed in (0, 1, 2))
    y = np.random.default_rng(3).permutation(np.arange(80) % 2)
    probe = attentive_probe((train, y), (val, y))
    assert 0.3 < auroc(y == 1, probe.scores(test)[:, 1]) < 0.7


@pytest.mark.parametrize(
    ("tokens", "labels"),
    [
        (np.zeros((2, 3)), [0, 1]),
        (np.full((2, 3, 4), np.nan), [0, 1]),
        (np.zeros((2, 3, 4)), [0, 0]),
        (np.zeros((2, 3, 4)), [0, 1, 1]),
        (np.zeros((2, 3, 4)), [0.0, 1.0]),
    ],
)
def test_what_cannot_be_probed_is_refused(tokens, labels):
    with pytest.raises(UsageError):
        fit_attentive(tokens, labels, 1e-3)


def test_other_features_and_unseen_classes_are_refused():
    tokens, labels, _ = planted(10, 0)
    with pytest.raises(UsageError, match="16 features to train on"):
        attentive_probe((tokens, labels), (tokens[..., :4], labels))
    with pytest.raises(UsageError, match="holds a class"):
        attentive_probe((tokens, labels), (tokens, labels * 2))
    with pytest.raises(UsageError, match="trained on 16"):
        fit_attentive(tokens, labels, 1e-3).scores(tokens[..., :4])
