"""A pretraining watches its own health: the files it writes, and the stop if asked for."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from lightning.fabric import Fabric
from scipy.ndimage import gaussian_filter

from medssl.core.errors import MedsslError
from medssl.core.runlog import Run
from medssl.encoders.card import load_card
from medssl.evaluation.health import Verdict
from medssl.stages import _health, index, pretrain
from medssl.stages.pretrain import PretrainConfig
from medssl.training.checkpoint import checkpoints
from tests.training_archive import save, volume, write_images

OPTIONS = {
    "objective": {"name": "byol", "hidden": 16, "out": 8, "norm": "layer"}, "steps": 4,
    "check_every": 2, "crop": (16, 32, 16), "batch_size": 2, "accelerator": "cpu", "quiet": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    base = tmp_path_factory.mktemp("health")
    split = {"train": 1.0, "val": 0.0, "test": 0.0}
    index.run(index.IndexConfig(archive=write_images(base / "archive"), out=base / "catalog",
                                split=split, quiet=True))  # fmt: skip
    return base / "catalog"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_watched_run_says_how_it_is_and_is_bitwise_the_unwatched(catalog, tmp_path):
    watched = pretrain.run(PretrainConfig(data=catalog, out=tmp_path / "a", **OPTIONS))
    plain = pretrain.run(PretrainConfig(data=catalog, out=tmp_path / "b", health=False, **OPTIONS))
    found = lines(watched.out / "health.jsonl")
    assert [line["step"] for line in found] == [0, 2, 4]
    assert {"rankme", "lidar", "feature_std", "embedding_std", "state", "why"} <= found[-1].keys()
    assert watched.result["health"].startswith(found[-1]["state"])
    logged = [line for line in lines(watched.out / "metrics.jsonl") if "health/rankme" in line]
    assert [line["step"] for line in logged] == [2, 4]
    assert any(key.startswith("health/grad_norm/encoder") for key in logged[0])
    assert not (plain.out / "health.jsonl").exists()
    (_, a), (_, b) = load_card(watched.out), load_card(plain.out)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_collapse_stops_the_run_if_asked_for(catalog, tmp_path, monkeypatch):
    fallen = Verdict("collapsed", "all samples look the same", "a lower lr")
    monkeypatch.setattr(_health, "verdict", lambda _values, _first: fallen)
    config = PretrainConfig(data=catalog, out=tmp_path / "a", stop_on_collapse=True, **OPTIONS)
    with pytest.raises(MedsslError, match="collapsed at step 2: all samples") as caught:
        pretrain.run(config)
    assert caught.value.exit_code == 1
    assert "a lower lr" in caught.value.fix
    assert checkpoints(tmp_path / "a" / "checkpoints")
    assert lines(tmp_path / "a" / "health.jsonl")[-1]["state"] == "collapsed"
    other = config.model_copy(update={"out": tmp_path / "b", "stop_on_collapse": False})
    assert pretrain.run(other).result["health"].startswith("collapsed")


@pytest.mark.parametrize(
    ("batch", "every", "crop", "ranks", "samples"),
    [
        (64, 100, (224, 224), 1, 128),  # the most
        (8, 100, (64, 64, 64), 1, 40),  # a tenth of what is trained on meanwhile
        (8, 1000, (96, 96, 96), 1, 37),  # 256 MiB
        (2, 2, (16, 32, 16), 1, 16),  # the fewest
        (8, 1000, (96, 96, 96), 2, 36),  # equal parts
    ],
)
def test_size_of_the_probe(batch, every, crop, ranks, samples):
    config = SimpleNamespace(batch_size=batch, check_every=every)
    assert _health.samples_of_probe(config, crop, 1, ranks) == samples


@pytest.mark.parametrize(("step", "state"), [(5, "healthy"), (6, "shrinking")])
def test_fewer_directions_are_no_news_in_the_warm_up(tmp_path, step, state):
    shrunk = {"rankme": 2.0, "lidar": 2.0, "feature_std": 0.5}
    first = {"rankme": 20.0, "lidar": 20.0, "feature_std": 0.5}
    run = Run("pretrain", tmp_path)
    watch = _health.HealthWatch(
        lambda _task: shrunk, Fabric(accelerator="cpu"), run, first, False, True, warmup=5
    )
    watch(step, torch.nn.Identity())
    assert watch.state == state


def relabelled(catalog, folder, **columns):
    """A copy of the catalog whose records have these values in turn."""
    shutil.copytree(catalog, folder)
    table = pl.read_parquet(folder / "records.parquet")
    values = {
        name: pl.Series(name, [given[k % len(given)] for k in range(table.height)])
        for name, given in columns.items()
    }
    table.with_columns(**values).write_parquet(folder / "records.parquet")
    return folder


@pytest.fixture(scope="module")
def two_sites(tmp_path_factory):
    """Sixteen volumes: every other one of a site with a smooth gain, blur and coarse noise."""
    base = tmp_path_factory.mktemp("sites")
    for seed in range(16):
        x_DHW, _ = volume(seed)
        if seed % 2:
            ramp = np.linspace(0.3, 1.7, x_DHW.shape[0])[:, None, None]
            noise = np.random.default_rng(seed).normal(0, 80, x_DHW.shape)
            x_DHW = gaussian_filter(x_DHW * ramp, 2.5) + gaussian_filter(noise, 0.8)
        save(base / "archive" / f"scan_{seed:03d}.nii.gz", x_DHW)
    split = {"train": 1.0, "val": 0.0, "test": 0.0}
    index.run(index.IndexConfig(archive=base / "archive", out=base / "catalog", split=split,
                                quiet=True))  # fmt: skip
    return relabelled(base / "catalog", base / "named", site_id=["a", "b"],
                      body_part=["HEAD", "HEAD", "CHEST", "CHEST"])  # fmt: skip


def test_a_planted_shortcut_is_reported_while_it_trains_and_changes_nothing(
    two_sites, tmp_path, capsys
):
    options = {**OPTIONS, "quiet": False}
    watched = pretrain.run(PretrainConfig(data=two_sites, out=tmp_path / "a", **options))
    found = lines(watched.out / "health.jsonl")
    assert found[-1]["knn/site_id"] > 0.5
    assert found[-1]["knn/body_part"] < 0.5
    assert "site_id" in found[-1]["shortcut"]
    assert watched.result["shortcut"] == found[-1]["shortcut"]
    assert "a shortcut" in " ".join(capsys.readouterr().err.split())
    plain = pretrain.run(
        PretrainConfig(data=two_sites, out=tmp_path / "b", health=False, **OPTIONS)
    )
    (_, a), (_, b) = load_card(watched.out), load_card(plain.out)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_without_free_labels_nothing_is_read_out(catalog, tmp_path):
    run = pretrain.run(PretrainConfig(data=catalog, out=tmp_path / "a", **OPTIONS))
    assert not any(key.startswith("knn") for key in lines(run.out / "health.jsonl")[-1])
    assert "shortcut" not in run.result
