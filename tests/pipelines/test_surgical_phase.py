"""Phases from few labelled videos: which videos are tested on, and the whole pipeline in small."""

import json

import numpy as np
import pytest
from PIL import Image

from medssl.stages._compare_job import Job
from pipelines import surgical_phase
from pipelines._objective_arms import Backbone
from pipelines._surgical_phase import PhaseArms, link_tested, write_frames
from pipelines.surgical_phase import main
from tests.surgery_videos import surgery


@pytest.fixture
def arms(tmp_path):
    backbone = Backbone({"name": "timm/resnet10t"}, (48, 64), {}, ("moco", "moco@polyps"))
    return PhaseArms(
        out=tmp_path / "out", data=tmp_path / "data", pretrain="", finetune="surgical_phase",
        pool={}, groups={}, task="phase", measures={"f1": "F1", "accuracy": "accuracy"},
        backbones={"resnet10t": backbone},
    )  # fmt: skip


def test_an_eighth_a_quarter_and_all_of_the_training_videos_are_labelled():
    train = surgical_phase.VIDEOS * 5 // 8
    assert [n / train for n in surgical_phase.LABELS] == [0.125, 0.25, 1.0]


def test_arms_differ_in_what_they_start_from_alone(arms):
    names = arms.names()
    assert names == ["resnet10t:random", "resnet10t:moco", "resnet10t:moco@polyps"]
    jobs = [Job(name, 5, 0, 100) for name in names]
    assert [job.arm for job in jobs if arms.init(job) is None] == ["resnet10t:random"]
    assert len({arms.init(job) for job in jobs}) == 3
    assert arms.labels_of(jobs[0]) == arms.labels_of(jobs[1]) == arms.labels_of(jobs[2])
    assert arms.catalog("polyps") != arms.catalog()


def test_only_videos_to_test_on_are_tested(arms, tmp_path):
    link_tested(arms.data, arms.out / "test", ["video60"])
    videos, labels = arms.tested()
    assert [path.name for path in videos.iterdir()] == ["video60.mp4"]
    assert [path.name for path in labels.iterdir()] == ["video60-phase.txt"]
    assert next(videos.iterdir()).readlink().parent.name == "test"


def pictures(folder):
    rng = np.random.default_rng(0)
    for name in "abcdef":
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True, exist_ok=True)
            x_HWC = rng.integers(0, 255, (64, 80, 3), dtype=np.uint8)
            Image.fromarray(x_HWC).save(folder / part / f"{name}.jpg")
    return folder


def test_frames_are_those_of_every_second_and_written_once(tmp_path):
    surgery(tmp_path / "v" / "a.mp4", [0, 1], rate=5, seconds=2)
    folder = write_frames(tmp_path / "v", tmp_path / "frames")
    names = [path.name for path in sorted((folder / "a").iterdir())]
    assert names == ["000000.png", "000005.png", "000010.png", "000015.png", "000019.png"]
    (folder / "a" / names[0]).unlink()
    write_frames(tmp_path / "v", folder)
    assert len(list((folder / "a").iterdir())) == len(names) - 1


@pytest.mark.slow
def test_smoke(tmp_path):
    out, table = tmp_path / "runs", tmp_path / "table.md"
    main(out=out, pictures=pictures(tmp_path / "polyps"), smoke=True, results=table)
    rows = [line for line in table.read_text().splitlines() if line.startswith("| 2 | 2 |")]
    assert [row.split(" | ")[3] for row in rows] == ["random", "moco", "moco@polyps"]
    seen = [json.loads(line) for line in (out / "pretrained.jsonl").read_text().splitlines()]
    frames, pictures_seen = (row["records"] for row in seen)
    assert frames > 5 * 20  # of five videos, one per second
    assert pictures_seen == 4  # of six
    digests = [json.loads(line)["cases_digest"] for line in (out / "ledger.jsonl").open()]
    assert len(digests) == 3 and len(set(digests)) == 1
    assert "Phantoms only" in table.read_text()
    before = (out / "ledger.jsonl").read_text()
    main(out=out, pictures=tmp_path / "polyps", smoke=True, results=tmp_path / "again.md")
    assert (out / "ledger.jsonl").read_text() == before
    assert (tmp_path / "again.md").read_text() == table.read_text()
