"""Clusters of the whole archive: k-means, bank, labels."""

import math

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from medssl.core.seeding import seed_everything
from medssl.core.viewspec import Setting
from medssl.objectives import deepcluster
from medssl.objectives._parts.kmeans import spherical_kmeans
from medssl.objectives.deepcluster import UNSEEN, cluster_entropy
from tests.objectives.toys import CROP, TinyEncoder, differing, fit, resumed, straight, toy_batch

SMALL = {"clusters": 3, "heads": 3, "hidden": 16, "out": 8, "local_views": 1, "cluster_every": 3}


def task_of(records=8, **options):
    seed_everything(0)
    config = deepcluster.Config(**{**SMALL, **options})
    return deepcluster.Objective(TinyEncoder(), config, Setting(crop=CROP, records=records))


def prepared(task, samples=8):
    task.prepare(lambda: iter([toy_batch(task, samples)]))
    return task


def blobs(count=5, each=40, width=16):
    generator = torch.Generator().manual_seed(3)
    centres = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q[:count]
    label = torch.arange(count).repeat_interleave(each)
    noise = 0.05 * torch.randn(count * each, width, generator=generator)
    return centres[label] + noise, label


@pytest.mark.parametrize("seed", range(5))
def test_separated_blobs_are_recovered_from_any_start(seed):
    x, label = blobs()
    assert adjusted_rand_score(label, spherical_kmeans(x, 5, seed=seed).label_N) == 1


def test_same_seed_same_clusters_and_lengths_do_not_count():
    x, _ = blobs(each=7)
    a, b = spherical_kmeans(x, 4, seed=1), spherical_kmeans(3 * x, 4, seed=1)
    assert torch.equal(a.label_N, b.label_N)
    torch.testing.assert_close(a.centroid_KD, b.centroid_KD)
    torch.testing.assert_close(a.centroid_KD.norm(dim=1), torch.ones(4))


def test_an_empty_cluster_keeps_its_centroid():
    # Two directions and three clusters: one stays empty, as unit and finite as the others.
    x = torch.eye(2).repeat(4, 1)
    found = spherical_kmeans(x, 3, seed=0)
    assert len(found.label_N.unique()) == 2
    torch.testing.assert_close(found.centroid_KD.norm(dim=1), torch.ones(3))
    assert all((row == x).all(1).any() for row in found.centroid_KD)  # still a row of the data


def test_more_clusters_than_rows_and_a_single_row_work():
    assert spherical_kmeans(torch.randn(1, 4), 1).label_N.tolist() == [0]
    assert torch.isfinite(spherical_kmeans(torch.randn(3, 4), 5).centroid_KD).all()


def test_loss_at_equal_centroids_is_log_k_and_at_the_right_one_0():
    z = torch.nn.functional.normalize(torch.randn(2, 6, 4), dim=2)
    label = torch.zeros(1, 6, dtype=torch.long)
    equal = cluster_entropy(z, torch.ones(1, 5, 4), label, 0.1)
    assert equal.item() == pytest.approx(math.log(5), abs=1e-6)
    sharp = cluster_entropy(torch.eye(4)[None], torch.eye(4)[None], torch.arange(4)[None], 0.01)
    assert sharp.item() < 1e-6


def test_records_without_label_have_no_gradient_and_no_weight():
    z = torch.randn(2, 4, 3, requires_grad=True)
    centroid, label = torch.randn(1, 5, 3), torch.tensor([[0, UNSEEN, 2, UNSEEN]])
    loss = cluster_entropy(z, centroid, label, 0.1)
    loss.backward()
    assert (z.grad[:, 1::2] == 0).all()
    assert (z.grad[:, ::2].abs().amax(2) > 0).all()
    kept = cluster_entropy(z[:, ::2], centroid, label[:, ::2], 0.1)
    torch.testing.assert_close(loss, kept)


def test_no_labelled_record_costs_nothing():
    z = torch.randn(2, 4, 3, requires_grad=True)
    loss = cluster_entropy(z, torch.randn(1, 5, 3), torch.full((1, 4), UNSEEN), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert (z.grad == 0).all()


def test_first_pass_fills_the_bank_and_labels_every_record_per_head():
    task = prepared(task_of())
    torch.testing.assert_close(task.bank_VRD.norm(dim=2), torch.ones(2, 8))
    assert task.label_HR.min() >= 0
    assert task.label_HR.max() < 3
    assert task.training


def test_records_missing_from_the_pass_have_no_label():
    task = prepared(task_of(), samples=5)
    assert (task.label_HR[:, 5:] == UNSEEN).all()
    assert (task.label_HR[:, :5] >= 0).all()


def test_heads_take_turns_over_the_banks_of_the_two_views():
    task = prepared(task_of(heads=2))
    for head in range(2):
        found = spherical_kmeans(task.bank_VRD[head], 3, seed=head)
        assert torch.equal(found.label_N, task.label_HR[head])


def test_all_data_are_read_once_only_and_labels_rest_between_clusterings():
    task, reads = task_of(), []

    def passes():
        reads.append(1)
        return iter([toy_batch(task, 8)])

    assert [step for step in range(8) if task.prepare_at(step)] == [0, 3, 6]
    task.prepare(passes)
    label = task.label_HR.clone()
    task.step(toy_batch(task, 8))
    task.after_update(0.1)
    assert torch.equal(task.label_HR, label)
    task.prepare(passes)
    assert len(reads) == 1


@pytest.mark.parametrize(("records", "every"), [(10, 100), (8000, 1000)])
def test_clusterings_are_about_a_pass_over_the_data_apart(records, every):
    assert task_of(records, cluster_every=None).every == every


def test_bank_takes_the_embeddings_of_an_update_and_none_of_a_skipped_one():
    task = prepared(task_of())
    before = task.bank_VRD.clone()
    batch = toy_batch(task, 4) | {"record": torch.tensor([1, 3, 3, 6])}
    task.step(batch)
    task.discard_update()
    task.after_update(0.1)
    assert torch.equal(task.bank_VRD, before)
    z = torch.nn.functional.normalize(task._embed(batch)[:2].detach(), dim=2)
    task.step(batch)
    task.after_update(0.2)
    kept = [0, 2, 4, 5, 7]
    assert torch.equal(task.bank_VRD[:, kept], before[:, kept])
    # Of two views of record 3 the later one stays.
    torch.testing.assert_close(task.bank_VRD[:, [1, 3, 6]], z[:, [0, 2, 3]])


def test_one_cluster_costs_nothing_and_clusters_are_at_most_the_records():
    task = prepared(task_of(clusters=1))
    assert task.step(toy_batch(task, 8) | {"record": torch.arange(8)}).loss.item() == 0
    assert task_of(records=4, clusters=64).centroid_HKD.shape[1] == 4


def test_loss_falls_between_clusterings():
    task = task_of(cluster_every=1000)
    batch = toy_batch(task, 8) | {"record": torch.arange(8)}
    prepared(task)
    first = task.step(batch).loss.item()
    task.discard_update()
    fit(task, 1, 60, steps=100)
    assert task.step(batch).loss.item() < 0.5 * first


def test_a_run_taken_up_is_the_run_without_a_break():
    assert differing(resumed(task_of), straight(task_of)) == []


@pytest.mark.parametrize("name", ["bank_VRD", "label_HR", "centroid_HKD", "clusterings"])
def test_every_saved_field_decides_what_comes_next(name):
    def make():  # the bank counts where a clustering follows the break at once
        return task_of(cluster_every=4 if name == "bank_VRD" else 3)

    assert differing(resumed(make, spoil=name), straight(make))
