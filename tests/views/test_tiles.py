"""Base crops: side by side in the plain grid, and all other views within them."""

import numpy as np
import pytest

from medssl.core.viewspec import Spatial, View
from tests.views.sources import VOLUME, grid_of, in_record, source, views_of

WILD = Spatial(rotate_deg=20, scale=(0.7, 1.4))
CROP = (8, 6, 4)
GRID = (1, 3, 2)


def corners(view):
    """Lowest and highest voxel of the record that a view shows."""
    points, _ = grid_of(view)
    places = in_record(view["place"], points)
    return places.min(0), places.max(0)


@pytest.mark.parametrize("seed", range(4))
def test_tiles_are_blocks_of_the_record_side_by_side_in_raster_order(seed):
    views = views_of(seed, source(), View(crop=CROP, tiles=GRID, spatial=WILD))
    assert len(views) == 6
    start = corners(views[0])[0].astype(int)
    for view, index in zip(views, np.ndindex(*GRID), strict=True):
        low = start + np.array(index) * CROP
        np.testing.assert_array_equal(view["place"], np.hstack([np.eye(3), low[:, None]]))
        cut = tuple(slice(a, a + n) for a, n in zip(low, CROP, strict=True))
        np.testing.assert_array_equal(view["x"][0], VOLUME[0][cut])


def test_the_block_moves_over_the_whole_record():
    starts = [corners(views_of(s, source(), View(crop=CROP, tiles=GRID))[0])[0] for s in range(200)]
    assert np.min(starts, 0).tolist() == [0, 0, 0]
    assert np.max(starts, 0).tolist() == [20 - 8, 24 - 18, 28 - 8]


@pytest.mark.parametrize("spatial", [Spatial(), WILD])
def test_later_views_lie_within_the_block(spatial):
    for seed in range(20):
        tiles = View(crop=CROP, tiles=GRID)
        *base, a, b = views_of(seed, source(), tiles, View(crop=CROP, count=2, spatial=spatial))
        low = np.min([corners(view)[0] for view in base], 0)
        high = np.max([corners(view)[1] for view in base], 0)
        fits = (1.0, 1.0, 1.0) if spatial == Spatial() else (0.0, 1.0, 1.0)  # one tile is too thin
        for view in (a, b):
            inside = (corners(view)[0] >= low - 0.5) & (corners(view)[1] <= high + 0.5)
            assert (inside >= fits).all()


def test_random_crops_reach_every_tile():
    found = set()
    for seed in range(60):
        views = views_of(seed, source(), View(crop=CROP, tiles=GRID), View(crop=CROP))
        offset = corners(views[-1])[0] - corners(views[0])[0]
        found.add(tuple(np.rint(offset[1:] / CROP[1:]).astype(int).tolist()))
    assert found == {(h, w) for h in range(3) for w in range(2)}


def test_a_smaller_record_lies_in_the_middle_and_the_rest_is_padding():
    small = source(VOLUME[:, :, :6, :4])
    views = views_of(0, small, View(crop=CROP, tiles=(1, 3, 3)), View(crop=CROP))
    full = [bool(view["tissue"].any()) for view in views[:9]]
    assert full == [False] * 4 + [True] + [False] * 4
    assert (views[0]["x"] == -10.0).all()
    assert views[-1]["tissue"].any()


def test_pictures_and_slices_have_tiles_in_the_plane():
    tiles = View(crop=(6, 4), tiles=(2, 3))
    thick = source(spacing_mm=(1.0, 1.0, 5.0))  # slices lie across the last axis
    for record, axis in ((source(), 0), (thick, 2)):
        views = views_of(1, record, tiles, View(crop=(6, 4)))
        assert [view["x"].shape for view in views] == [(1, 6, 4)] * 7
        assert len({float(corners(view)[0][axis]) for view in views}) == 1
