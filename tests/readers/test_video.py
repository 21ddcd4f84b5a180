"""Video: the right frame for every number, the true times, and damage that is said, not shown."""

import csv
import json
import subprocess
import zipfile

import numpy as np
import pytest

from medssl.readers import video
from medssl.readers._base import Policy
from medssl.readers._dispatch import group_headers, sample
from medssl.readers._found_json import from_json, to_json
from medssl.readers._read import read
from pipelines._video_files import KINDS, TICK_S, UNEVEN, encode, numbers_of, trim


def clip_of(path, **policy):
    """The one clip of a file, and its record."""
    found, refused = group_headers([video.header(path)], Policy(**policy))
    assert not refused
    return sample(found[0]), found[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Path of a file kind, encoded once."""
    folder = tmp_path_factory.mktemp("videos")

    def get(kind):
        path = folder / kind
        if not path.exists():
            encode(path, **KINDS[kind])
        return path

    return get


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_the_one_asked_for(made, kind):
    clip, _ = clip_of(made(kind))
    assert numbers_of(clip.array) == list(range(60))
    assert numbers_of(clip.frames([41, 3, 3, 59, 0, 30, 34, 38])) == [41, 3, 3, 59, 0, 30, 34, 38]
    assert [numbers_of(clip.frames([n])) for n in (11, 12, 13, 47)] == [[11], [12], [13], [47]]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("uneven")])
def test_a_steady_rate_gives_steady_times(made, kind):
    clip, found = clip_of(made(kind))
    np.testing.assert_allclose(clip.frame_times_s, np.arange(60) / 25, atol=1e-3)
    assert found.flags == ()


@pytest.mark.parametrize(("kind", "rounding_s"), [("uneven.mp4", 1e-9), ("uneven.mkv", 1e-3)])
def test_uneven_times_are_those_given_to_the_encoder(made, kind, rounding_s):
    clip, _ = clip_of(made(kind))
    expected = (np.array(UNEVEN) - UNEVEN[0]) * float(TICK_S)
    np.testing.assert_allclose(clip.frame_times_s, expected, atol=rounding_s)


# What decord or torchcodec gets wrong by measurement (docs/results/video.md), so pyav decodes it.
REFUSED = {
    "decord": {
        *("open_gop.mp4", "open_gop.mkv", "intra_refresh.mp4", "h265_b.mp4", "h264.avi", "h264.ts"),
        *("mpeg4.avi", "mpeg4_b.avi", "mpeg2.ts", "mpeg2.mpg", "mpeg1.mpeg", "wmv2.wmv"),
        *("mpeg4_b.mp4", "animated.gif"),
    },
    "torchcodec": {
        *("intra_refresh.mp4", "h264.avi", "h264.ts", "mpeg4.avi", "mpeg4_b.avi", "mpeg2.ts"),
        *("mpeg2.mpg", "mpeg1.mpeg", "wmv2.wmv"),
    },
}


@pytest.mark.parametrize("backend", REFUSED)
@pytest.mark.parametrize("kind", KINDS)
def test_another_library_gives_identical_frames_or_is_refused(made, kind, backend):
    pytest.importorskip(backend)
    clip, found = clip_of(made(kind), video=backend)
    said = any(flag.startswith(f"backend_refused={backend}:") for flag in found.flags)
    assert said == (kind in REFUSED[backend])
    assert (found.options["backend"] == "pyav") == said
    reference, _ = clip_of(made(kind))
    numbers = [41, 3, 3, 59, 0, 30, 34, 38, 37, 13]
    np.testing.assert_array_equal(clip.frames(numbers), reference.frames(numbers))


@pytest.mark.parametrize("kind", ["uneven.mp4", "mpeg2.ts"])
def test_a_record_survives_the_catalog_without_its_times_written_out(made, kind):
    _, found = clip_of(made(kind))
    text = json.dumps(to_json(found))
    assert "0.04" not in text
    again = from_json(json.loads(text))
    assert again.geometry.frame_times_s == found.geometry.frame_times_s
    assert numbers_of(sample(again).frames([59])) == [59]


@pytest.fixture
def trimmed(made, tmp_path):
    """An mp4 whose edit list hides the first five frames, as cutting without encoding does."""
    trim(made("b_frames.mp4"), tmp_path / "trimmed.mp4", 5)
    return tmp_path / "trimmed.mp4"


@pytest.mark.parametrize("backend", ["pyav", "decord", "torchcodec"])
def test_frames_cut_away_by_an_edit_list_are_not_shown(trimmed, backend):
    pytest.importorskip({"pyav": "av"}.get(backend, backend))
    clip, found = clip_of(trimmed, video=backend)
    assert numbers_of(clip.frames([0, 7, 54, 1])) == [5, 12, 59, 6]
    assert clip.frame_times_s[:2] == (0.0, 0.04)
    assert found.options["backend"] == ("pyav" if backend == "decord" else backend)


@pytest.mark.parametrize("backend", ["pyav", "decord", "torchcodec"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotated_video_is_read_as_a_player_shows_it(tmp_path, degrees, backend):
    pytest.importorskip({"pyav": "av"}.get(backend, backend))
    encode(tmp_path / "x.mp4", 20, rotation=degrees)
    clip, found = clip_of(tmp_path / "x.mp4", video=backend)
    assert found.options["backend"] == backend
    upright = np.rot90(clip.array, -degrees // 90, (2, 3))
    assert clip.array.shape == clip.shape
    assert numbers_of(upright) == list(range(20))


def ffprobe(path, *entries):
    """Lines that ffprobe prints."""
    words = ["ffprobe", "-v", "error", "-select_streams", "v:0", *entries, "-of", "csv=p=0"]
    text = subprocess.run([*words, path], check=True, capture_output=True, text=True).stdout
    return [line.strip(",") for line in text.split()]


@pytest.mark.debian("ffprobe")
@pytest.mark.parametrize("kind", ["uneven.mp4", "open_gop.mkv", "mpeg2.ts"])
def test_times_are_those_of_ffprobe(made, kind):
    clip, _ = clip_of(made(kind))
    times_s = np.sort(np.array(ffprobe(made(kind), "-show_entries", "packet=pts_time"), float))
    np.testing.assert_allclose(clip.frame_times_s, times_s - times_s[0], atol=2e-6)


@pytest.mark.debian("ffmpeg")
def test_a_quarter_turn_goes_the_way_ffmpeg_turns_it(tmp_path):
    encode(tmp_path / "x.mp4", 3, rotation=90, size=(64, 160))
    clip, _ = clip_of(tmp_path / "x.mp4")
    words = ["ffmpeg", "-v", "error", "-i", tmp_path / "x.mp4", "-f", "rawvideo"]
    raw = subprocess.run([*words, "-pix_fmt", "rgb24", "-"], check=True, capture_output=True).stdout
    x_THWC = np.frombuffer(raw, np.uint8).reshape(3, 160, 64, 3)
    np.testing.assert_allclose(clip.array, x_THWC.transpose(3, 0, 1, 2).astype(int), atol=3)


@pytest.mark.real
@pytest.mark.parametrize("name", ["lung_ultrasound", "lung_ultrasound_nc"])
def test_every_real_clip_has_the_frames_of_its_table(medssl_data, name):
    folder = medssl_data / name
    with (folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        clip, found = clip_of(folder / "videos" / row["file"])
        assert clip.shape == (3, int(row["frames"]), int(row["height"]), int(row["width"]))
        assert clip.frames([clip.shape[1] - 1, 0]).std() > 1
        assert found.flags == ()


def test_a_member_of_a_zip_reads_like_a_file(made, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(made("b_frames.mp4"), "case/clip.mp4")
    clip = read(f"{tmp_path}/x.zip!/case/clip.mp4")
    assert numbers_of(clip.frames([59, 3])) == [59, 3]


@pytest.mark.parametrize(
    ("how", "flags", "channels"),
    [
        ({"codec": "ffv1", "pix_fmt": "gray"}, (), 1),
        ({"codec": "ffv1", "pix_fmt": "yuv420p10le"}, ("depth_reduced",), 3),
        ({"aspect": 2}, ("oblong_pixels",), 3),
    ],
)
def test_what_the_clip_lost_or_left_as_it_is_becomes_a_flag(tmp_path, how, flags, channels):
    encode(tmp_path / "x.mkv", 12, **how)
    clip, found = clip_of(tmp_path / "x.mkv")
    assert (found.flags, clip.shape[0]) == (flags, channels)
    assert numbers_of(clip.array) == list(range(12))


def test_the_first_of_several_streams_is_read_and_the_others_are_said(made, tmp_path):
    import av

    with av.open(made("gop12.mp4")) as one, av.open(str(tmp_path / "x.mkv"), "w") as out:
        streams = [out.add_stream_from_template(one.streams.video[0]) for _ in range(2)]
        for packet in one.demux(video=0):
            if packet.dts is not None:
                packet.stream = streams[0]
                out.mux(packet)
    clip, found = clip_of(tmp_path / "x.mkv")
    assert found.flags == ("several_video_streams",)
    assert numbers_of(clip.frames([7])) == [7]
