"""finetune --task phase with videos of another procedure, and k labelled videos of that one."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from medssl.archive.labelled_videos import load_videos
from medssl.core.errors import ConfigError
from medssl.encoders.card import load_card
from medssl.stages import _finetune_video
from medssl.stages._finetune_video import choose_videos
from medssl.stages.finetune import FinetuneConfig, run
from tests.surgery_videos import phase_file, surgery

SIDE = 64
OVER_TIME = {"temporal_steps": 4, "temporal": {"maps": 8, "layers": 3, "dropout": 0.0}}
FAST = {
    "encoder": "timm/test_resnet", "size_px": SIDE, "steps": 4, "batch_size": 2,
    "quiet": True, "check_every": 100, "log_every": 1, "accelerator": "cpu",
}  # fmt: skip
SPLITS = {"train": 8, "val": 1, "test": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two procedures: ``source`` and ``target``, each with its splits and its own phases."""
    folder = tmp_path_factory.mktemp("procedures")
    for name, phases in (("source", ("cut", "sew")), ("target", ("dig", "fill", "mow"))):
        for split, videos in SPLITS.items():
            for number in range(videos if name == "target" else min(videos, 2)):
                stem = folder / name / split / f"{name}{split}{number}"
                order = list(range(len(phases)))
                shown = surgery(stem.with_suffix(".mp4"), order, seconds=2, side=SIDE, seed=number)
                phase_file(f"{stem}-phase.txt", [phases[k] for k in shown])
    return folder


def config(data, out, task=None, **more):
    task = {"name": "phase", **OVER_TIME, **(task or {})}
    return FinetuneConfig(data=data, out=out, task=task, **{**FAST, **more})


def test_frames_of_the_other_procedure_take_part_and_none_of_its_test(data, tmp_path):
    done = run(config(data / "source", tmp_path / "a", unlabelled=data / "target"))
    assert done.result["unlabelled_videos"] == SPLITS["train"]
    assert load_card(done.out)[0].labels == {0: "cut", 1: "sew"}
    lines = [json.loads(x) for x in (done.out / "metrics.jsonl").read_text().splitlines()]
    weights = [line["consistency_weight"] for line in lines if "consistency_weight" in line]
    assert weights[0] == 0 and np.diff(weights).min() > 0
    written = [f for f in done.out.rglob("*") if f.suffix in {".json", ".jsonl", ".yaml"}]
    assert not any(str(data) in file.read_text() for file in written)
    alone = run(config(data / "source", tmp_path / "b"))
    one, other = (load_card(r.out)[0].provenance["frames_digest"] for r in (done, alone))
    assert one != other


def test_the_teacher_starts_from_the_weights_of_init(data, tmp_path, monkeypatch):
    first = run(config(data / "source", tmp_path / "a"))
    seen = {}

    def stop(training, *_):
        seen["task"] = training.task
        raise InterruptedError

    monkeypatch.setattr(_finetune_video, "_phases", stop)
    with pytest.raises(InterruptedError):
        run(config(data / "source", tmp_path / "b", unlabelled=data / "target", init=first.out,
                   encoder=None))  # fmt: skip
    _, weights = load_card(first.out)
    teacher = seen["task"].teacher.encoder.state_dict()
    assert all(torch.equal(teacher[key], weights[f"encoder.{key}"]) for key in teacher)


def test_a_resumed_run_is_the_uninterrupted_one(data, tmp_path):
    more = {"unlabelled": data / "target", "check_every": 2}
    whole = run(config(data / "source", tmp_path / "a", **more))
    run(config(data / "source", tmp_path / "b", **more))
    for place in ("checkpoints", "model"):  # as if it had stopped after two steps
        for file in sorted((tmp_path / "b" / place).iterdir())[-1:]:
            file.unlink()
    again = run(config(data / "source", tmp_path / "b", **more, resume=True))
    a, b = (load_card(one.out)[1] for one in (whole, again))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_k_shots_are_k_whole_videos_and_none_of_the_query(data, seed):
    target = data / "target"
    labelled = load_videos(target)
    query = {case.name for case in labelled.cases if case.split == "test"}
    before = set()
    for k in (1, 2, 5, 8):
        support, val = choose_videos(labelled, config(target, data, labelled=k, seed=seed))
        names = Counter(case.name for case in support)
        assert len(names) == names.total() == k
        assert before <= names.keys()
        assert not names.keys() & (query | {case.name for case in val})
        before = set(names)


def test_tools_have_no_curriculum(data, tmp_path):
    with pytest.raises(ConfigError, match="task=phase"):
        run(FinetuneConfig(data=data, out=tmp_path, task="tools", unlabelled=data, **FAST))
