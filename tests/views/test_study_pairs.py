"""Two clips of one study are shown at one time: which clips, when, and what is dropped."""

import numpy as np
import pytest

from medssl.core.errors import ConfigError, NothingUsableError, ReadError
from medssl.core.seeding import generator
from medssl.core.viewspec import ClipSpec, Intensity, PartnerSpec, Spatial, View, ViewSpec
from medssl.views.pairs import check_partners
from medssl.views.sample import build_sample
from tests.views.sources import Records, source

HW = (8, 8)


def clip(frames=60, *, fps=25.0, cuts=(), times_s=None):
    times_s = np.arange(frames) / fps if times_s is None else np.asarray(times_s, float)
    x = np.random.default_rng(len(times_s)).random((1, len(times_s), 12, 14)).astype(np.float32)
    ends = [0, *cuts, len(times_s)]
    shots = np.array([ends[:-1], ends[1:]]).T
    return source(x, kind="clip", times_s=times_s, shots=shots, modality="US")


def spec_of(*, frames=8, stride_ms=(80, 80), short="hold", count=1, overlap=0.0, **partner):
    view = View(crop=(frames, *HW), count=count, spatial=Spatial(rotate_deg=10),
                intensity=Intensity(brightness=0.2, probability=1.0))  # fmt: skip
    return ViewSpec(
        views=(view,),
        overlap=overlap,
        clip=ClipSpec(stride_ms=stride_ms, short=short),
        partner=PartnerSpec(kind="study", **partner),
    )


def samples(spec, records, count=60):
    """Of every record in turn."""
    return [
        build_sample(spec, generator(0, n), records, n % len(records.patients))
        for n in range(count)
    ]


def pairs(spec, *clips, count=60):
    """The first views of both clips, in every sample; all clips are of one study."""
    found = samples(spec, Records(clips, [0] * len(clips)), count)
    half = len(found[0]["views"]) // 2
    return [(one["views"][0], one["views"][half], one["partner"]) for one in found]


def test_partners_are_the_other_clips_of_the_study_all_of_them_and_never_the_clip_itself():
    # Patient 0 has studies of two clips and of three, patient 1 one of one; 6 is a study of two
    # patients, as a folder may be.
    patients, studies = [0, 0, 0, 0, 0, 1, 2, 3], [0, 0, 1, 1, 1, 2, 6, 6]
    records = Records([clip() for _ in patients], patients, studies)
    found = samples(spec_of(), records, 400)
    kept = {(s["record"], s["partner"]["record"]) for s in found if s["partner"]["kept"]}
    same = {(a, b) for a in range(5) for b in range(5) if studies[a] == studies[b]}
    assert kept == {(a, b) for a, b in same if a != b}
    alone = [one["partner"] for one in found if one["record"] > 4]
    assert all(one["score"] == -1 and one["kept"] is False for one in alone)


def test_synchronous_views_show_the_frames_nearest_to_one_time():
    slow, fast = clip(40, fps=15.0), clip(150, fps=50.0)
    for here, there, partner in pairs(spec_of(), slow, fast):
        assert partner["kept"] and partner["score"] == 1
        gap_s = np.abs(here["time_s"] - there["time_s"]).max()
        assert gap_s <= 0.5 / 15 + 0.5 / 50 + 1e-6  # each within half a frame of the time asked for


def test_synchronous_views_of_uneven_frames_are_within_half_a_frame_of_an_even_time():
    times_s = np.cumsum(np.random.default_rng(1).uniform(0.01, 0.07, 100))
    uneven, even = clip(times_s=times_s - times_s[0]), clip(100)
    for here, there, _ in pairs(spec_of(), uneven, even):
        for time_s in (here["time_s"], there["time_s"]):
            assert np.abs(np.diff(time_s) - 0.08).max() <= 0.07 + 1e-6
        assert np.abs(here["time_s"] - there["time_s"]).max() <= 0.5 * (0.07 + 0.04) + 1e-6


@pytest.mark.parametrize("stride_ms", [(80, 80), (40, 200)])
def test_equal_clocks_show_equal_times_and_the_stride_is_one_for_both(stride_ms):
    for here, there, _ in pairs(spec_of(stride_ms=stride_ms), clip(100), clip(80)):
        assert np.array_equal(here["time_s"], there["time_s"])


def test_moments_that_are_not_synchronous_lie_anywhere():
    spec = spec_of(synchronous=False)
    starts = np.array([(h["time_s"][0], t["time_s"][0]) for h, t, _ in
                       pairs(spec, clip(200), clip(200), count=200)])  # fmt: skip
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.2
    assert np.ptp(starts, axis=0).min() > 5


def test_views_stay_in_the_time_that_both_clips_show_and_cover_it():
    starts = []
    for here, there, _ in pairs(spec_of(), clip(200), clip(50), count=200):
        assert max(here["time_s"][-1], there["time_s"][-1]) <= 49 / 25 + 1e-6
        starts.append(here["time_s"][0])
    room_s = 49 / 25 - 7 * 0.08
    counts, _ = np.histogram(starts, bins=4, range=(0, room_s + 1e-6))
    assert counts.sum() == 200 and counts.min() > 25


def test_no_view_crosses_a_cut_of_its_own_or_of_the_other_clip():
    one, other = clip(100, cuts=(30,)), clip(100, cuts=(70,))
    shown = set()
    for here, there, _ in pairs(spec_of(), one, other, count=100):
        for time_s in (here["time_s"], there["time_s"]):
            shots = set(np.digitize(np.rint(time_s * 25), [30, 70]).tolist())
            assert len(shots) == 1
            shown |= shots
    assert shown == {0, 1, 2}


def test_the_score_is_the_share_of_the_time_of_a_view_that_both_show():
    # A view of 8 frames at 80 ms lasts 0.56 s; 11 frames at 25 per second last 0.4 s.
    for here, there, partner in pairs(spec_of(), clip(100), clip(11)):
        assert partner["score"] == pytest.approx(0.4 / 0.56)
        assert partner["kept"]
        assert here["time_s"].tolist() == there["time_s"].tolist()
        assert here["time_s"].max() == pytest.approx(0.4)
    for *_, partner in pairs(spec_of(threshold=0.8), clip(100), clip(11)):
        assert not partner["kept"]


def test_a_short_common_time_is_tightened_or_refused_as_a_short_clip_is():
    for here, there, _ in pairs(spec_of(short="tighten"), clip(100), clip(11)):
        np.testing.assert_allclose(here["time_s"], there["time_s"])
        assert len(set(here["time_s"].tolist())) == 8
    dropped = samples(spec_of(short="refuse"), Records([clip(100), clip(11)], [0, 0]), 1)
    assert dropped[0]["partner"] == {"record": 0, "patient": 0, "score": -1, "kept": False}
    with pytest.raises(ReadError, match="as long as a view"):
        build_sample(spec_of(short="refuse"), generator(0), Records([clip(11)] * 2, [0, 0]), 0)


def test_of_several_partners_one_that_shows_enough_is_taken():
    records = Records([clip(100), clip(3), clip(3), clip(100)], [0] * 4)
    found = [build_sample(spec_of(), generator(n), records, 0)["partner"] for n in range(30)]
    assert {one["record"] for one in found} == {3}
    few = [build_sample(spec_of(tries=1), generator(n), records, 0)["partner"] for n in range(60)]
    assert {one["record"] for one in few} == {1, 2, 3}
    assert all(one["kept"] == (one["record"] == 3) for one in few)


def test_clips_that_show_no_time_together_are_no_pair():
    early, late = clip(20), clip(times_s=5 + np.arange(20) / 25)
    assert not any(partner["kept"] for *_, partner in pairs(spec_of(), early, late, count=4))


def test_without_a_partner_the_clip_stands_in_for_itself_at_the_same_moment():
    for here, there, partner in pairs(spec_of(), clip(100), count=10):
        assert not partner["kept"]
        assert np.array_equal(here["time_s"], there["time_s"])


def test_other_views_of_each_clip_lie_near_its_first_one():
    spec = spec_of(count=2, overlap=0.5)
    for one in samples(spec, Records([clip(200), clip(200)], [0, 0])):
        for first, other in (one["views"][:2], one["views"][2:]):
            assert abs(first["time_s"][0] - other["time_s"][0]) <= 0.28 + 0.021


def test_equal_numbers_give_equal_pairs():
    records = Records([clip(100), clip(90)], [0, 0])
    one, again = (build_sample(spec_of(), generator(3), records, 0) for _ in range(2))
    assert one["partner"] == again["partner"]
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(one["views"], again["views"],
                                                               strict=True))  # fmt: skip


def test_a_run_without_any_pair_or_without_clips_is_refused():
    check_partners(spec_of(), Records([clip(), clip(), clip()], [0, 1, 1]))
    with pytest.raises(NothingUsableError, match="in its study"):
        check_partners(spec_of(), Records([clip(), clip()], [0, 0], [0, 1]))
    volume = source(np.zeros((1, 9, 9, 9), np.float32))
    with pytest.raises(ConfigError, match="for clips"):
        check_partners(spec_of(), Records([clip(), clip(), volume], [0, 0, 0]))
    frames = ViewSpec(views=(View(crop=HW),), partner=PartnerSpec(kind="study"))
    with pytest.raises(ConfigError, match="encoders of clips"):
        check_partners(frames, Records([clip(), clip()], [0, 0]))
