"""Views of clips: frames by time, never across a cut, all of them cut and changed alike."""

import numpy as np
import pytest

from medssl.core.errors import ReadError
from medssl.core.seeding import generator
from medssl.core.viewspec import ClipSpec, Intensity, MaskSpec, Spatial, TargetSpec, View, ViewSpec
from medssl.views.build import build_views
from medssl.views.clips import draw_moment, spread_moments
from tests.views.sources import in_record, source

HW = (12, 16)
TURNED = Spatial(rotate_deg=15, scale=(1.0, 1.4), elastic_mm=1.0)
LOUD = Intensity(
    gamma=(0.7, 1.5), brightness=0.3, contrast=(0.7, 1.3), noise=0.2, blur=(0.5, 1.0),
    low_resolution=(1.5, 2.0), hue=0.1, saturation=(0.5, 1.5), probability=1.0,
    noise_probability=1.0,
)  # fmt: skip


def clip(frames=60, *, fps=25.0, cuts=(), times_s=None, x=None, modality="ES"):
    """A clip whose every pixel is the number of its frame, unless told."""
    if x is None:
        numbers = np.arange(frames, dtype=np.float32)
        x = np.broadcast_to(numbers[:, None, None], (3, frames, 24, 28))
    ends = [0, *cuts, x.shape[1]]
    times_s = np.arange(x.shape[1]) / fps if times_s is None else np.asarray(times_s, float)
    shots = np.array([ends[:-1], ends[1:]]).T
    return source(
        np.ascontiguousarray(x), kind="clip", times_s=times_s, shots=shots, modality=modality
    )


def views(seed, record, *kinds, overlap=0.0, **of_clip):
    spec = ViewSpec(views=kinds, clip=ClipSpec(**of_clip), overlap=overlap)
    return build_views(spec, generator(seed), record)


def view(seed, record, frames=8, *, stride_ms=(80, 80), short="hold", **of_view):
    [out] = views(
        seed, record, View(crop=(frames, *HW), **of_view), stride_ms=stride_ms, short=short
    )
    return out


def shown(view):
    """Number of each frame of a view."""
    assert (np.ptp(view["x"], axis=(0, 2, 3)) == 0).all()
    return view["x"][0, :, 0, 0].astype(int).tolist()


@pytest.mark.parametrize("fps", [25.0, 50.0, 12.5])
def test_frames_are_a_stride_of_time_apart_whatever_the_rate(fps):
    for seed in range(20):
        one = view(seed, clip(60, fps=fps), stride_ms=(160, 160))
        np.testing.assert_allclose(np.diff(one["time_s"]), 0.16, atol=1e-6)
        assert np.diff(shown(one)).tolist() == [round(0.16 * fps)] * 7


def test_strides_cover_their_range_and_times_are_those_of_the_frames():
    record = clip(200, times_s=np.sort(np.random.default_rng(0).uniform(0, 8, 200)))
    means = []
    for seed in range(60):
        one = view(seed, record, stride_ms=(100, 400))
        assert np.array_equal(one["time_s"], record.times_s[shown(one)].astype(np.float32))
        means.append(np.diff(one["time_s"]).mean())
    assert min(means) < 0.14 and max(means) > 0.36


def test_of_uneven_frames_the_nearest_is_shown():
    times_s = np.cumsum(np.random.default_rng(1).uniform(0.01, 0.09, 120))
    record = clip(120, times_s=times_s)
    for seed in range(20):
        moment = draw_moment(generator(seed), record, 8, ClipSpec(stride_ms=(200, 200)))
        wanted = moment.start_s + 0.2 * np.arange(8)
        nearest = np.abs(times_s - wanted[:, None]).argmin(1)
        assert moment.numbers.tolist() == nearest.tolist()


@pytest.mark.parametrize("short", ["hold", "tighten"])
def test_no_view_crosses_a_cut(short):
    record = clip(60, cuts=(7, 31, 33))
    shots = set()
    for seed in range(100):
        numbers = shown(view(seed, record, short=short))
        [shot] = {int(np.searchsorted([7, 31, 33], n, side="right")) for n in numbers}
        shots.add(shot)
    assert shots == {1, 3}  # the others are shorter than 7 strides of 80 ms


def test_starts_are_even_over_time_not_over_shots():
    # 400 frames hold 40 times as much time to start in as 20 frames do: 386 and 6 starts.
    record = clip(420, cuts=(20,))
    moments = [
        draw_moment(generator(n), record, 8, ClipSpec(stride_ms=(80, 80))) for n in range(4000)
    ]
    starts = np.array([m.numbers[0] for m in moments])
    assert 0.005 < (starts < 20).mean() < 0.03
    inside = starts[starts >= 20]
    counts, _ = np.histogram(inside, bins=8, range=(20, 406))
    assert counts.min() > 0.8 * counts.mean()


def test_a_short_clip_holds_its_last_frame():
    assert shown(view(0, clip(10))) == [0, 2, 4, 6, 8, 9, 9, 9]


def test_a_short_clip_is_tightened_down_to_its_own_frames():
    assert shown(view(0, clip(8), short="tighten")) == list(range(8))
    assert shown(view(0, clip(5), short="tighten")) == [0, 1, 2, 3, 4, 4, 4, 4]


def test_a_short_clip_is_refused_where_that_is_asked_for():
    with pytest.raises(ReadError) as caught:
        view(0, clip(14), short="refuse")
    assert caught.value.reason == "clip_too_short"
    assert shown(view(0, clip(15), short="refuse")) == list(range(0, 15, 2))


@pytest.mark.parametrize("short", ["hold", "tighten"])
def test_a_single_frame_is_shown_all_the_time(short):
    one = view(0, clip(1), short=short)
    assert shown(one) == [0] * 8 and one["time_s"].tolist() == [0.0] * 8


def test_a_view_of_one_frame_comes_from_any_time():
    assert len({shown(view(seed, clip(30), frames=1))[0] for seed in range(200)}) == 30


def test_a_clip_without_times_is_refused():
    record = source(np.zeros((3, 9, 24, 28), np.float32), kind="clip")
    with pytest.raises(ReadError) as caught:
        view(0, record)
    assert caught.value.reason == "times_unknown"


def test_what_stands_still_stands_still_in_every_view():
    still = np.random.default_rng(0).random((3, 1, 24, 28), np.float32).repeat(40, 1)
    for seed in range(20):
        one = view(seed, clip(x=still), spatial=TURNED, intensity=LOUD)
        np.testing.assert_allclose(one["x"], one["x"][:, :1].repeat(8, 1), atol=1e-5)
        assert np.ptp(one["x"]) > 0.1


def test_a_flash_stays_a_flash():
    # Grey values change by one rule for all frames: frames are not evened out.
    x = np.random.default_rng(0).random((3, 40, 24, 28)).astype(np.float32)
    x[:, ::4] += 3.0
    one = view(3, clip(x=x), stride_ms=(40, 40), intensity=LOUD)
    means = one["x"].mean((0, 2, 3))
    bright = np.rint(one["time_s"] * 25).astype(int) % 4 == 0
    assert means[bright].min() > means[~bright].max() + 0.5


def test_place_leads_from_pixels_to_pixels_of_the_record():
    x = np.random.default_rng(0).random((3, 60, 24, 28)).astype(np.float32)
    one = view(4, clip(x=x))
    places = in_record(one["place"], np.indices((8, *HW)).reshape(3, -1).T)
    np.testing.assert_allclose(places, np.rint(places), atol=1e-9)
    t, h, w = np.rint(places).astype(int).T
    assert np.array_equal(one["x"].reshape(3, -1), x[:, t, h, w])


def test_views_share_their_time_with_the_first_one():
    long, short = View(crop=(8, *HW)), View(crop=(4, *HW), count=3)
    for seed in range(40):
        first, *others = views(seed, clip(300), long, short, overlap=1.0, stride_ms=(80, 80))
        for other in others:
            assert first["time_s"][0] - 0.021 <= other["time_s"][0]
            assert other["time_s"][-1] <= first["time_s"][-1] + 0.021


def test_a_longer_view_shows_all_the_time_of_the_first_one():
    small, large = View(crop=(4, *HW)), View(crop=(12, *HW))
    for seed in range(40):
        first, other = views(seed, clip(60), small, large, overlap=1.0, stride_ms=(80, 80))
        assert other["time_s"][0] <= first["time_s"][0] + 0.021
        assert first["time_s"][-1] <= other["time_s"][-1] + 0.021


def test_without_overlap_views_lie_anywhere_in_the_shot_of_the_first():
    pair = View(crop=(4, *HW), count=2)
    apart = []
    for seed in range(100):
        first, other = views(seed, clip(300, cuts=(150,)), pair, stride_ms=(80, 80))
        assert (first["time_s"][0] < 6) == (other["time_s"][0] < 6)
        apart.append(abs(first["time_s"][0] - other["time_s"][0]))
    assert max(apart) > 3


def test_twins_show_the_same_frames_with_other_masks():
    mask = MaskSpec(token_size=(2, 4, 4), kind="tube", ratio=(0.5, 0.5))
    plain, hidden = View(crop=(8, *HW)), View(crop=(8, *HW), count=2, twin=True, mask=mask)
    x = np.random.default_rng(0).random((3, 60, 24, 28)).astype(np.float32)
    whole, one, two = views(5, clip(x=x), plain, hidden)
    assert np.array_equal(whole["x"], one["x"]) and np.array_equal(one["x"], two["x"])
    assert np.array_equal(one["time_s"], whole["time_s"])
    assert not np.array_equal(one["mask"], two["mask"])
    tubes = one["mask"].reshape(4, 3, 4)
    assert (tubes == tubes[0]).all() and tubes[0].sum() == 6


def test_targets_through_time_fit_the_tokens_of_the_view():
    targets = TargetSpec(token_size=(2, 4, 4), full_time=True, share=0.3, visible=0.25)
    one = view(0, clip(), targets=targets)
    assert one["mask"].shape == (48,) and one["targets"].shape == (1, 36)
    assert one["mask"][one["targets"][0]].all() and (~one["mask"]).sum() == 12


def test_ultrasound_is_not_mirrored_unless_asked():
    ramp = np.broadcast_to(np.arange(28, dtype=np.float32), (1, 40, 24, 28))
    record = clip(x=ramp, modality="US")

    def mirrored(**spatial):
        crops = [view(seed, record, spatial=Spatial(**spatial))["x"] for seed in range(30)]
        return {bool(x[0, 0, 0, 0] > x[0, 0, 0, -1]) for x in crops}

    assert mirrored() == {False}
    assert mirrored(flip=True) == {False, True}


def test_equal_seeds_give_equal_views_and_other_seeds_do_not():
    x = np.random.default_rng(0).random((3, 60, 24, 28)).astype(np.float32)
    one, same, other = (view(seed, clip(x=x), spatial=TURNED, intensity=LOUD) for seed in (1, 1, 2))
    assert all(np.array_equal(one[key], same[key]) for key in one)
    assert not np.array_equal(one["x"], other["x"])


def test_an_image_encoder_sees_single_frames_of_any_time():
    record = clip(30)
    spec = ViewSpec(views=(View(crop=HW, intensity=LOUD),))
    assert build_views(spec, generator(0), record)[0]["x"].shape == (3, *HW)
    plain = ViewSpec(views=(View(crop=HW),))
    frames = [build_views(plain, generator(seed), record)[0] for seed in range(300)]
    assert {int(one["x"].mean()) for one in frames} == set(range(30))
    assert all(np.ptp(one["x"]) == 0 for one in frames)


def spread(total, count, *, fps=10.0, stride_ms=100, most=10, shots=None, short="hold"):
    times_s = np.arange(total) / fps
    shots = np.array([[0, total]] if shots is None else shots)
    spec = ClipSpec(stride_ms=(stride_ms, stride_ms), short=short)
    return spread_moments(times_s, shots, count, spec, most)


def test_spread_views_show_each_frame_of_a_clip_of_whole_views_once():
    # 4 views of 4 frames in 16: the 13 starts in 4 parts, the middles of which lie 3.25 apart
    assert [list(found) for found in spread(16, 4, most=99)] == [
        [s, s + 1, s + 2, s + 3] for s in (1, 4, 7, 10)
    ]
    assert [list(found) for found in spread(4, 4)] == [[0, 1, 2, 3]]


def test_a_long_clip_gets_no_more_views_than_asked_for_evenly_spread():
    starts = [found[0] for found in spread(1004, 4, most=10)]
    assert starts == [50, 150, 250, 350, 450, 550, 650, 750, 850, 950]


def test_spread_views_never_cross_a_cut_and_leave_short_shots_out():
    shots = [[0, 20], [20, 22], [22, 60]]
    found = spread(60, 4, shots=shots, most=99)
    of_shot = [{int(np.searchsorted([20, 22], n, side="right")) for n in view} for view in found]
    assert [len(one) for one in of_shot] == [1] * len(found)
    assert {shot for one in of_shot for shot in one} == {0, 2}
    share = sum(one == {0} for one in of_shot) / len(found)
    assert share == pytest.approx(1.6 / (1.6 + 3.4), abs=0.1)  # seconds at which a view can start


def test_a_clip_shorter_than_a_view_gives_one_by_the_policy():
    assert [list(found) for found in spread(3, 4)] == [[0, 1, 2, 2]]
    assert [list(found) for found in spread(1, 4)] == [[0, 0, 0, 0]]
    assert [list(found) for found in spread(4, 4, stride_ms=200, short="tighten")] == [[0, 1, 2, 3]]
    with pytest.raises(ReadError, match="as long as a view"):
        spread(3, 4, short="refuse")


def test_spread_views_of_a_whole_clip_are_views_that_training_draws():
    record = clip(50, fps=10.0, cuts=[20])
    spec = ClipSpec(stride_ms=(200, 200))
    drawn = {
        tuple(draw_moment(np.random.default_rng(n), record, 5, spec).numbers) for n in range(900)
    }
    found = spread_moments(record.times_s, record.shots, 5, spec, 10)
    assert len(found) == 6 and {tuple(numbers) for numbers in found} <= drawn
