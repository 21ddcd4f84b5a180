"""Pairs show the same anatomy, never of the same patient, at places that are the same."""

import numpy as np
import pytest

from medssl.core.errors import ConfigError, NothingUsableError
from medssl.core.seeding import generator
from medssl.core.viewspec import PartnerSpec, Spatial, View, ViewSpec
from medssl.views.matching import BodyMatcher
from medssl.views.pairs import Match, check_partners
from medssl.views.sample import build_sample
from tests.views.sources import Records, source


class Exact:
    """Finds a voxel moved by ``shift``, with a score of its own."""

    def __init__(self, shift=(0, 0, 0), score=1.0):
        self.shift, self.score = np.array(shift), score

    def match(self, _record, voxel, _other):
        return Match(voxel + self.shift, self.score)


def body(shape, *, low=(0, 0, 0), size=None, scale=1.0, spacing=(1.0, 1.0, 1.0)):
    """Blobs at fixed body coordinates, of contrast ``scale``, in a box of air."""
    size = np.array(shape if size is None else size)
    place = (np.indices(shape).reshape(3, -1).T + 0.5 - low) / size
    x = np.full(len(place), 1.0)
    for centre, value in (((0.3, 0.3, 0.6), 2.0), ((0.7, 0.6, 0.3), 3.0), ((0.5, 0.7, 0.7), -0.8)):
        x += value * np.exp(-((place - centre) ** 2).sum(1) / 2 / 0.15**2)
    x = np.where(((place > 0) & (place < 1)).all(1), 5 + scale * x, 0.0)
    box = np.array([low, low + size])
    volume = x.reshape(1, *shape).astype(np.float32)
    return source(volume, air=(0.5,), fill=(0.0,), tissue=box, spacing_mm=spacing)


def spec_of(kind, *, crop=(9, 9, 9), count=1, spatial=None, **partner):
    view = View(crop=crop, count=count, spatial=spatial or Spatial())
    return ViewSpec(views=(view,), overlap=0.5, partner=PartnerSpec(kind=kind, **partner))


def samples(spec, records, matcher=None, count=60):
    """Of every record in turn."""
    return [
        build_sample(spec, generator(0, n), records, n % len(records.patients), matcher)
        for n in range(count)
    ]


def middle(view):
    """Voxel of the record that the middle of a view shows."""
    size = view["x"].shape[1:]
    size = (1, *size) if len(size) == 2 else size
    return view["place"] @ np.array([*(n // 2 for n in size), 1])


FIVE = Records([body((24, 26, 28)) for _ in range(5)], [0, 0, 1, 2, 2])


def test_anatomy_partners_are_of_other_patients_all_of_them():
    found = {
        (one["record"], one["partner"]["record"])
        for one in samples(spec_of("anatomy"), FIVE, BodyMatcher(spec_of("anatomy"), FIVE), 200)
    }
    assert found == {
        (a, b) for a in range(5) for b in range(5) if FIVE.patients[a] != FIVE.patients[b]
    }


def test_patient_partners_are_other_records_of_the_patient():
    found = samples(spec_of("patient"), FIVE)
    pairs = {(one["record"], one["partner"]["record"]) for one in found if one["partner"]["kept"]}
    assert pairs == {(0, 1), (1, 0), (3, 4), (4, 3)}
    alone = [one["partner"] for one in found if one["record"] == 2]
    assert all(one["kept"] is False and one["score"] == -1 for one in alone)


@pytest.mark.parametrize("crop", [(9, 9, 9), (8, 8, 8), (9, 9)])
def test_first_views_of_both_records_are_centred_on_the_landmark(crop):
    spec = spec_of("anatomy", crop=crop, count=3)
    for one in samples(spec, FIVE, Exact((2, -1, 3))):
        here, there = one["views"][0], one["views"][3]
        assert np.array_equal(middle(there) - middle(here), [2, -1, 3])
        assert here["tissue"].all()


@pytest.mark.parametrize("crop", [(9, 8, 7), (8, 8)])
@pytest.mark.parametrize("corner", [(0, 0, 0), (23, 25, 27), (0, 25, 13)])
def test_a_crop_at_a_corner_keeps_its_shape_and_centre_and_is_filled_outside(crop, corner):
    volume = np.random.default_rng(0).uniform(1, 2, (1, 24, 26, 28)).astype(np.float32)
    records = Records([source(volume, air=(0.5,), fill=(0.0,))] * 2, [0, 1])

    class Corner:
        def match(self, *_):
            return Match(np.array(corner, dtype=float), 1.0)

    for one in samples(spec_of("anatomy", crop=crop), records, Corner(), 4):
        there = one["views"][1]
        assert there["x"].shape == (1, *crop)
        assert there["x"][(0, *(n // 2 for n in crop))] == volume[(0, *corner)]
        outside = ~there["tissue"]
        assert outside.any()
        assert not there["x"][outside].any()


def test_other_views_of_the_partner_stay_near_its_landmark():
    spec = spec_of("anatomy", count=3, spatial=Spatial(rotate_deg=10, scale=(0.9, 1.1)))
    for one in samples(spec, FIVE, Exact()):
        for first in (0, 3):
            apart = [middle(v) - middle(one["views"][first]) for v in one["views"][first:][:3]]
            assert np.abs(apart).max() <= 5


def test_landmarks_are_tissue_away_from_the_ends_of_the_body():
    half = body((30, 30, 30), low=(4, 5, 6), size=(20, 20, 20))
    records = Records([half, half], [0, 1])
    for one in samples(spec_of("anatomy", crop=(3, 3, 3)), records, Exact(), 100):
        position = one["views"][0]["position"]
        assert ((position > 0.05) & (position < 0.95)).all()


def test_body_coordinates_find_the_place_whatever_the_size_and_field_of_view():
    records = Records([body((24, 24, 24)), body((60, 50, 44), low=(8, 2, 0), size=(48, 36, 40))],
                      [0, 1])  # fmt: skip
    matcher = BodyMatcher(spec_of("anatomy"), records)
    for position in ((0.5, 0.5, 0.5), (0.25, 0.5, 0.75)):
        voxel = np.array(position) * 24 - 0.5
        wanted = np.array((8, 2, 0)) + np.array(position) * (48, 36, 40) - 0.5
        np.testing.assert_allclose(matcher.match(0, voxel, 1).voxel, wanted)


def test_the_score_of_body_coordinates_tells_like_from_unlike():
    whole, brighter = body((30, 30, 30)), body((30, 30, 30), scale=1.5)
    mirrored = source(whole.read((0, 0, 0), (30, 30, 30))[:, ::-1], air=(0.5,), fill=(0.0,))
    records = Records([whole, brighter, mirrored], [0, 1, 2])
    matcher = BodyMatcher(spec_of("anatomy", crop=(16, 16, 16)), records)
    voxel = np.array([9.0, 9.0, 17.0])  # the first blob
    assert matcher.match(0, voxel, 1).score > 0.99
    assert matcher.match(0, voxel, 2).score < 0.5


def test_the_score_within_a_patient_falls_with_the_part_of_the_body_that_is_missing():
    half = body((12, 24, 24), spacing=(1.0, 1.0, 1.0))
    coarse = body((12, 24, 24), spacing=(2.0, 1.0, 1.0))  # all of it, in thick slices
    full = body((24, 24, 24))
    for other, score in ((half, 0.5), (coarse, 1.0)):
        records = Records([full, other], [0, 0])
        assert {one["partner"]["score"] for one in samples(spec_of("patient"), records)} == {score}


def test_neighbours_are_other_slices_within_reach():
    records = Records([body((24, 26, 28), spacing=(3.0, 1.0, 1.0))], [0])
    seen = set()
    for one in samples(spec_of("neighbour", crop=(16, 16), tries=1, threshold=-1), records):
        here, there = (view["place"][:, 3] for view in one["views"])
        assert np.array_equal(here[1:], there[1:])
        apart_mm = 3 * abs(here[0] - there[0])
        assert one["partner"]["record"] == 0
        assert one["partner"]["score"] == pytest.approx(1 - apart_mm / 10)
        seen.add(apart_mm)
    assert seen == {3, 6, 9}


def test_a_slice_with_good_neighbours_gets_one_of_them_at_once():
    records = Records([body((24, 26, 28), spacing=(1.0, 1.0, 1.0))], [0])
    found = samples(spec_of("neighbour", crop=(16, 16), tries=1, threshold=0.7), records)
    assert all(one["partner"]["kept"] for one in found)
    scores = {round(one["partner"]["score"], 6) for one in found}
    assert scores == {0.7, 0.8, 0.9}


def test_slices_farther_apart_than_the_reach_have_no_neighbours():
    records = Records([body((24, 26, 28), spacing=(11.0, 1.0, 1.0))], [0])
    found = samples(spec_of("neighbour", crop=(16, 16), threshold=-1), records, count=5)
    assert all(one["partner"]["kept"] is False for one in found)


@pytest.mark.parametrize(("score", "kept"), [(0.69, False), (0.7, True)])
def test_pairs_below_the_threshold_are_not_kept(score, kept):
    found = samples(spec_of("anatomy", threshold=0.7), FIVE, Exact(score=score), 5)
    assert all(one["partner"]["kept"] is kept for one in found)
    assert all(len(one["views"]) == 2 for one in found)


def test_several_tries_give_the_best_pair_or_the_first_that_is_good_enough():
    class Sequence:
        def __init__(self, *scores):
            self.scores = list(scores)

        def match(self, _record, voxel, _other):
            return Match(voxel, self.scores.pop(0))

    spec = spec_of("anatomy", threshold=0.7, tries=3)
    for scores, best in (((0.1, 0.5, 0.3), 0.5), ((0.1, 0.8, 0.9), 0.8)):
        one = build_sample(spec, generator(0), FIVE, 0, Sequence(*scores))
        assert one["partner"]["score"] == best


def test_pictures_and_volumes_are_no_pairs():
    records = Records([body((24, 26, 28)), body((1, 26, 28)), body((1, 26, 28))], [0, 1, 2])
    spec = spec_of("anatomy", crop=(9, 9), threshold=-1)
    for one in samples(spec, records, Exact(), 30):
        kinds = records.pictures[[one["record"], one["partner"]["record"]]]
        assert kinds[0] == kinds[1]
        assert one["partner"]["kept"] == (one["record"] > 0)


def test_equal_numbers_give_equal_pairs():
    spec = spec_of("anatomy", spatial=Spatial(rotate_deg=10))
    one, again = (
        build_sample(spec, generator(3), FIVE, 0, BodyMatcher(spec, FIVE)) for _ in range(2)
    )
    assert one["partner"] == again["partner"]
    assert all(
        np.array_equal(a["x"], b["x"]) for a, b in zip(one["views"], again["views"], strict=True)
    )


def test_a_spec_that_no_record_can_fulfil_is_refused():
    volumes, pictures = [body((24, 26, 28))] * 2, [body((1, 26, 28))] * 2
    with pytest.raises(NothingUsableError, match="other patients"):
        check_partners(spec_of("anatomy"), Records(volumes, [0, 0]))
    with pytest.raises(NothingUsableError, match="same patient"):
        check_partners(spec_of("patient"), Records(volumes, [0, 1]))
    with pytest.raises(NothingUsableError, match="neighbouring"):
        check_partners(spec_of("neighbour", crop=(9, 9)), Records(pictures, [0, 1]))
    with pytest.raises(ConfigError, match="volume encoder"):
        check_partners(spec_of("neighbour"), Records(volumes, [0, 1]))
    parts = ViewSpec(views=(View(crop=(9, 9)),), partitions=4)
    with pytest.raises(ConfigError, match="pictures"):
        check_partners(parts, Records([*volumes, *pictures], [0, 1, 2, 3]))
    clip = source(np.zeros((1, 9, 9, 9), np.float32), kind="clip")
    for spec in (parts, spec_of("neighbour", crop=(9, 9)), spec_of("patient")):
        with pytest.raises(ConfigError, match="1 records are clips"):
            check_partners(spec, Records([*volumes, clip], [0, 1, 2]))
    with pytest.raises(ConfigError, match="partitions"):
        both = spec_of("anatomy").model_copy(update={"partitions": 4})
        check_partners(both, Records(volumes, [0, 1]))


@pytest.mark.parametrize("kind", ["anatomy", "patient"])
def test_a_spec_that_some_records_can_fulfil_is_taken(kind):
    check_partners(spec_of(kind), FIVE)
