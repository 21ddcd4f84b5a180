"""A clip in the store: the frames asked for, their times, the sector alone, bounded memory."""

import tracemalloc

import numpy as np
import pytest

from medssl.archive import clips
from medssl.archive.clips import ClipStream, plan_clip
from medssl.archive.store import Store
from medssl.core.clips import kept_frames, shots_of
from medssl.core.errors import ReadError
from medssl.core.preprocess import Contract
from tests.clips import clip, noise, of_array


def stored(folder, sample, dtype=np.uint8, **contract):
    """The store and the entry of a clip that was put into it."""
    store = Store(folder, Contract(**contract))
    store.put_clip("key", ClipStream(sample, plan_clip(sample, dtype, store.contract)))
    return store, store.entry("key")


def frames(store, entry, first=0, last=None):
    return store.read("key", (first, 0, 0), (last or entry.shape[1], *entry.shape[2:]))


def test_frames_and_times_come_back_exactly(tmp_path):
    sample = clip(noise, 50)
    store, entry = stored(tmp_path, sample)
    assert (entry.kind, entry.shape, entry.affine) == ("clip", (3, 50, 24, 32), None)
    assert np.array_equal(np.rint(frames(store, entry) * 255), sample.array)
    assert np.array_equal(entry.times_s, sample.frame_times_s)
    assert np.array_equal(frames(store, entry, 33, 35), frames(store, entry)[:, 33:35])


def test_only_the_frames_that_are_kept_are_decoded(tmp_path):
    sample = clip(noise, 51)
    _, entry = stored(tmp_path, sample, fps=5)
    assert np.concatenate(sample.load.asked).tolist() == list(range(0, 51, 5))
    np.testing.assert_allclose(entry.times_s, np.arange(11) / 5)


def test_of_uneven_frames_the_nearest_to_each_beat_is_kept():
    times_s = np.sort(np.random.default_rng(0).uniform(0, 20, 300))
    kept = kept_frames(times_s, 300, 4.0)
    ticks = (times_s - times_s[0]) * 4
    beats = np.round(ticks)
    for beat in np.unique(beats):
        near = np.flatnonzero(beats == beat)
        best = near[np.abs(ticks[near] - beat).argmin()]
        assert best in kept and len(set(near) & set(kept)) == 1


def test_a_slower_clip_keeps_every_frame_once():
    assert kept_frames(np.arange(7) / 3, 7, 25.0).tolist() == list(range(7))


@pytest.mark.parametrize("last_s", [1e-7, 1e12])
def test_absurd_times_take_no_memory(tmp_path, last_s):
    times_s = (*np.linspace(0, 1e-8, 9), last_s)
    _, entry = stored(tmp_path, clip(noise, 10, times_s=times_s), fps=25)
    assert entry.shape[1] == (1 if last_s < 1 else 2)


def test_without_times_a_rate_is_refused_and_all_frames_are_not(tmp_path):
    sample = clip(noise, 5, fps=None)
    with pytest.raises(ReadError) as caught:
        stored(tmp_path, sample, fps=5)
    assert caught.value.reason == "times_unknown"
    assert stored(tmp_path, sample)[1].times_s is None


def test_a_single_frame_is_a_clip(tmp_path):
    store, entry = stored(tmp_path, clip(noise, 1), fps=15, short_side_px=12)
    assert entry.shape == (3, 1, 12, 16) and entry.shots.tolist() == [[0, 1]]
    assert frames(store, entry).shape == (3, 1, 12, 16)


def test_pieces_are_bounded_and_do_not_change_the_clip(tmp_path, monkeypatch):
    whole = stored(tmp_path / "whole", clip(noise, 70), short_side_px=12)
    sample = clip(noise, 70)
    monkeypatch.setattr(clips, "PIECE_BYTES", 9 * 3 * 24 * 32)
    pieces = stored(tmp_path / "pieces", sample, short_side_px=12)
    assert max(map(len, sample.load.asked)) == 9
    assert np.array_equal(frames(*whole), frames(*pieces))
    assert whole[1].pixel_hash == pieces[1].pixel_hash


def test_six_hours_take_little_memory(tmp_path):
    sample = clip(lambda n: np.full((1, 8, 8), n % 251, np.uint8), 6 * 3600 * 25 + 1)
    tracemalloc.start()
    _, entry = stored(tmp_path, sample, fps=1)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert entry.shape == (1, 6 * 3600 + 1, 8, 8)
    assert most < 100 * 2**20  # times and numbers of half a million frames, and one piece


def test_cuts_and_gaps_in_time_divide_the_shots(tmp_path):
    def scene(n):
        return noise(n) if n < 20 else 255 - noise(n, seed=1)

    times_s = (*np.arange(30) / 25, *(60 + np.arange(10) / 25))
    _, entry = stored(tmp_path, clip(scene, 40, times_s=tuple(times_s)))
    assert entry.shots.tolist() == [[0, 20], [20, 30], [30, 40]]


def test_shots_cover_every_frame_once():
    shots = shots_of(None, 9, [3, 3, 8])
    assert np.concatenate([np.arange(a, b) for a, b in shots]).tolist() == list(range(9))


def test_a_failing_clip_leaves_nothing_behind(tmp_path):
    def broken(n):
        if n > 20:
            raise ReadError("corrupt_frames", "frame is damaged")
        return noise(n)

    with pytest.raises(ReadError, match="damaged"):
        stored(tmp_path, clip(broken, 40))
    with pytest.raises(ReadError) as caught:
        stored(tmp_path, of_array(np.full((3, 20, 8, 8), 7, np.uint8)))
    assert caught.value.reason == "constant"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_an_enlarged_or_shrunk_frame_shows_the_same_field_of_view(tmp_path):
    ramp = np.broadcast_to(np.linspace(0, 255, 160), (3, 5, 120, 160)).astype(np.uint8)
    for side in (30, 240):
        store, entry = stored(tmp_path, of_array(ramp), short_side_px=side)
        assert entry.shape == (3, 5, side, side * 160 // 120)
        row = frames(store, entry)[0, 0, side // 2]
        assert row.mean() == pytest.approx(0.5, abs=0.01) and (np.diff(row) >= 0).all()


def test_colour_becomes_luminance_and_grey_is_copied(tmp_path):
    colour = np.zeros((3, 4, 8, 8), np.uint8)
    colour[0, :, :4] = 255
    store, entry = stored(tmp_path / "grey", of_array(colour), picture_channels=1)
    assert entry.shape[0] == 1
    assert frames(store, entry).max() == pytest.approx(0.299, abs=0.5 / 255)
    grey = clip(lambda n: noise(n, (1, 8, 8)), 4)
    store, entry = stored(tmp_path / "colour", grey, picture_channels=3)
    assert np.array_equal(np.ptp(frames(store, entry), axis=0), np.zeros((4, 8, 8)))


def test_units_of_a_detector_are_standardised_over_the_whole_clip(tmp_path):
    def frame(n):
        return np.random.default_rng(n).normal(3000 + 10 * n, 200, (1, 32, 32)).astype(np.uint16)

    store, entry = stored(tmp_path, clip(frame, 30, modality="XA"), np.uint16)
    x = frames(store, entry)
    assert abs(x.mean()) < 0.1 and abs(x.std() - 1) < 0.1
    # One scale for all frames: the clip grows brighter, and so does what is stored.
    assert np.polyfit(np.arange(30), x.mean((0, 2, 3)), 1)[0] > 0.02
