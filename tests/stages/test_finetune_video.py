"""finetune --task phase and tools: from a folder of videos to a model, in one command."""

import json

import numpy as np
import pytest
import torch

from medssl.archive.labelled_videos import load_videos
from medssl.core.errors import ConfigError, ReadError, UsageError
from medssl.encoders.card import load_card
from medssl.heads import phase as phase_head
from medssl.stages._finetune_video import choose_videos
from medssl.stages.finetune import FinetuneConfig, run
from tests.surgery_videos import encode, phase_file, surgery, tool_file

SIDE = 64
PHASES = ("cut", "sew", "wash")
ORDERS = ([0, 1, 2], [0, 2, 1], [0, 1, 2], [1, 0, 2])
FAST = {
    "encoder": "timm/test_resnet", "size_px": SIDE, "steps": 12, "batch_size": 4, "lr": 1e-3,
    "quiet": True, "check_every": 100, "log_every": 5, "accelerator": "cpu",
}  # fmt: skip
OVER_TIME = {"temporal_steps": 20, "temporal": {"maps": 8, "layers": 3, "dropout": 0.0}}


def finetune(data, out, task=None, **more):
    task = task or {"name": "phase", **OVER_TIME}
    return run(FinetuneConfig(data=data, out=out, task=task, **{**FAST, **more}))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Four videos of 12 s, each phase has its colour; the last one is for validation."""
    folder = tmp_path_factory.mktemp("videos")
    for number, order in enumerate(ORDERS):
        split = "val" if number == 3 else "train"
        name = folder / split / f"video0{number}"
        phases = surgery(name.with_suffix(".mp4"), order, side=SIDE, seed=number)
        phase_file(f"{name}-phase.txt", [PHASES[k] for k in phases])
        tools = [[int(k == 1), int(k < 2)] for k in phases[::5]]
        tool_file(f"{name}-tool.txt", ("needle", "grasper"), tools, every=5)
    return folder


@pytest.fixture(scope="module")
def trained(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "ft"
    task = {"name": "phase", **OVER_TIME, "temporal_steps": 200, "temporal_lr": 5e-3}
    return finetune(videos, out, task, steps=60)


def test_both_stages_run_in_one_command_and_the_model_reloads(trained):
    model, card = phase_head.load_model(trained.out, "cpu")
    assert card.labels == dict(enumerate(PHASES))
    assert (card.head, card.contract.fps, card.contract.short_side_px) == ("phase", 1.0, SIDE)
    assert card.parts == ("encoder", "temporal")
    assert (model.temporal.past, model.temporal.future) == (28, 0)
    report = json.loads((trained.out / "run.json").read_text())
    assert (report["train_videos"], report["val_videos"]) == (3, 1)
    assert report["train_frames"] == 3 * 13  # second 0 to 12; the last one is 0.2 s early
    lines = (trained.out / "temporal" / "metrics.jsonl").read_text().splitlines()
    assert "smoothing" in json.loads(lines[0])


def test_colours_are_learnt(trained):
    assert trained.result["best_val_accuracy"] > 0.9
    card, _ = load_card(trained.out, best=True)
    assert card.provenance["val_accuracy"] == trained.result["best_val_accuracy"]


def test_no_path_is_written_into_the_run(trained, videos):
    for file in trained.out.rglob("*"):
        if file.is_file() and file.suffix in {".json", ".jsonl", ".yaml"}:
            assert str(videos) not in file.read_text()


def test_a_frozen_encoder_stays_bit_for_bit_and_the_first_stage_is_left_out(videos, tmp_path):
    first = finetune(videos, tmp_path / "a", {"name": "phase", "freeze_encoder": True, **OVER_TIME})
    assert not (first.out / "checkpoints").exists()
    again = finetune(
        videos, tmp_path / "b", {"name": "phase", "freeze_encoder": True, **OVER_TIME},
        init=first.out, encoder=None, seed=7,
    )  # fmt: skip
    before, after = (load_card(one.out)[1] for one in (first, again))
    same = {k: torch.equal(before[k], after[k]) for k in before if k.startswith("encoder.")}
    assert same and all(same.values())


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(videos, tmp_path):
    whole = finetune(videos, tmp_path / "a")
    finetune(videos, tmp_path / "b")
    for place in ("model", "temporal/checkpoints"):  # as if it had stopped within the second stage
        for file in sorted((tmp_path / "b" / place).iterdir())[-1:]:
            file.unlink()
    again = finetune(videos, tmp_path / "b", resume=True)
    a, b = (load_card(one.out)[1] for one in (whole, again))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_tools_are_trained_and_judged_by_average_precision(videos, tmp_path):
    found = finetune(videos, tmp_path / "t", {"name": "tools"}, steps=40)
    card, weights = load_card(found.out)
    assert card.labels == {0: "needle", 1: "grasper"}
    assert weights["classifier.linear.weight"].shape[0] == 2
    assert found.result["best_val_map"] > 0.9


def test_labels_may_lie_elsewhere(videos, tmp_path):
    rows = [f"{split}/video0{n},{s},{'cut' if s < 6 else 'sew'}"
            for n, split in enumerate(("train", "train")) for s in range(12)]  # fmt: skip
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["video,time_s,label", *rows]))
    found = finetune(videos, tmp_path / "ft", labels=table, steps=2)
    assert found.result["train_videos"] == 2
    assert found.result["skipped"]["unlabelled"] == 2


def test_named_phases_keep_their_order_and_one_may_be_absent(videos, tmp_path):
    names = ["wash", "sew", "cut", "close"]
    task = {"name": "phase", "phases": names, **OVER_TIME}
    found = finetune(videos, tmp_path / "ft", task, steps=2)
    assert list(load_card(found.out)[0].labels.values()) == names


def test_a_damaged_video_is_named_or_left_out_as_asked_for(videos, tmp_path):
    folder = tmp_path / "v"
    for file in (videos / "train").iterdir():
        (folder / file.name).parent.mkdir(exist_ok=True)
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "video00.mp4").write_bytes(b"\0" * 200)
    with pytest.raises(ReadError, match="1 labelled cases cannot be used") as error:
        finetune(folder, tmp_path / "a")
    assert "video00" in error.value.where
    found = finetune(folder, tmp_path / "b", skip_bad_cases=True, steps=2)
    assert (found.exit_code, found.result["quarantined"], found.result["train_videos"]) == (4, 1, 2)
    assert (found.out / "quarantine.jsonl").is_file()


def test_one_frame_videos_and_videos_whose_labels_miss_them_do_not_break_a_run(videos, tmp_path):
    folder = tmp_path / "v"
    folder.mkdir()
    for file in (videos / "train").glob("video0[12]*"):
        (folder / file.name).write_bytes(file.read_bytes())
    encode(
        folder / "one.mp4", [np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)]
    )
    phase_file(folder / "one-phase.txt", ["cut"])
    surgery(folder / "none.mp4", [0], side=SIDE)
    phase_file(folder / "none-phase.txt", [""] * 3)
    found = finetune(folder, tmp_path / "ft", steps=2)
    assert found.result["train_videos"] == 3
    assert found.result["label_flags"]["without_labelled_frame"] == 1


def test_one_phase_in_every_training_video_is_refused(tmp_path):
    surgery(tmp_path / "a.mp4", [0], side=SIDE)
    phase_file(tmp_path / "a-phase.txt", ["cut"] * 20)
    with pytest.raises(UsageError, match="name 1 phases"):
        finetune(tmp_path, tmp_path.parent / "ft")


def test_several_devices_and_labels_of_pictures_are_refused(videos, tmp_path):
    with pytest.raises(ConfigError, match="one device"):
        finetune(videos, tmp_path / "a", devices=2)
    with pytest.raises(UsageError, match="no masks here"):
        finetune(videos, tmp_path / "b", "segmentation", labels=videos)
    with pytest.raises(UsageError, match="are no table"):
        finetune(videos, tmp_path / "c", "classification", labels=videos)


class _Listed:
    """Forty videos without files."""

    def __init__(self, count):
        from medssl.archive.labelled_videos import VideoCase
        from medssl.archive.tracks import whole

        self.cases = tuple(
            VideoCase(name=f"v{n:02}", images=(), label=None, patient=f"v{n:02}",
                      track=whole(f"v{n:02}", "cut"))
            for n in range(count)
        )  # fmt: skip


def chosen(labelled, seed=0, count=40):
    config = FinetuneConfig(data=".", out="x", task="phase", labelled=labelled, seed=seed)
    return [{case.name for case in group} for group in choose_videos(_Listed(count), config)]


def test_an_eighth_of_40_videos_is_5_and_a_quarter_10_of_which_they_are_part():
    for seed in range(3):
        (fifth, no_val), (tenth, val) = (chosen(round(s * 40), seed) for s in (0.125, 0.25))
        assert (len(fifth), no_val) == (5, set())
        assert len(tenth | val) == 10
        assert fifth <= tenth | val
    assert chosen(5, 0)[0] != chosen(5, 1)[0]


def test_no_video_trains_and_validates():
    train, val = chosen(None)
    assert (len(train), len(val), train & val) == (32, 8, set())


def test_steps_do_not_depend_on_the_number_of_videos():
    assert FinetuneConfig(data=".", out="x", task="phase", labelled=5).steps == (
        FinetuneConfig(data=".", out="x", task="phase").steps
    )


def test_load_videos_of_the_fixture(videos):
    assert load_videos(videos).names == PHASES
