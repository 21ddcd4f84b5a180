"""Frames of streams: which ones, that they are the file's own, and ends of all kinds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl.core.clips import kept_frames
from medssl.core.errors import ReadError
from medssl.readers._read import read
from medssl.readers._video_live import Growing, Ticks, live_frames
from tests.surgery_videos import encode, sound


def frames_of(path, fps=1.0, side=None):
    return list(live_frames(str(path), fps=fps, short_side_px=side, patience_s=0.1))


def moving(count, height=32, width=48):
    ramp = np.linspace(0, 200, width, dtype=np.uint8)
    return [
        np.broadcast_to(np.roll(ramp, n)[None, :, None], (height, width, 3)) for n in range(count)
    ]


@pytest.mark.parametrize(("name", "codec"), [
    ("x.ts", "mpeg2video"), ("x.ts", "h264"), ("x.mkv", "h264"), ("x.avi", "mpeg4"),
])  # fmt: skip
def test_frames_are_those_of_the_file_at_every_second(tmp_path, name, codec):
    path = encode(tmp_path / name, moving(110), rate=25, codec=codec)
    clip = read(path)
    found = frames_of(path)
    numbers = kept_frames(clip.frame_times_s, clip.shape[1], 1.0)[: len(found)]
    assert numbers.tolist() == [0, 25, 50, 75, 100]
    assert [round(one.time_s, 3) for one in found] == [0, 1, 2, 3, 4]
    assert np.array_equal(np.stack([one.x_CHW for one in found], 1), clip.frames(numbers.tolist()))
    assert (found[-1].decoded, found[-1].damaged) == (101, 0)


def test_frames_come_in_the_size_that_was_asked_for(tmp_path):
    path = encode(tmp_path / "x.ts", moving(5, 64, 96), rate=25, codec="mpeg2video")
    assert frames_of(path, fps=25, side=32)[0].x_CHW.shape == (3, 32, 48)


@given(st.floats(5, 120), st.floats(0.2, 5))
def test_at_a_steady_rate_ticks_are_the_nearest_frames(rate, fps):
    if rate < 2 * fps:
        return
    times_s = np.arange(int(6 * rate)) / rate
    ticks = Ticks(fps)
    found = [n for n, t in enumerate(times_s) if ticks.wants(t)]
    nearest = kept_frames(times_s, len(times_s), fps)[: len(found)]
    # Where two frames are equally near either may be taken.
    apart = np.abs(times_s[found] * fps - np.arange(len(found)))
    assert np.allclose(apart, np.abs(times_s[nearest] * fps - np.arange(len(found))), atol=1e-6)


def test_after_a_pause_of_the_stream_the_nearest_frames_are_taken_each_once():
    ticks = Ticks(1.0)
    times_s = [0.0, 0.5, 1.0, 7.3, 7.8, 8.3]
    assert [t for t in times_s if ticks.wants(t)] == [0.0, 1.0, 7.3, 7.8]


def test_damaged_frames_are_left_out_and_counted(tmp_path):
    path = encode(tmp_path / "x.ts", moving(200), rate=25, codec="mpeg2video")
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 2, len(data) // 2 + 188 * 12, 188):
        data[at + 60 : at + 150] = b"\xff" * 90
    path.write_bytes(bytes(data))
    found = frames_of(path)
    assert found[0].time_s == 0
    assert found[-1].damaged > 0
    assert found[-1].time_s > 6


@pytest.mark.parametrize("kind", ["empty", "noise", "sound"])
def test_what_is_no_video_says_so(tmp_path, kind):
    path = tmp_path / "x.mkv"
    if kind == "sound":
        path = sound(tmp_path / "x.m4a")
    else:
        path.write_bytes(b"" if kind == "empty" else b"\1" * 9000)
    with pytest.raises(ReadError) as error:
        frames_of(path)
    assert error.value.reason in {"not_video", "no_frames", "bad_container"}
    assert str(tmp_path) not in error.value.what


def test_the_end_is_told_once_and_stays(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    source = Growing(str(path), patience_s=0.05)
    assert source.read(10) == b"abc"
    assert source.read(10) == b""
    path.write_bytes(b"abcdef")
    assert source.read(10) == b""
