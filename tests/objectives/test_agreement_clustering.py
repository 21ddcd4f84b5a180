"""Clustering and distillation against independent code: same inputs, same number.

Where conventions differ: lightly's DINO and iBOT losses move their centre after each call (here a
fresh loss with centre 0 is compared, and the moved centre); lightly's KoLeo knows no records;
scikit-learn's k-means is Euclidean, which on separated blobs of unit length gives the same groups.
"""

import pytest
import torch
from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss, SwaVLoss
from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from medssl.objectives._parts.dino import (
    Centred,
    cross_view_entropy,
    hidden_token_entropy,
    koleo,
)
from medssl.objectives._parts.kmeans import spherical_kmeans
from medssl.objectives._parts.sinkhorn import sinkhorn

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_sinkhorn_equals_lightly_sinkhorn(iterations):
    scores = torch.nn.functional.normalize(drawn(32, 8), dim=1)
    ours = sinkhorn(scores, 0.05, iterations)
    torch.testing.assert_close(ours, lightly_sinkhorn(scores, iterations, 0.05), **CLOSE)


def test_cross_view_entropy_equals_lightly_dinoloss():
    teacher, student = drawn(2, 6, 16), drawn(5, 6, 16, seed=1)
    centred = Centred(16, 0.9)
    targets = centred(teacher.flatten(0, 1), 0.04).view_as(teacher)
    ours = cross_view_entropy(targets, student, 0.1)
    theirs = DINOLoss(16, teacher_temp=0.04, student_temp=0.1, center_momentum=0.9)
    torch.testing.assert_close(ours, theirs(list(teacher), list(student)), **CLOSE)


def test_centre_equals_lightly_dinoloss_center():
    teacher, student = drawn(2, 6, 16), drawn(5, 6, 16, seed=1)
    centred, theirs = Centred(16, 0.9), DINOLoss(16, center_momentum=0.9)
    for _ in range(3):
        centred.note(teacher.flatten(0, 1))
        centred.update()
        theirs(list(teacher), list(student))
    torch.testing.assert_close(centred.centre_K, theirs.center.flatten(), **CLOSE)


def test_hidden_token_entropy_equals_lightly_ibotpatchloss():
    mask = torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(2)) < 0.4
    mask[0] = False  # a sample without hidden tokens
    count = int(mask.sum())
    teacher, student = drawn(count, 16), drawn(count, 16, seed=1)
    targets = Centred(16, 0.9)(teacher, 0.04)
    ours = hidden_token_entropy(targets, student, mask.flatten(1), 0.1)
    theirs = IBOTPatchLoss(16, teacher_temp=0.04, student_temp=0.1)(teacher, student, mask)
    torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("copies", [0, 2])
def test_koleo_equals_lightly_koleoloss(copies):
    x = drawn(12, 8)
    x[:copies] = x[-1]
    torch.testing.assert_close(koleo(x, torch.arange(12)), KoLeoLoss()(x), **CLOSE)


@pytest.mark.parametrize("queue", [0, 20])
def test_swapped_prediction_equals_lightly_swavloss(queue):
    full, small = torch.tanh(drawn(2, 8, 16)), torch.tanh(drawn(3, 8, 16, seed=1))
    past = torch.tanh(drawn(2, queue, 16, seed=2))
    codes = torch.stack([sinkhorn(torch.cat(v), 0.05, 3)[:8] for v in zip(full, past, strict=True)])
    ours = cross_view_entropy(codes, torch.cat([full, small]), 0.1)
    theirs = SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)
    queues = list(past) if queue else None
    torch.testing.assert_close(ours, theirs(list(full), list(small), queues).squeeze(), **CLOSE)


def test_spherical_kmeans_equals_sklearn_kmeans():
    centres = torch.linalg.qr(drawn(16, 16)).Q[:6]
    x = centres.repeat_interleave(30, 0) + 0.04 * drawn(180, 16, seed=1)
    x = torch.nn.functional.normalize(x, dim=1)
    theirs = KMeans(6, n_init=5, random_state=0).fit(x.numpy())
    ours = spherical_kmeans(x, 6)
    assert adjusted_rand_score(theirs.labels_, ours.label_N) == 1
    means = torch.nn.functional.normalize(torch.from_numpy(theirs.cluster_centers_), dim=1)
    nearest = (ours.centroid_KD @ means.T).amax(1)
    torch.testing.assert_close(nearest, torch.ones(6), **CLOSE)
