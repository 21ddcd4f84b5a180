"""Broken and hostile videos: refused with a reason, or the frames that exist, never others."""

import numpy as np
import pytest

from medssl.core.errors import MedsslError, ReadError
from medssl.core.sample import BYTE_CAP
from medssl.readers import video
from medssl.readers._dispatch import group_headers, read_header, sample
from pipelines._video_files import WIDTH, encode, encoded, numbers_of


def clip_of(path):
    found, refused = group_headers([video.header(path)])
    assert not refused
    return sample(found[0]), found[0]


def reason(path):
    with pytest.raises(ReadError) as caught:
        video.header(path)
    assert str(path) not in caught.value.what
    return caught.value.reason


def written(path, content):
    path.write_bytes(content)
    return path


def test_the_tables_at_the_end_are_missing(tmp_path):
    whole = encoded()
    assert whole.index(b"mdat") < whole.index(b"moov")
    assert reason(written(tmp_path / "x.mp4", whole[: len(whole) // 2])) == "bad_container"


def test_a_truncated_video_is_the_frames_that_exist(tmp_path):
    encode(tmp_path / "whole.mp4", mux={"movflags": "faststart"})
    whole = (tmp_path / "whole.mp4").read_bytes()
    clip, found = clip_of(written(tmp_path / "x.mp4", whole[: len(whole) * 2 // 3]))
    assert "truncated_video" in found.flags
    n = clip.shape[1]
    assert 10 < n < 60
    assert numbers_of(clip.array) == list(range(n))


@pytest.mark.parametrize("container", ["avi", "matroska"])
def test_truncation_is_seen_in_other_containers(tmp_path, container):
    how = {"codec": "mjpeg", "pix_fmt": "yuvj420p"} if container == "avi" else {}
    whole = encoded(container=container, **how)
    clip, found = clip_of(written(tmp_path / "x.bin", whole[: len(whole) * 2 // 3]))
    assert "truncated_video" in found.flags
    assert numbers_of(clip.array) == list(range(clip.shape[1]))


def test_a_lost_packet_spoils_its_group_and_no_other(tmp_path):
    import av

    path = tmp_path / "x.mp4"
    encode(path, gop=12)
    with av.open(path) as file:
        packet = [p for p in file.demux(video=0) if p.size][15]
        start, size = packet.pos, packet.size
    content = bytearray(path.read_bytes())
    content[start + 5 : start + size] = b"\xff" * (size - 5)
    path.write_bytes(content)
    clip, _ = clip_of(path)
    kept = [*range(15), *range(24, 60)]
    assert numbers_of(clip.frames(kept)) == kept
    for number in (15, 19, 23):
        with pytest.raises(ReadError) as caught:
            clip.frames([number])
        assert caught.value.reason == "corrupt_frames"


def test_flipped_bits_never_move_frames(tmp_path):
    whole, rng = encoded(), np.random.default_rng(0)
    end = whole.index(b"moov")
    for _ in range(15):
        content = bytearray(whole)
        content[int(rng.integers(100, end))] ^= 1 << int(rng.integers(8))
        try:
            clip, _ = clip_of(written(tmp_path / "x.mp4", content))
        except ReadError:
            continue
        for number in range(0, 60, 7):
            try:
                assert numbers_of(clip.frames([number])) in ([number], [None])
            except ReadError as error:
                assert error.reason in {"corrupt_frames", "frame_missing", "frame_size_changes"}


def test_empty_file(tmp_path):
    assert reason(written(tmp_path / "x.mp4", b"")) == "empty_file"


def test_text_named_as_video(tmp_path):
    assert reason(written(tmp_path / "x.mp4", b"Dictated but not read.\n" * 99)) == "not_video"


def test_typescript_is_text(tmp_path):
    path = written(tmp_path / "x.ts", b"export const a = 1;\n" * 99)
    assert read_header(path).ignored == "text"


def test_content_goes_before_the_name(tmp_path):
    clip, _ = clip_of(written(tmp_path / "x.avi", encoded(10, "mp4")))
    assert numbers_of(clip.array) == list(range(10))
    assert read_header(written(tmp_path / "scan.bin", encoded(10, "mp4"))).format == "video"


@pytest.mark.parametrize("side", [0xFFFF, 0x7FFF])
def test_absurd_dimensions(tmp_path, side):
    content = encoded(4, codec="mjpeg", pix_fmt="yuvj420p")
    start = content.index(b"\xff\xc0") + 5
    wide = content.replace(content[start : start + 4], side.to_bytes(2, "big") * 2)
    assert reason(written(tmp_path / "x.mp4", wide)) in {"too_large", "corrupt_frames"}


def test_one_frame_is_a_clip_of_one_frame_and_a_still_gif_an_image(tmp_path):
    encode(tmp_path / "x.mp4", 1)
    assert clip_of(tmp_path / "x.mp4")[0].shape == (3, 1, 32, WIDTH)
    encode(tmp_path / "x.gif", 1, codec="gif", pix_fmt="rgb8")
    still, _ = clip_of(tmp_path / "x.gif")
    assert (still.kind, still.array.shape) == ("image", (3, 32, WIDTH))


def test_sound_is_ignored(tmp_path):
    import av

    with av.open(str(tmp_path / "x.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert video.header(tmp_path / "x.mp4").ignored == "audio"


def test_a_clip_above_the_byte_cap_gives_single_frames(tmp_path):
    encode(tmp_path / "x.mp4", 30, size=(1088, 1920), gop=250, options={"preset": "ultrafast"})
    clip, _ = clip_of(tmp_path / "x.mp4")
    clip.byte_cap = 100 * 2**20
    with pytest.raises(MedsslError):
        _ = clip.array
    assert numbers_of(clip.frames([29])) == [29]
    assert clip.byte_cap < BYTE_CAP


def test_a_transport_stream_joined_in_the_middle_starts_at_its_first_clean_frame(tmp_path):
    encode(tmp_path / "whole.ts", codec="mpeg2video", b_frames=2)
    content = (tmp_path / "whole.ts").read_bytes()
    clip, found = clip_of(written(tmp_path / "x.ts", content[len(content) // 2 :]))
    assert "frames_never_shown" in found.flags
    numbers = numbers_of(clip.array)
    assert numbers == list(range(numbers[0], 60))
    assert numbers_of(clip.frames([0, 5])) == [numbers[0], numbers[5]]


def test_a_playlist_opens_nothing(tmp_path):
    listing = b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n"
    assert reason(written(tmp_path / "x.mp4", listing)) == "not_video"
