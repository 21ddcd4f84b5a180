"""Masks of some frames of videos from end to end: a disk that grows and shrinks."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from medssl.archive.labelled_frames import load_frames
from medssl.archive.store import Store
from medssl.core.errors import MedsslError, ReadError, UsageError
from medssl.encoders.card import load_card, part_of
from medssl.stages import evaluate, predict, pretrain
from medssl.stages.finetune import FinetuneConfig, run
from tests.picture_archive import write_picture
from tests.surgery_videos import encode
from tests.us_dicom import banner_cine, save_us

SHAPE, RATE, FRAMES = (64, 80), 10, 12
FAST = {
    "task": "segmentation", "encoder": "timm/resnet10t", "crop": (64, 64), "size_px": 64,
    "steps": 2, "batch_size": 2, "accelerator": "cpu", "quiet": True, "check_every": 100,
}  # fmt: skip


def disk(t, seed):
    """Pixels of the disk in frame ``t``."""
    rng = np.random.default_rng(seed)
    middle = np.array(SHAPE) / 2 + rng.uniform(-6, 6, 2)
    radius = 14 + 6 * np.cos(2 * np.pi * t / FRAMES)
    h, w = np.indices(SHAPE)
    return np.hypot(h - middle[0], w - middle[1]) < radius


def write_video(path, seed, frames=FRAMES):
    rng = np.random.default_rng(seed)
    made = [
        np.clip(60 + 120 * disk(t, seed)[..., None] + rng.normal(0, 8, (*SHAPE, 3)), 0, 255).astype(
            np.uint8
        )
        for t in range(frames)
    ]
    return encode(path, made, RATE)


def write_mask(path, t, seed):
    write_picture(path, disk(t, seed).astype(np.uint8))
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Six videos, each with masks of its largest and its smallest disk."""
    folder = tmp_path_factory.mktemp("echo")
    for n in range(6):
        write_video(folder / "videos" / f"v{n}.mp4", n)
        for t in (0, FRAMES // 2):
            write_mask(folder / "masks" / f"v{n}" / f"{t:04d}.png", t, n)
    return folder / "videos"


def finetune(videos, out, labels=None, **more):
    labels = labels or videos.parent / "masks"
    return run(FinetuneConfig(data=videos, labels=labels, out=out, **{**FAST, **more}))


def predicted(checkpoint, source, out, **more):
    options = {"input": source, "out": out, "checkpoint": checkpoint, "device": "cpu", **more}
    return predict.run(predict.PredictConfig(**options))


def areas(out, name):
    with (out / f"{name}_areas.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(videos, tmp_path_factory):
    return finetune(videos, tmp_path_factory.mktemp("runs") / "ft", steps=60, lr=3e-3)


def test_two_frames_per_video_teach_all_frames_and_the_area_follows_the_truth(
    trained, videos, tmp_path
):
    assert trained.result["train_cases"] == 12
    new = tmp_path / "new"
    for n in (20, 21):
        write_video(new / f"w{n}.mp4", n)
        for t in (2, 9):
            write_mask(tmp_path / "ref" / f"w{n}" / f"{t}.png", t, n)
    done = predicted(trained.out, new, tmp_path / "out")
    assert done.result["predicted"] == 2
    rows = areas(tmp_path / "out", "w20")
    assert [int(row["frame"]) for row in rows] == list(range(FRAMES))
    truth = [disk(t, 20).sum() for t in range(FRAMES)]
    assert np.corrcoef(truth, [int(row["area_px"]) for row in rows])[0, 1] > 0.9
    mask = np.asarray(Image.open(tmp_path / "out" / "w20" / "000003.png"))
    assert mask.shape == SHAPE and set(np.unique(mask)) <= {0, 1}
    assert int(rows[3]["area_px"]) == mask.sum() and rows[3]["area_mm2"] == ""
    found = evaluate.run(
        evaluate.EvaluateConfig(
            task="segmentation",
            pred=tmp_path / "out",
            ref=tmp_path / "ref",
            out=tmp_path / "m.json",
        )
    ).result
    assert found["dice"]["mean"] > 0.8
    assert [row["case"] for row in found["cases"]] == ["w20/2", "w20/9", "w21/2", "w21/9"]


def test_the_card_says_frames_of_videos_and_the_side_of_a_frame(trained):
    card, _ = load_card(trained.out)
    assert card.videos and card.contract.short_side_px == 64
    assert (card.contract.fps, card.patch_size, card.head) == (None, (64, 64), "segmentation")


@pytest.mark.slow
def test_a_table_by_frame_or_by_time_gives_the_labels_of_the_folder(videos, tmp_path):
    masks = videos.parent / "masks"
    by_frame, by_time = ["video,frame,mask"], ["video,time_s,mask"]
    for file in sorted(masks.rglob("*.png")):
        by_frame.append(f"{file.parent.name}.mp4,{int(file.stem)},{file}")
        by_time.append(f"{file.parent.name},{int(file.stem) / RATE},{file}")
    digests = []
    for name, lines in (("f", by_frame), ("t", by_time)):
        table = tmp_path / f"{name}.csv"
        table.write_text("\n".join(lines))
        found = finetune(videos, tmp_path / name, labels=table)
        digests.append(load_card(found.out)[0].provenance["cases_digest"])
    found = finetune(videos, tmp_path / "folder")
    assert {*digests} == {load_card(found.out)[0].provenance["cases_digest"]}


@pytest.mark.slow
def test_all_frames_of_a_video_are_in_one_split(tmp_path):
    for n in range(12):
        write_video(tmp_path / "videos" / f"v{n}.mp4", n, frames=4)
        for t in range(3):
            write_mask(tmp_path / "masks" / f"v{n}" / f"{t}.png", t, n)
    found = finetune(tmp_path / "videos", tmp_path / "ft")
    assert (found.result["train_cases"], found.result["val_cases"]) == (30, 6)


def test_the_rate_of_the_model_decides_which_frames_are_predicted(videos, tmp_path):
    task = {"name": "segmentation", "fps": 5}
    found = finetune(videos, tmp_path / "ft", task=task)
    predicted(found.out, videos / "v0.mp4", tmp_path / "out")
    assert [int(row["frame"]) for row in areas(tmp_path / "out", "v0")] == [0, 2, 4, 6, 8, 10]
    write_mask(tmp_path / "ref" / "v0" / "3.png", 3, 0)
    config = evaluate.EvaluateConfig(
        task="segmentation", pred=tmp_path / "out", ref=tmp_path / "ref", out=tmp_path / "m.json"
    )
    with pytest.raises(MedsslError, match="was not predicted"):
        evaluate.run(config)


@pytest.mark.parametrize(
    ("change", "reason", "match"),
    [
        (lambda f: write_mask(f / "v0" / "99.png", 0, 0), "frame_missing", "has 12"),
        (
            lambda f: write_picture(f / "v0" / "3.png", np.ones((8, 8), np.uint8)),
            "label_shape_mismatch",
            "pixels, the frame",
        ),
    ],
)
def test_masks_that_do_not_fit_their_frame_are_named(videos, tmp_path, change, reason, match):
    write_mask(tmp_path / "masks" / "v0" / "0.png", 0, 0)
    change(tmp_path / "masks")
    with pytest.raises(ReadError, match="1 labelled cases cannot be used") as error:
        finetune(videos, tmp_path / "ft", labels=tmp_path / "masks")
    assert error.value.reason == reason and match in error.value.where


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("video,mask\nv0,m.png\n", "no masks of frames"),
        ("video,frame,mask\nv0,-1,m.png\n", "no number from 0 on"),
        ("video,time_s,mask\nv0,soon,m.png\n", "is no number"),
        ("video,frame,mask\nv0,0,gone.png\n", "a mask is missing"),
        ("video,frame,mask\nelsewhere,0,m.png\n", "no mask of a video that is here"),
        ("video,frame,mask\nv0,0,m.png\nv0.mp4,0,m.png\n", "a frame has 2 masks"),
        ("video,frame,mask\n,0,m.png\n", "names no video"),
        ("video,frame,mask,patient,split\nv0,0,m.png,p,train\nv1,0,m.png,p,val\n", "split"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(videos, tmp_path, text, match):
    write_mask(tmp_path / "m.png", 0, 0)
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=match):
        load_frames(videos, tmp_path / "labels.csv")


def test_videos_without_masks_and_masks_without_a_video_are_counted(videos, tmp_path):
    write_mask(tmp_path / "masks" / "v0" / "0.png", 0, 0)
    write_mask(tmp_path / "masks" / "gone" / "0.png", 0, 0)
    found = load_frames(videos, tmp_path / "masks")
    assert found.skipped == {"labels without a video": 1, "unlabelled": 5}


@pytest.mark.slow
def test_the_image_encoder_of_a_run_on_frames_is_loaded(videos, tmp_path):
    left, right = (tmp_path / "classes" / name for name in ("a", "b"))
    for n in range(4):
        write_video((left, right)[n % 2] / f"v{n}.mp4", n, frames=5)
    clips = run(
        FinetuneConfig(
            data=tmp_path / "classes", out=tmp_path / "clips", task="classification",
            **{k: v for k, v in FAST.items() if k not in {"task", "encoder", "crop"}},
            encoder="frames/timm/resnet10t", crop=(2, 64, 64),
        )
    )  # fmt: skip
    found = finetune(videos, tmp_path / "ft", init=clips.out, encoder=None)
    report = json.loads((found.out / "run.json").read_text())
    assert report["loaded_from_init"]["encoder_tensors"] > 50
    assert load_card(found.out)[0].encoder.name == "timm/resnet10t"


def test_the_image_branch_of_a_discovr_run_is_loaded(videos, tmp_path):
    small = {"prototypes": 16, "hidden": 16, "bottleneck": 8, "clusters": 8, "decoder_depth": 1}
    words = {"batch_size": 2, "steps": 1, "accelerator": "cpu", "quiet": True, "health": False}
    pre = pretrain.run(
        pretrain.PretrainConfig(
            data=videos, out=tmp_path / "pre", objective={"name": "discovr", **small},
            encoder="video_vit-xs", crop=(2, 64, 64), channels=3, size_px=64, **words,
        )
    )  # fmt: skip
    found = finetune(videos, tmp_path / "ft", init=pre.out, encoder=None, steps=1, lr=0.0)
    card, after = load_card(found.out)
    assert card.encoder.name == "frame_vit-xs"
    before = part_of(load_card(pre.out)[1], "image_encoder")
    assert all(torch.equal(after[f"encoder.net.{key}"], value) for key, value in before.items())


@pytest.mark.slow
def test_masks_follow_their_frame_through_the_cut_to_the_sector_and_areas_are_in_mm2(tmp_path):
    # A fan of speckle below a name: the frame is cut to the fan's box, the mask with it.
    speckle = banner_cine(6)
    bright = np.hypot(*(np.indices(speckle.shape[1:3]) - np.array([[[250]], [[320]]]))) < 60
    for n, side in enumerate("ab"):
        cine = np.where(bright[..., None], np.clip(speckle * 1.5 + 90, 0, 255), speckle / 2)
        save_us(
            tmp_path / "videos" / f"{side}.dcm", cine.astype(np.uint8), patient=f"p{n}",
            PixelSpacing=[0.5, 0.5],
        )  # fmt: skip
        write_picture(tmp_path / "masks" / side / "2.png", bright.astype(np.uint8))
    videos, masks = tmp_path / "videos", tmp_path / "masks"
    ft = finetune(videos, tmp_path / "ft", labels=masks, steps=40, lr=3e-3)
    card, _ = load_card(ft.out)
    store = Store(ft.out / "store", card.contract)
    [key, _] = [f.stem for f in store.folder.rglob("*.b2nd") if "label" not in f.name]
    entry = store.entry(key)
    x, y = (
        store.read(key, (0, 0, 0), entry.shape[1:]),
        store.read_labels(key, (0, 0, 0), entry.shape[1:]),
    )
    assert entry.shape[2] == 64 and x[:, 0, :8, :30].max() == 0  # the name is gone
    assert x[:, y == 1].mean() > x[:, y == 0].mean() + 0.3
    predicted(ft.out, videos, tmp_path / "out")
    rows = areas(
        tmp_path / "out", next(f.name[:-10] for f in (tmp_path / "out").glob("*_areas.csv"))
    )
    mm2 = [float(row["area_mm2"]) for row in rows]
    assert mm2 == pytest.approx([int(row["area_px"]) * 0.25 for row in rows])
    assert np.mean(mm2) == pytest.approx(np.pi * 30**2, rel=0.25)


def test_bad_videos_go_to_the_ledger_and_a_single_frame_gets_its_mask(trained, tmp_path):
    folder = tmp_path / "in"
    write_video(folder / "one.mp4", 1, frames=1)
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(300))
    done = predicted(trained.out, folder, tmp_path / "out")
    assert (done.exit_code, done.result["predicted"]) == (4, 1)
    assert [row["frame"] for row in areas(tmp_path / "out", "one")] == ["0"]


def test_labels_of_no_kind_are_refused(videos, tmp_path):
    (tmp_path / "masks" / "v0").mkdir(parents=True)
    with pytest.raises(UsageError, match="no masks here"):
        finetune(videos, tmp_path / "a", labels=tmp_path / "masks")
    write_mask(tmp_path / "masks" / "v0" / "first.png", 0, 0)
    with pytest.raises(UsageError, match="no number of a frame"):
        finetune(videos, tmp_path / "b", labels=tmp_path / "masks")
