"""MedMNIST's protocol: labels drawn by class and nested, copies left out, one small run."""

import json

import numpy as np
import pytest

from medssl.core.errors import UsageError
from pipelines import _bench_slices
from pipelines._bench_mnist import PIXELS, RANDOM, SHARES, Bench, Features, Job, Mnist, subset
from pipelines._bench_mnist_page import page
from tests.training_archive import write_labelled


def write_set(path, seed=0, colour=False, sizes=(24, 8, 10)):
    """Bright and dark pictures of 28 x 28 pixels, two classes in turn."""
    rng = np.random.default_rng(seed)
    content = {}
    for part, n in zip(("train", "val", "test"), sizes, strict=True):
        labels = np.arange(n) % 2
        shape = (n, 28, 28, 3) if colour else (n, 28, 28)
        noise = rng.integers(0, 120, shape)
        content[f"{part}_images"] = (
            noise + 100 * labels.reshape(-1, *[1] * (len(shape) - 1))
        ).astype(np.uint8)
        content[f"{part}_labels"] = labels[:, None].astype(np.uint8)
    np.savez(path, **content)
    return path


@pytest.mark.parametrize("seed", range(5))
def test_one_percent_keeps_every_class_and_is_part_of_ten(seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice(9, 3000, p=np.array([60, 20, 10, 5, 2, 1, 1, 0.6, 0.4]) / 100)
    chosen = [set(subset(labels, share, seed).tolist()) for share in SHARES]
    assert chosen[0] < chosen[1] < chosen[2] == set(range(3000))
    for places in chosen:
        assert set(labels[list(places)]) == set(labels)
    counts = np.bincount(labels[list(chosen[1])]) / np.bincount(labels)
    assert np.abs(counts - 0.1).max() < 0.05
    assert subset(labels, 0.01, seed).tolist() != subset(labels, 0.01, seed + 1).tolist()


def test_validation_pictures_that_are_trained_on_choose_nothing(tmp_path):
    path = write_set(tmp_path / "a.npz")
    content = dict(np.load(path))
    content["val_images"][:3] = content["train_images"][:3]
    np.savez(path, **content)
    assert Mnist(path).without_copies("val", "train").tolist() == [3, 4, 5, 6, 7]


def test_sets_of_other_colours_have_the_channels_asked_for(tmp_path):
    colour = Mnist(write_set(tmp_path / "c.npz", colour=True))
    assert (colour.channels, colour.images("val", 1).shape) == (3, (8, 1, 28, 28))
    grey = Mnist(write_set(tmp_path / "g.npz"))
    assert (grey.images("val", 3) == grey.images("val", 1)).all()
    flat = np.full((2, 28, 28, 3), 77, np.uint8)
    np.savez(tmp_path / "f.npz", train_images=flat)
    assert (Mnist(tmp_path / "f.npz").images("train", 1) == 77).all()


def test_pictures_with_several_labels_are_refused(tmp_path):
    np.savez(tmp_path / "chest.npz", train_labels=np.zeros((4, 14)))
    with pytest.raises(UsageError, match="several labels"):
        Mnist(tmp_path / "chest.npz").labels("train")


def test_far_pictures_are_foreign_and_own_ones_are_not():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = {part: rng.normal(size=(60, 4)) + 3 * y[:, None] for part in ("train", "val", "test")}
    found = Features(x, dict.fromkeys(x, y))
    far = found.foreign(x["test"] + 40)["mahalanobis"]
    assert far == {"auroc": 1.0, "fpr95": 0.0}
    same = found.foreign(x["test"])
    assert {one["auroc"] for one in same.values()} == {0.5}


def test_slices_keep_patients_apart(tmp_path):
    data = write_labelled(tmp_path / "data", 6)
    names = [f"case_{n:03d}" for n in range(6)]
    split = {"train": [names[0], names[2], names[3]], "test": [names[5]]}
    (data / "split.json").write_text(json.dumps(split))
    path = _bench_slices.write_slices(data, tmp_path / "slices.npz")
    one = Mnist(path)
    assert one.images("test", 1).shape[1:] == (1, 28, 28)
    groups = [set(np.load(path)[f"{part}_groups"]) for part in ("train", "val", "test")]
    assert groups[0].isdisjoint(groups[2])
    assert groups[0] | groups[1] == {"case_000", "case_002"}  # 002 and 003 may be one subject


@pytest.mark.slow
def test_the_whole_protocol_on_two_small_sets(tmp_path):
    paths = tuple(write_set(tmp_path / f"{name}.npz", seed) for seed, name in enumerate("ab"))
    bench = Bench(paths, tmp_path / "out", samples=8, batch_size=4)
    bench.index()
    jobs = [
        Job(name, arm, s) for s in (0, 1) for name in "ab" for arm in (PIXELS, RANDOM, "simclr")
    ]
    rows = [{**job._asdict(), **bench.work(job)} for job in jobs]
    text = page([Mnist(path) for path in paths], rows)
    assert text.count("| simclr | 2 |") == 2 * len(SHARES)
    assert "| a | b | simclr |" in text
    pixels = next(row for row in rows if row["arm"] == PIXELS)
    assert pixels["shares"]["1.0"]["acc"] == 1.0  # brightness tells the classes apart
    assert pixels["shares"]["0.01"]["labelled"] == 2
    assert json.loads(json.dumps(rows)) == rows
