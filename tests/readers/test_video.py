"""Video: the right frame for every number, the true times, and damage that is said, not shown."""

import numpy as np
import pytest

from medssl.readers import video
from medssl.readers._dispatch import group_headers, sample
from tests.readers.video_files import TICK, encode, numbers_of

OPEN_GOP = {"x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0"}
UNEVEN = np.cumsum(np.random.default_rng(0).integers(1500, 9000, 60))
KINDS = {
    "gop12.mp4": {},
    "gop250.mp4": {"gop": 250},
    "b_frames.mkv": {"b_frames": 3},
    "uneven.mp4": {"times": UNEVEN, "b_frames": 2},
    "open_gop.mp4": {"options": OPEN_GOP},
    "open_gop.mkv": {"options": OPEN_GOP},
    "intra_refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=12"}},
    "h264.avi": {"b_frames": 2},
    "h264.ts": {"b_frames": 2},
    "h265.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=12"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4_b.avi": {"codec": "mpeg4", "b_frames": 2},
    "mpeg2.ts": {"codec": "mpeg2video", "b_frames": 2},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2},
    "mpeg1.mpeg": {"codec": "mpeg1video"},
    "vp9.mkv": {"codec": "libvpx-vp9"},
    "vp8.webm": {"codec": "libvpx"},
    "wmv2.wmv": {"codec": "wmv2"},
    "animated.gif": {"codec": "gif", "pix_fmt": "rgb8"},
}


def clip_of(path, **policy):
    """The one clip of a file, and its record."""
    found, refused = group_headers([video.header(path)])
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


def test_uneven_times_are_those_given_to_the_encoder(made):
    clip, _ = clip_of(made("uneven.mp4"))
    expected = (UNEVEN - UNEVEN[0]) * float(TICK)
    np.testing.assert_allclose(clip.frame_times_s, expected, atol=1e-4)
