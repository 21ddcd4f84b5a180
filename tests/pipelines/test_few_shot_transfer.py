"""From one procedure to another: which arm starts from what, and the whole pipeline in small."""

import json
from functools import partial

import pytest

from medssl.archive import phantom_surgery
from medssl.stages import phantom
from medssl.stages._compare_job import Job
from pipelines import few_shot_transfer
from pipelines._few_shot_transfer import ARMS, TransferArms, link_training
from pipelines._objective_arms import Backbone


@pytest.fixture
def arms(tmp_path):
    return TransferArms(
        out=tmp_path, data=tmp_path / "second", source=tmp_path / "first", pretrain="",
        finetune="few_shot_transfer", pool={}, groups={}, task="phase",
        backbones={"vit": Backbone({"name": "timm/test_vit3"}, (48, 64), {}, ARMS)},
    )  # fmt: skip


def test_arms_differ_in_what_they_start_from_alone(arms):
    jobs = [Job(name, 3, 1, 100) for name in arms.names()]
    assert [job.arm for job in jobs if arms.init(job) is None] == ["vit:random"]
    assert len({arms.init(job) for job in jobs}) == 4
    assert all(arms.labels_of(job) == arms.labels_of(jobs[0]) for job in jobs)
    steps = {job.arm: arms.recipe(job)["task.temporal_steps"] for job in jobs}
    assert set(steps.values()) == {100}


def test_only_training_videos_of_both_procedures_are_seen_without_labels(tmp_path):
    for procedure in ("first", "second"):
        for split in ("train", "val", "test"):
            video = tmp_path / procedure / "videos" / split / f"{split}.mp4"
            video.parent.mkdir(parents=True)
            video.touch()
    folders = [tmp_path / "first", tmp_path / "second"]
    seen = sorted(path.name for path in link_training(folders, tmp_path / "both").iterdir())
    assert seen == ["first_train.mp4", "second_train.mp4"]


@pytest.mark.slow
def test_smoke(tmp_path, monkeypatch):
    short = partial(phantom_surgery.write_operations, seconds=0.5)
    monkeypatch.setattr(phantom, "write_operations", short)
    out, table = tmp_path / "runs", tmp_path / "table.md"
    few_shot_transfer.main(out=out, smoke=True, results=table)
    rows = [line for line in table.read_text().splitlines() if line.startswith("| 1 | 2 |")]
    assert [row.split(" | ")[3] for row in rows] == ["random", "mae", "source", "curriculum"]
    turned = [json.loads(line) for line in (out / "source.jsonl").read_text().splitlines()]
    assert [(row["train_videos"], row["unlabelled_videos"]) for row in turned] == [(5, 0), (5, 5)]
    digests = [json.loads(line)["cases_digest"] for line in (out / "ledger.jsonl").open()]
    assert len(digests) == 4 and len(set(digests)) == 1
    assert "Phantoms only" in table.read_text()
    before = (out / "ledger.jsonl").read_text()
    few_shot_transfer.main(out=out, smoke=True, results=tmp_path / "again.md")
    assert (out / "ledger.jsonl").read_text() == before
