"""Classes of videos from end to end: only motion tells them apart, or what stands in a table."""

import csv
import json

import numpy as np
import pytest

from medssl.archive.store import Store
from medssl.core.errors import MedsslError, NothingUsableError, ReadError, UsageError
from medssl.encoders.card import load_card
from medssl.heads.classification import load_model
from medssl.readers._read import record
from medssl.stages import evaluate, predict
from medssl.stages._clip_windows import clip_probabilities, file_clip, stored_clip
from medssl.stages._predict_case import Window
from medssl.stages.finetune import FinetuneConfig, run
from tests.surgery_videos import encode, sound

SIDE, RATE = 48, 10
NAMES = ("left", "right")
FAST = {
    "task": "classification", "encoder": "video_vit-xs", "crop": (4, 32, 32), "size_px": 32,
    "steps": 2, "batch_size": 2, "accelerator": "cpu", "quiet": True, "check_every": 100,
}  # fmt: skip


def wave(path, right, seed, frames=24, rate=RATE):
    """Stripes that move to the left or to the right; no single frame tells which."""
    rng = np.random.default_rng(seed)
    column, phase = np.arange(SIDE), rng.uniform(0, 2 * np.pi)
    step = (1 if right else -1) * np.pi / 4
    made = []
    for t in range(frames):
        x_W = 120 + 80 * np.sin(2 * np.pi * column / 16 - phase - step * t)
        x_HWC = np.broadcast_to(x_W[None, :, None], (SIDE, SIDE, 3))
        made.append(np.clip(x_HWC + rng.normal(0, 4, x_HWC.shape), 0, 255).astype(np.uint8))
    return encode(path, made, rate)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Eight videos, in class folders, and a table that says the same."""
    folder = tmp_path_factory.mktemp("videos")
    lines = ["video,label"]
    for n in range(8):
        wave(folder / NAMES[n % 2] / f"v{n}.mp4", n % 2, n)
        lines.append(f"v{n},{NAMES[n % 2]}")
    (folder.parent / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def labels(videos):
    return videos.parent / "labels.csv"


def finetune(data, out, **more):
    return run(FinetuneConfig(data=data, out=out, **{**FAST, **more}))


@pytest.fixture(scope="module")
def trained(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "ft"
    return finetune(videos, out, steps=3)


def table(out):
    with (out / "classes.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_table_and_class_folders_give_the_same_model(videos, labels, trained, tmp_path):
    other = finetune(videos, tmp_path / "ft", labels=labels, steps=3)
    assert other.result["train_cases_per_class"] == [4, 4]
    a, b = (load_card(one.out)[0] for one in (trained, other))
    assert (a.labels, a.clip, a.contract) == (b.labels, b.clip, b.contract)
    assert a.labels == dict(enumerate(NAMES))
    assert (a.contract.fps, a.contract.short_side_px, a.clip.stride_ms) == (15.0, 32, (66.0, 66.0))


@pytest.mark.slow
def test_motion_is_learnt_and_evaluated_on_new_videos(videos, tmp_path):
    ft = finetune(
        videos, tmp_path / "ft", steps=150, batch_size=8, lr=1e-3,
        task={"name": "classification", "clip": {"stride_ms": (100, 100)}, "scale": (1, 1),
              "rotate_deg": 0, "fps": RATE},
    )  # fmt: skip
    new = tmp_path / "new"
    lines = ["video,label"]
    for n in range(6):
        wave(new / f"w{n}.mp4", n % 2, 100 + n)
        lines.append(f"w{n}.mp4,{NAMES[n % 2]}")
    (tmp_path / "ref.csv").write_text("\n".join(lines))
    out = tmp_path / "pred"
    predict.run(predict.PredictConfig(input=new, out=out, checkpoint=ft.out, device="cpu"))
    found = evaluate.run(
        evaluate.EvaluateConfig(
            task="classification", pred=out, ref=tmp_path / "ref.csv", out=tmp_path / "m.json"
        )
    )
    assert found.result["accuracy"]["mean"] > 0.8


def test_predict_writes_a_row_per_video_and_bad_files_go_to_the_ledger(trained, videos, tmp_path):
    folder = tmp_path / "in"
    for n in range(2):
        (folder / f"v{n}.mp4").parent.mkdir(exist_ok=True)
        (folder / f"v{n}.mp4").write_bytes((videos / NAMES[n % 2] / f"v{n}.mp4").read_bytes())
    wave(folder / "one.mp4", True, 0, frames=1)
    whole = wave(tmp_path / "whole.mkv", True, 3, frames=80).read_bytes()
    (folder / "half.mkv").write_bytes(whole[: len(whole) // 2])
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(300))
    sound(folder / "sound.mp4")
    out = tmp_path / "out"
    done = predict.run(
        predict.PredictConfig(input=folder, out=out, checkpoint=trained.out, device="cpu")
    )
    assert done.exit_code == 4
    rows = table(out)
    assert len(rows) == 4  # the one of a single frame, and what is there of the half one, too
    assert all(float(row["p_left"]) + float(row["p_right"]) == pytest.approx(1) for row in rows)
    assert str(folder) not in (out / "quarantine.jsonl").read_text()


def test_a_file_and_the_store_give_the_same_probabilities(trained, videos):
    model, card = load_model(trained.out, "cpu")
    [path] = videos.rglob("v3.mp4")
    clip = file_clip(record(path), card)
    window = Window(overlap=0.0, batch_windows=2)
    store = Store(trained.out / "store", card.contract)
    keys = [file.stem for file in store.folder.rglob("*.b2nd")]
    from_store = [
        clip_probabilities(model, stored_clip(store, store.entry(key)), card, window)
        for key in keys
    ]
    found = clip_probabilities(model, clip, card, window)
    assert any((one == found).all() for one in from_store)


@pytest.mark.parametrize("name", ["v1", "v1.mp4", "right/v1", "right/v1.mp4"])
def test_references_name_videos_by_any_end_of_their_path(trained, videos, tmp_path, name):
    out = tmp_path / "pred"
    predict.run(
        predict.PredictConfig(
            input=videos / "right" / "v1.mp4", out=out, checkpoint=trained.out, device="cpu"
        )
    )
    ref = tmp_path / "ref.csv"
    ref.write_text(f"video,label,patient\n{name},right,p1\n")
    config = evaluate.EvaluateConfig(
        task="classification", pred=out, ref=ref, out=tmp_path / "m.json"
    )
    found = evaluate.run(config).result
    assert found["accuracy"]["n"] == 1
    assert found["cases"][0]["label"] == "right"
    ref.write_text("video,label\nv1,right\nv2,left\n")
    with pytest.raises(MedsslError, match="a reference has no prediction"):
        evaluate.run(config.model_copy(update={"overwrite": True}))


def test_videos_without_label_and_labels_without_video_are_counted(videos, labels, tmp_path):
    rows = labels.read_text().splitlines()
    some = tmp_path / "labels.csv"
    some.write_text("\n".join([*rows[:5], "v5,", "elsewhere,left"]))
    found = finetune(videos, tmp_path / "ft", labels=some)
    assert found.result["train_cases"] == 4
    assert found.result["skipped"] == {"labels without a video": 1, "unlabelled": 4}


def test_labels_of_one_class_are_refused(videos, tmp_path):
    one = tmp_path / "labels.csv"
    one.write_text("video,label\nv0,left\nv2,left\n")
    with pytest.raises(UsageError, match="has 1 class"):
        finetune(videos, tmp_path / "ft", labels=one)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("video,frame,label\nv0,0,left\nv1,0,right\n", "of frames, not of videos"),
        ("video,label\nv0,left\nv0.mp4,right\n", "labelled twice"),
        ("video,label\nx,left\ny,right\n", "no labels of a video that is here"),
        ("video,label\n,left\nv1,right\n", "names no video"),
        ("video,label\nv0,left\nv1,Left\n", "upper and lower case"),
        ("video,label,patient,split\nv0,left,p,train\nv1,right,p,val\n", "split"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(videos, tmp_path, text, match):
    table = tmp_path / "labels.csv"
    table.write_text(text)
    with pytest.raises(UsageError, match=match):
        finetune(videos, tmp_path / "ft", labels=table)


def test_clips_shorter_than_the_crop_and_a_batch_of_one_are_learnt_from(tmp_path):
    for n in range(4):
        wave(tmp_path / "v" / NAMES[n % 2] / f"v{n}.mp4", n % 2, n, frames=1 + n)
    found = finetune(tmp_path / "v", tmp_path / "ft", batch_size=1, crop=(8, 32, 32))
    assert found.result["train_cases"] == 4


def test_a_damaged_video_is_named_or_left_out_as_asked_for(videos, labels, tmp_path):
    folder = tmp_path / "v"
    folder.mkdir()
    for file in videos.rglob("*.mp4"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "v0.mp4").write_bytes(b"\0" * 200)
    with pytest.raises(ReadError, match="1 labelled cases cannot be used") as error:
        finetune(folder, tmp_path / "a", labels=labels)
    assert "v0" in error.value.where
    found = finetune(folder, tmp_path / "b", labels=labels, skip_bad_cases=True)
    assert (found.exit_code, found.result["train_cases"]) == (4, 7)


def test_encoders_of_another_kind_are_refused_with_one_that_fits(videos, tmp_path):
    with pytest.raises(UsageError, match="takes pictures, the data set holds clips") as error:
        finetune(videos, tmp_path / "a", encoder="timm/test_resnet", crop=(32, 32))
    assert "frames/timm/test_resnet" in error.value.fix
    with pytest.raises(UsageError, match="takes volumes, the data set holds clips"):
        finetune(videos, tmp_path / "b", encoder="resenc-xs", crop=(16, 32, 32))


@pytest.mark.parametrize("encoder", ["frames/timm/test_resnet", "pytorchvideo/x3d_s"])
def test_other_encoders_of_clips_work_too(videos, tmp_path, encoder):
    crop = (4, 64, 64)
    found = finetune(videos, tmp_path / "ft", encoder=encoder, crop=crop, labelled=4)
    card, _ = load_card(found.out)
    assert (card.patch_size, card.head) == (crop, "classification")
    done = predict.run(
        predict.PredictConfig(
            input=videos / "left", out=tmp_path / "p", checkpoint=found.out, device="cpu"
        )
    )
    assert done.result["predicted"] == 4


def test_a_folder_without_videos_is_named(labels, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingUsableError, match="no video here"):
        finetune(tmp_path / "empty", tmp_path / "ft", labels=labels)


def test_frames_and_clips_are_those_of_init_unless_told(videos, trained, tmp_path):
    task = {"name": "classification", "fps": 5, "clip": {"stride_ms": (200, 400)}}
    first = finetune(videos, tmp_path / "a", task=task)
    again = finetune(videos, tmp_path / "b", init=first.out, encoder=None, size_px=None)
    card, _ = load_card(again.out)
    assert (card.contract.fps, card.contract.short_side_px) == (5, 32)
    assert card.clip.stride_ms == (200, 400)
    report = json.loads((again.out / "run.json").read_text())
    assert report["loaded_from_init"]["encoder_tensors"] > 0
