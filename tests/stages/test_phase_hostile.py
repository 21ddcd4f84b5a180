"""Videos that are large, long, cut, mute or single, or lie: a result or a ledger row."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest

from medssl.archive import clips
from medssl.core.errors import NothingUsableError
from medssl.stages import predict
from medssl.stages._online import Clock
from medssl.stages.finetune import FinetuneConfig
from medssl.stages.finetune import run as finetune
from tests.surgery_videos import encode, phase_file, sound, surgery

SIDE = 32
PHASES = ("cut", "sew")
SMALL = {"maps": 8, "layers": 3}
HOURS_S = 6 * 3600


def noise(count, height=SIDE, width=SIDE):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (height, width, 3), dtype=np.uint8) for _ in range(count)]


def slow_frames(path, count, claimed=25, true_s=0.2):
    """Frames every 0.2 s in a container that says 25 per second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=claimed)
        stream.height = stream.width = SIDE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, x_HWC in enumerate(noise(count)):
            frame = av.VideoFrame.from_ndarray(x_HWC, format="rgb24")
            frame.pts = round(1000 * true_s * number)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def labelled(path, seconds=8, rate=5):
    """A good video: half of it one phase, half the other."""
    phases = surgery(path, [0, 1], rate=rate, seconds=seconds // 2, side=SIDE)
    phase_file(path.with_name(f"{path.stem}-phase.txt"), [PHASES[k] for k in phases])


def fit(data, out, **more):
    task = {"name": "phase", "temporal_steps": 2, "temporal": SMALL}
    options = {
        "task": task, "encoder": "timm/test_resnet", "size_px": SIDE, "steps": 2, "batch_size": 2,
        "quiet": True, "accelerator": "cpu", "skip_bad_cases": True,
    }  # fmt: skip
    return finetune(FinetuneConfig(data=data, out=out, **{**options, **more}))


def recognise(out, checkpoint, **more):
    return predict.run(predict.PredictConfig(out=out, checkpoint=checkpoint, device="cpu", **more))


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def hostile(folder):
    """One of each kind, with labels."""
    labelled(folder / "good.mp4")
    encode(folder / "huge.mp4", noise(3, 2160, 3840), rate=1)
    encode(folder / "one.mp4", noise(1))
    half = encode(folder / "half.avi", noise(40))
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    cut = encode(folder / "cut.mp4", noise(40))  # the tables at its end are missing
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    sound(folder / "mute.mp4")
    slow_frames(folder / "liar.mkv", 41)
    for name, frames in (("huge", 3), ("one", 1), ("half", 40), ("cut", 40), ("mute", 9)):
        phase_file(folder / f"{name}-phase.txt", [PHASES[n % 2] for n in range(frames)])
    phase_file(folder / "liar-phase.txt", [PHASES[n % 2] for n in range(41)])
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return hostile(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def model(videos, tmp_path_factory):
    return fit(videos, tmp_path_factory.mktemp("runs") / "ft")


def test_of_every_kind_what_can_be_read_is_learnt_and_the_rest_is_in_the_ledger(model):
    assert (model.exit_code, model.result["quarantined"]) == (4, 1)
    assert model.result["train_videos"] == 5  # good, huge, one, half, liar
    assert model.result["skipped"]["labels without a video"] == 1  # sound is no video
    [row] = [json.loads(line) for line in (model.out / "quarantine.jsonl").read_text().splitlines()]
    assert row["reason"] == "bad_container"


def test_of_every_kind_what_can_be_read_gets_a_table(model, videos, tmp_path):
    done = recognise(tmp_path / "out", model.out, input=videos)
    found = {path.name: len(table(path)) for path in done.out.glob("*_phases.csv")}
    half = found.pop("half_phases.csv")
    assert found == {
        "good_phases.csv": 9, "huge_phases.csv": 3, "one_phases.csv": 1, "liar_phases.csv": 9,
    }  # fmt: skip
    assert 0 < half < 9
    assert (done.exit_code, done.result["quarantined"]) == (4, {"bad_container": 1})


def test_times_are_those_of_the_frames_whatever_rate_the_file_states(model, videos, tmp_path):
    with av.open(str(videos / "liar.mkv")) as file:
        assert file.streams.video[0].guessed_rate == 25
    done = recognise(tmp_path / "out", model.out, input=videos / "liar.mkv")
    assert [float(row["time_s"]) for row in table(done.out / "liar_phases.csv")] == [*range(9)]


def test_sound_alone_is_nothing_to_predict(model, tmp_path):
    (tmp_path / "v").mkdir()
    sound(tmp_path / "v" / "mute.mp4")
    with pytest.raises(NothingUsableError):
        recognise(tmp_path / "out", model.out, input=tmp_path / "v")


@pytest.mark.slow
def test_six_hours_are_learnt_and_predicted_in_little_memory(tmp_path, monkeypatch):
    """Memory is that of a piece of the video, and a piece is small against six hours."""
    monkeypatch.setattr(clips, "PIECE_BYTES", 2 * 2**20)
    folder, small = tmp_path / "v", noise(40)
    encode(folder / "long.mp4", (small[n % 40] for n in range(HOURS_S)), rate=1)
    phase_file(folder / "long-phase.txt", [PHASES[n // 5000 % 2] for n in range(HOURS_S)])
    tracemalloc.start()
    trained = fit(folder, tmp_path / "ft")
    done = recognise(tmp_path / "out", trained.out, input=folder)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert trained.result["train_frames"] == len(table(done.out / "long_phases.csv")) == HOURS_S
    assert most < 120 * 2**20  # its frames as the encoder takes them: 253 MB


def whole_rows(path):
    text = path.read_text()
    assert text.endswith("\n")
    rows = table(path)
    assert all(row["phase"] in PHASES and 0.5 <= float(row["probability"]) <= 1 for row in rows)
    return rows


def test_ctrl_c_while_the_stream_runs_leaves_whole_rows(model, tmp_path, monkeypatch):
    surgery(tmp_path / "op.ts", [0, 1] * 5, side=SIDE, codec="mpeg2video", rate=25)
    note = Clock.note

    def noted(self, frame, *given):
        note(self, frame, *given)
        if frame.time_s > 11:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Clock, "note", noted)
    done = recognise(tmp_path / "out", model.out, online=str(tmp_path / "op.ts"))
    assert done.result["interrupted"]
    assert len(whole_rows(done.out / "op_phases.csv")) == done.result["predicted"] == 13
    assert (done.out / "op_phases.png").is_file()


@pytest.mark.slow
def test_ctrl_c_while_the_stream_waits_ends_it_with_whole_rows(model, tmp_path):
    surgery(tmp_path / "op.ts", [0, 1], side=SIDE, codec="mpeg2video", rate=25)
    words = ["predict", "--online", str(tmp_path / "op.ts"), "--checkpoint", str(model.out)]
    words += ["-o", str(tmp_path / "out"), "patience_s=600", "device=cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "medssl", *words], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    path, until = tmp_path / "out" / "op_phases.csv", time.monotonic() + 300
    while not (path.exists() and len(table(path)) >= 3) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    report = json.loads((tmp_path / "out" / "run.json").read_text())
    assert report["interrupted"]
    assert len(whole_rows(path)) == report["predicted"] >= 3
