"""Pretraining on videos: clip encoders see clips, image encoders frames, and bad files a reason."""

import wave

import numpy as np
import pytest

from medssl.archive.catalog import Catalog
from medssl.archive.split import Fractions
from medssl.archive.store import Store
from medssl.core.config import load_config
from medssl.core.errors import ConfigError, NothingUsableError
from medssl.core.preprocess import Contract
from medssl.core.sample import Record
from medssl.encoders._base import build_encoder
from medssl.encoders.card import load_card
from medssl.stages import index, plan, pretrain
from medssl.stages._data import auto_crop
from medssl.stages._records import fill_store, select, stored
from medssl.stages._train import contract_of
from pipelines._video_files import RATE, STEP, encode, numbers_of

ALL = Fractions(train=1.0, val=0.0, test=0.0)
SMALL = {"size": (48, 160), "codec": "mpeg4"}
CLIPS = {
    "objective": "videomae", "encoder": "video_vit-xs", "crop": (4, 32, 32), "channels": 3,
    "size_px": 48, "clip": {"stride_ms": (66, 132)},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six plain videos, one of a single frame, one whose rate lies, and what else there is."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(6):
        encode(folder / f"clip{number}.avi", 30 + 10 * number, **SMALL)
    encode(folder / "one.avi", 1, **SMALL)
    # The header says 25 frames per second, the frames are two seconds apart.
    encode(folder / "lies.mp4", 20, times=range(0, 20 * 50 * STEP, 50 * STEP), size=(48, 160))
    encode(folder / "large.mp4", 5, size=(2160, 3840))
    encode(folder / "whole.mkv", 80, size=(48, 160))
    whole = (folder / "whole.mkv").read_bytes()
    (folder / "whole.mkv").unlink()
    (folder / "half.mkv").write_bytes(whole[: len(whole) // 2])
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(300))
    with wave.open(str(folder / "sound.wav"), "w") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    return folder


@pytest.fixture(scope="module")
def catalog(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("catalog") / "c"
    index.run(index.IndexConfig(archive=folder, out=out, quiet=True, split=ALL))
    return out


def config(catalog, out, **options):
    words = {"batch_size": 2, "steps": 2, "accelerator": "cpu", "quiet": True, "health": False}
    return pretrain.PretrainConfig(data=catalog, out=out, **{**words, **CLIPS, **options})


def test_a_clip_encoder_learns_from_videos_of_every_kind(catalog, tmp_path):
    done = pretrain.run(config(catalog, tmp_path / "run", health=True, check_every=2))
    # Six and one, the one that lies, the large and the half one; broken and sound are no records.
    assert done.result["records"] == 10
    card, _ = load_card(done.out)
    assert card.patch_size == (4, 32, 32)
    assert (card.contract.fps, card.contract.short_side_px) == (15.0, 48)


def test_an_image_encoder_learns_from_their_frames(catalog, tmp_path):
    flat = {"objective": "simclr", "encoder": "timm/resnet18", "crop": (64, 64)}
    done = pretrain.run(config(catalog, tmp_path / "run", **flat))
    assert done.result["records"] == 10


def test_frames_and_times_of_the_store_are_those_of_the_files(catalog, tmp_path):
    store = Store(tmp_path, Contract(fps=12.5))
    records = Catalog.open(catalog).records()
    fill_store(Catalog.open(catalog), records, store, 1.0)
    for entry in stored(records, store).entries:
        shown = store.read(entry.key, (0, 0, 0), entry.shape[1:])
        numbers = numbers_of(np.rint(shown * 255))
        if entry.times_s[-1] > 30:  # the one that lies: every frame, two seconds apart
            assert numbers == list(range(20))
            np.testing.assert_allclose(entry.times_s, 2 * np.arange(20), atol=1e-3)
        else:
            assert numbers == list(range(0, numbers[-1] + 1, 2))
            np.testing.assert_allclose(entry.times_s, np.array(numbers) / RATE, atol=1e-3)


def test_a_volume_encoder_says_what_clips_need(catalog, tmp_path):
    with pytest.raises(NothingUsableError, match="kind_clip") as caught:
        pretrain.run(config(catalog, tmp_path / "run", objective="mae", encoder="resenc-xs"))
    assert "video_vit" in caught.value.fix


def test_a_plan_counts_the_frames_that_the_store_will_hold(catalog, tmp_path):
    options = {"measure": False, "encoder": "video_vit-xs", "quiet": True}
    out = tmp_path / "plan.yaml"
    expected = plan.run(plan.PlanConfig(catalog=catalog, out=out, **options)).result
    given = {"data": catalog, "out": tmp_path / "run"}
    planned = load_config(pretrain.PretrainConfig, "pretrain", out, given)
    assert expected["options"]["objective"] == "videomae"
    kept = Catalog.open(catalog).records()
    usable, _ = select(kept, planned, channels=3, kind="clip", splits=("train",))
    store = Store(tmp_path / "store", contract_of(planned, 3, planned.fps))
    fill_store(Catalog.open(catalog), usable, store, 1.0)
    numbers = sum(np.prod(entry.shape) for entry in stored(usable, store).entries)
    assert expected["store_bytes"] == pytest.approx(2 * numbers, rel=0.1)


def test_an_objective_without_clips_is_refused(catalog, tmp_path):
    with pytest.raises(ConfigError, match=r"clips|clip"):
        pretrain.run(config(catalog, tmp_path / "run", objective="voco"))


def record(**changed):
    values = {
        "record_id": "r", "kind": "clip", "role": "image", "format": "video", "patient_id": "p",
        "study_id": "s", "series_id": "e", "shape": (3, 9, 48, 160), "dtype": "uint8",
        "duration_s": 1.0,
    }  # fmt: skip
    return Record(**(values | changed))


@pytest.mark.parametrize(
    ("kind", "fps", "reason"),
    [("clip", 15.0, "times_unknown"), ("clip", None, "times_unknown"),
     ("image", 15.0, "times_unknown"), ("image", None, "")],
)  # fmt: skip
def test_clips_without_times_are_for_encoders_of_single_frames(tmp_path, kind, fps, reason):
    options = config(tmp_path, tmp_path, fps=fps)
    unknown, known = record(duration_s=None), record()
    _, excluded = select([unknown, known], options, channels=3, kind=kind, splits=["train"])
    assert dict(excluded) == ({reason: 1} if reason else {})


def test_the_automatic_crop_of_clips_is_bounded():
    encoder = build_encoder("video_vit-xs", {}, 3)

    class Stored:
        shape, spacing_mm = (3, 900, 128, 228), (0.3, 0.3)

    class Short:
        shape, spacing_mm = (3, 5, 64, 90), None

    assert auto_crop([Stored()], encoder) == (16, 112, 112)
    assert auto_crop([Short()], encoder) == (6, 64, 96)
    image = build_encoder("timm/resnet18", {}, 3)
    assert auto_crop([Stored()], image) == (128, 224)


@pytest.mark.slow
def test_six_hours_of_video_are_stored(tmp_path):
    second = 25 * STEP
    folder = tmp_path / "videos"
    folder.mkdir()
    times = range(0, 6 * 3600 * second, second)
    encode(folder / "long.mp4", 6 * 3600, times=times, size=(48, 160))
    index.run(index.IndexConfig(archive=folder, out=tmp_path / "c", quiet=True))
    opened = Catalog.open(tmp_path / "c")
    store = Store(tmp_path / "store", Contract(fps=1.0, short_side_px=16))
    fill_store(opened, opened.records(), store, 0.0)
    [entry] = stored(opened.records(), store).entries
    assert entry.shape == (3, 6 * 3600, 16, 53)
