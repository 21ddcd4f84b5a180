"""predict on videos: tables, ribbons, a ledger for what cannot be read, and the online mode."""

import csv
import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medssl.core.config import Component
from medssl.core.errors import NothingUsableError, ReadError, UsageError
from medssl.core.preprocess import Contract
from medssl.core.seeding import seed_everything
from medssl.encoders._base import build_encoder
from medssl.encoders.card import Card, save_model
from medssl.heads._temporal import TemporalConfig, TemporalNetwork
from medssl.heads.classification import Classifier
from medssl.inference.ribbon import WIDTH_PX, band
from medssl.stages._online import Clock
from medssl.stages.predict import PredictConfig, run
from tests.surgery_videos import encode, sound, surgery

SIDE = 64
NAMES = ("cut", "sew", "wash")


def model(folder, network="tcn", head="phase"):
    """A run with random weights."""
    seed_everything(0)
    part = Component(name="timm/test_resnet")
    encoder = build_encoder(part.name, {}, 3)
    options = TemporalConfig(network=network, maps=8, layers=3)
    card = Card(
        encoder=part, in_channels=3, channels=("red", "green", "blue"), modality="unknown",
        contract=Contract(fps=1.0, short_side_px=SIDE), patch_size=(SIDE, SIDE), head=head,
        labels=dict(enumerate(NAMES)), temporal=options.model_dump() if head == "phase" else {},
    )  # fmt: skip
    own = TemporalNetwork(encoder.width, 3, options)
    parts = {"temporal": own} if head == "phase" else {"classifier": Classifier(encoder.width, 3)}
    save_model(folder / "model", card, {"encoder": encoder, **parts})
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return model(tmp_path_factory.mktemp("ft"))


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """20 s at 5 frames per second, as a transport stream."""
    path = tmp_path_factory.mktemp("live") / "op.ts"
    surgery(path, [0, 1, 2, 0, 1], side=SIDE, codec="mpeg2video", rate=25)
    return path


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def predict(out, checkpoint, **more):
    return run(PredictConfig(out=out, checkpoint=checkpoint, device="cpu", **more))


def test_every_video_gets_a_table_and_a_ribbon_and_the_rest_a_reason(checkpoint, tmp_path):
    folder = tmp_path / "videos"
    surgery(folder / "a" / "op.mp4", [0, 1], side=SIDE)
    half = encode(folder / "half.avi", noise(40))
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    encode(folder / "one.mp4", noise(1))
    encode(folder / "large.mp4", noise(2, 720, 1280))
    (folder / "broken.mp4").write_bytes(b"\0" * 300)
    sound(folder / "sound.m4a")
    (folder / "notes.txt").write_text("x")
    done = predict(tmp_path / "out", checkpoint, input=folder)
    found = {p.relative_to(done.out).as_posix() for p in done.out.rglob("*_phases.*")}
    names = ("a/op", "half", "one", "large")
    assert found == {f"{name}_phases.{ending}" for name in names for ending in ("csv", "png")}
    assert (done.exit_code, done.result["predicted"]) == (4, 4)
    assert sum(done.result["quarantined"].values()) == 1
    assert "broken" not in (done.out / "quarantine.jsonl").read_text()
    rows = table(done.out / "a" / "op_phases.csv")
    assert list(rows[0]) == ["time_s", "phase", "probability"]
    assert [float(row["time_s"]) for row in rows] == [*range(8), 7.8]
    assert {row["phase"] for row in rows} <= set(NAMES)
    assert all(1 / 3 <= float(row["probability"]) <= 1 for row in rows)
    assert len(table(done.out / "one_phases.csv")) == 1
    assert 0 < len(table(done.out / "half_phases.csv")) < 9
    assert Image.open(done.out / "one_phases.png").size[0] == WIDTH_PX


def test_a_resumed_run_keeps_what_is_there(checkpoint, tmp_path):
    surgery(tmp_path / "v" / "a.mp4", [0], side=SIDE)
    predict(tmp_path / "out", checkpoint, input=tmp_path / "v")
    surgery(tmp_path / "v" / "b.mp4", [1], side=SIDE)
    again = predict(tmp_path / "out", checkpoint, input=tmp_path / "v", resume=True)
    assert (again.result["predicted"], again.result["kept"]) == (1, 1)


def test_a_tool_model_writes_a_probability_per_tool(tmp_path):
    surgery(tmp_path / "v" / "a.mp4", [0, 1], side=SIDE)
    done = predict(tmp_path / "out", model(tmp_path / "ft", head="tools"), input=tmp_path / "v")
    rows = table(done.out / "a_tools.csv")
    assert list(rows[0]) == ["time_s", *NAMES]
    assert all(0 <= float(row["sew"]) <= 1 for row in rows)


def test_a_folder_without_a_video_is_nothing_to_predict(checkpoint, tmp_path):
    sound(tmp_path / "sound.m4a")
    with pytest.raises(NothingUsableError):
        predict(tmp_path.parent / "out_n", checkpoint, input=tmp_path)


def test_the_ribbon_shows_each_phase_for_its_share_of_the_time():
    shown = band(np.array([0.0, 30.0, 90.0, 120.0]), np.array([0, 1, -1, 0]))
    for x, share in ((0, 1 / 4), (WIDTH_PX // 2, 1 / 2)):
        assert (shown[0] == shown[0, x]).all(1).sum() == pytest.approx(share * WIDTH_PX, abs=2)
    assert tuple(shown[0, -10]) == (128, 128, 128)


@pytest.mark.parametrize("network", ["tcn", "transformer"])
def test_online_gives_the_rows_of_the_whole_video(tmp_path, video, network):
    checkpoint = model(tmp_path / "ft", network)
    offline = predict(tmp_path / "a", checkpoint, input=video)
    online = predict(tmp_path / "b", checkpoint, online=str(video), patience_s=0.1)
    a, b = (table(one.out / "op_phases.csv") for one in (offline, online))
    # The whole video ends at 19.96 s: only who knows that takes this frame for that of 20 s.
    assert a.pop()["time_s"] == "19.960"
    assert [row["phase"] for row in a] == [row["phase"] for row in b]
    for key in ("time_s", "probability"):
        np.testing.assert_allclose(*([float(r[key]) for r in rows] for rows in (a, b)), atol=1e-3)
    report = json.loads((online.out / "run.json").read_text())
    assert report["predicted"] == 20
    assert report["decoded_frames"] == 476  # up to that of the last row
    assert report["real_time_factor"] > 1
    assert set(report["latency_s"]) == {"median", "p95", "most"}
    assert (online.out / "op_phases.png").is_file()


def test_a_growing_file_is_followed_and_each_row_is_there_at_once(checkpoint, tmp_path, video):
    growing, data = tmp_path / "op.ts", video.read_bytes()
    growing.write_bytes(data[: len(data) // 2])
    out = tmp_path / "out"
    done = []
    thread = threading.Thread(
        target=lambda: done.append(predict(out, checkpoint, online=str(growing), patience_s=15.0))
    )
    thread.start()
    path, until = out / "op_phases.csv", time.monotonic() + 90
    while not (path.exists() and len(table(path)) >= 8) and time.monotonic() < until:
        time.sleep(0.1)
    seen = len(table(path))
    with growing.open("ab") as file:
        file.write(data[len(data) // 2 :])
    thread.join(timeout=120)
    assert 8 <= seen < 12
    assert len(table(path)) == done[0].result["predicted"] == 20


def test_a_pipe_ends_when_its_writer_does(checkpoint, tmp_path, video):
    pipe = tmp_path / "op.pipe"
    os.mkfifo(pipe)
    thread = threading.Thread(target=lambda: pipe.write_bytes(video.read_bytes()))
    thread.start()
    found = predict(tmp_path / "out", checkpoint, online=str(pipe))
    thread.join()
    assert found.result["predicted"] == 20


def test_the_future_changes_no_row(checkpoint, tmp_path, video):
    """The first 10 s alone give the first rows of the whole."""
    short = tmp_path / "short.ts"
    short.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    a = predict(tmp_path / "a", checkpoint, online=str(short), patience_s=0.1)
    b = predict(tmp_path / "b", checkpoint, online=str(video), patience_s=0.1)
    rows, whole = table(a.out / "short_phases.csv"), table(b.out / "op_phases.csv")
    assert 8 <= len(rows) < 12
    assert rows == whole[: len(rows)]


@pytest.mark.slow
def test_two_hours_take_no_more_memory_than_ten_minutes(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "long.ts"
    small = noise(40, 32, 32)
    encode(path, (small[n % 40] for n in range(2 * 7200)), rate=2, codec="mpeg2video")
    note, memory_mb = Clock.note, []

    def noted(self, *given):
        note(self, *given)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        memory_mb.append(pages * os.sysconf("SC_PAGESIZE") / 2**20)

    monkeypatch.setattr(Clock, "note", noted)
    done = predict(tmp_path / "out", checkpoint, online=str(path), patience_s=0.5)
    assert done.result["predicted"] == len(memory_mb) == 7200
    assert memory_mb[-1] - memory_mb[600] < 20


def test_a_network_that_looks_ahead_is_refused_online(tmp_path, video):
    with pytest.raises(UsageError, match="looks ahead"):
        predict(tmp_path / "out", model(tmp_path / "ft", "tcn-offline"), online=str(video))


@pytest.mark.parametrize("kind", ["noise", "empty", "sound", "late_index"])
def test_sources_that_cannot_be_read_as_they_come_say_so(checkpoint, tmp_path, kind):
    path = tmp_path / f"x_{kind}.mp4"
    if kind == "late_index":
        surgery(path, [0], side=SIDE)
        path.write_bytes(path.read_bytes()[:1500])  # the index would come at the end
    elif kind == "sound":
        shutil.move(sound(tmp_path / "s.m4a"), path)
    else:
        path.write_bytes(b"\1" * 5000 if kind == "noise" else b"")
    with pytest.raises((ReadError, NothingUsableError)):
        predict(tmp_path / "out", checkpoint, online=str(path), patience_s=0.1)


def test_one_of_input_and_online_is_needed(checkpoint, tmp_path, video):
    for more in ({}, {"input": video.parent, "online": str(video)}):
        with pytest.raises(UsageError, match="one of input and online"):
            predict(tmp_path / "out", checkpoint, **more)
    with pytest.raises(UsageError, match="does not exist"):
        predict(tmp_path / "out", checkpoint, online=str(tmp_path / "nowhere.ts"))


def noise(count, height=SIDE, width=SIDE):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (height, width, 3), dtype=np.uint8) for _ in range(count)]
