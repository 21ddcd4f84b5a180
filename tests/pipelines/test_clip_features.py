"""Frozen clip features: what is cut, what statistics see, and that a group cannot judge itself."""

import json

import numpy as np
import pytest
import torch

from medssl.archive.phantom_echo import write_hearts
from medssl.evaluation.classification import auroc
from pipelines._bench_clip_features import (
    GREY,
    RANDOM,
    Job,
    Looks,
    features,
    grey_statistics,
    random_encoder,
)
from pipelines._bench_hearts import ARMS, MEAN, Hearts
from pipelines._bench_hearts_page import page
from pipelines._bench_lung import judge

LOOKS = Looks(crop=(4, 32, 32), stride_ms=100.0, clips=2)


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    """Videos of two hearts."""
    folder = tmp_path_factory.mktemp("hearts")
    write_hearts(folder, hearts=2)
    return sorted((folder / "videos").iterdir())


def test_clips_are_cut_at_their_times_and_hold_the_sector(hearts):
    x = LOOKS.all(hearts)
    assert x.shape == (2, 2, 1, 4, 32, 32)
    assert x.min() >= 0 and x.max() <= 1 and x.std() > 0.1
    assert not np.array_equal(x[:, 0], x[:, 1])
    still = Looks(crop=(4, 32, 32), stride_ms=0.0, clips=1).of(hearts[0])
    assert np.ptp(still, axis=2).max() == 0


def test_grey_statistics_of_a_still_clip_have_no_spread_over_time():
    frame = np.random.default_rng(0).random((3, 1, 1, 1, 8, 8)).astype(np.float32)
    found = grey_statistics(np.repeat(frame, 5, axis=3))
    np.testing.assert_allclose(found[:, 0], frame.mean((1, 2, 3, 4, 5)), rtol=1e-6)
    np.testing.assert_allclose(found[:, 7:], 0, atol=1e-6)


def test_a_videos_vector_is_the_mean_over_its_clips(hearts):
    torch.manual_seed(0)
    encoder = random_encoder(0)
    x = LOOKS.of(hearts[0])[None]
    both = features(encoder, x)
    apart = [features(encoder, x[:, k : k + 1]) for k in range(2)]
    np.testing.assert_allclose(both, np.mean(apart, axis=0), atol=1e-6)


def test_what_separates_the_classes_in_every_group_is_found():
    rng = np.random.default_rng(0)
    sick, groups = np.arange(40) % 2, np.repeat(np.arange(5), 8)
    x = rng.normal(size=(40, 3))
    x += 6 * sick[:, None]
    found = judge(x, sick, groups)
    for name in ("linear", "knn"):
        assert ((found[name] > 0) == sick).all()
    for name in ("normal_knn", "normal_density"):
        assert auroc(sick == 1, found[name]) > 0.9


def test_a_group_that_can_be_recognised_alone_is_judged_no_better_than_chance():
    groups = np.repeat(np.arange(6), 10)
    sick = groups % 2
    x = np.eye(6)[groups] + 0.01 * np.random.default_rng(0).normal(size=(60, 6))
    found = judge(x, sick, groups)["linear"]
    assert ((found > 0) == sick).mean() <= 0.5


@pytest.mark.slow
def test_the_pipeline_writes_a_row_per_arm(tmp_path):
    bench = Hearts(tmp_path, trained=8, tested=4, samples=8)
    bench.prepare()
    ledger = tmp_path / "ledger.jsonl"
    wanted = [Job(arm, 0) for arm in (MEAN, GREY, RANDOM, "videomae")]
    rows = [{**job._asdict(), **bench.work(job)} for job in wanted]
    ledger.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = page(bench, ledger).splitlines()
    table = [line for line in lines if line.startswith("|")][2:]
    assert [line.split(" | ")[0].strip("| ") for line in table] == [job.arm for job in wanted]
    error = np.abs(bench.truth("train").mean() - bench.truth("test")).mean()
    assert np.mean(rows[0]["values"]) == pytest.approx(error, abs=1e-4)
    assert set(ARMS) > {job.arm for job in wanted}
