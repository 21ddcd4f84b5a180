"""Landmarks found by dense embeddings: at themselves, shifted, and through half-voxel offsets."""

import numpy as np
import pytest

from medssl.views.embedding import Embedding, EmbeddingMatcher, Grid, coarse_norm

RNG = np.random.default_rng(0)
WAVES, PHASES = RNG.normal(0, 0.35, (3, 24)), RNG.uniform(0, 6, 24)
SHAPE = (24, 28, 20)


def field(voxel):
    """Unit vectors that vary smoothly over space: an embedding without mistakes."""
    vectors = np.sin(voxel @ WAVES + PHASES)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def embedded(fine_step, coarse_step, shift=(0, 0, 0), shape=SHAPE, dtype=np.float32):
    """Of a record that shows the field from ``shift`` on."""
    arrays, grids = [], []
    for step in (fine_step, coarse_step):
        grid = Grid.of_step(np.broadcast_to(step, 3))
        cells = [np.arange(-(-n // s)) for n, s in zip(shape, grid.step, strict=True)]
        places = grid.voxel(np.stack(np.meshgrid(*cells, indexing="ij"), -1))
        arrays.append(field(places + np.array(shift)).astype(dtype))
        grids.append(grid)
    (fine, coarse), (fine_grid, coarse_grid) = arrays, grids
    norm = coarse_norm(fine, fine_grid, coarse, coarse_grid)
    return Embedding(fine, fine_grid, coarse, coarse_grid, norm, shape)


class Several(list):
    def embedding(self, record):
        return self[record]


def matcher(*embeddings):
    return EmbeddingMatcher(Several(embeddings))


def landmarks(count=20, border=0):
    low, high = np.full(3, border), np.array(SHAPE) - border
    return np.random.default_rng(1).integers(low, high, (count, 3)).astype(float)


@pytest.mark.parametrize("steps", [(1, 4), (2, 4), ((1, 2, 2), (3, 8, 8))])
def test_a_record_searched_in_itself_gives_the_same_voxel_with_score_1(steps):
    found = matcher(embedded(*steps))
    for voxel in landmarks():
        match = found.match(0, voxel, 0)
        assert np.array_equal(match.voxel, voxel)
        assert match.score == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("shift", [(4, 0, 0), (-4, 4, 4)])
def test_a_shift_of_the_record_shifts_the_match(shift):
    found = matcher(embedded(2, 4), embedded(2, 4, shift))
    for voxel in landmarks(border=9):
        match = found.match(0, voxel, 1)
        assert np.array_equal(match.voxel, voxel - shift)
        assert match.score == pytest.approx(1.0, abs=1e-5)


def test_a_shift_by_part_of_a_cell_is_found_within_a_cell():
    found = matcher(embedded(2, 4), embedded(2, 4, (3, 5, -1)))
    for voxel in landmarks(border=7):
        match = found.match(0, voxel, 1)
        assert np.abs(match.voxel - (voxel - (3, 5, -1))).max() <= 2
        assert 0.8 < match.score < 1.0


def test_records_of_different_steps_agree_on_the_place():
    # The same space, once at half the step: half a cell forgotten would bias all places one way.
    found = matcher(embedded(1, 4), embedded(2, 4))
    apart = [found.match(0, voxel, 1).voxel - voxel for voxel in landmarks(200, border=3)]
    assert np.abs(apart).max() <= 1.5
    assert np.abs(np.mean(apart, axis=0)).max() < 0.1


def test_the_score_is_the_mean_of_both_cosines():
    one, other = embedded(2, 4), embedded(2, 4, (0, 2, 0))
    mixed = Embedding(one.fine, one.fine_grid, -one.coarse, one.coarse_grid, one.coarse_norm, SHAPE)
    voxel = np.array([9.0, 9.0, 9.0])
    assert matcher(one, mixed).match(0, voxel, 1).score < 0.6  # fine 1, coarse -1 there
    assert matcher(one, other).match(0, voxel, 1).score == pytest.approx(1.0, abs=0.05)


def test_half_precision_on_disk_finds_the_same_places(tmp_path):
    full, half = embedded(2, 4), embedded(2, 4, dtype=np.float16)
    np.save(tmp_path / "fine.npy", half.fine)
    mapped = Embedding(
        np.load(tmp_path / "fine.npy", mmap_mode="r"), half.fine_grid, half.coarse,
        half.coarse_grid, half.coarse_norm, SHAPE,
    )  # fmt: skip
    for voxel in landmarks(10):
        match = matcher(full, mapped).match(0, voxel, 1)
        assert np.array_equal(match.voxel, voxel)
        assert match.score == pytest.approx(1.0, abs=2e-3)


def test_places_stay_inside_the_record_where_cells_reach_out_of_it():
    shape = (5, 5, 5)
    found = matcher(embedded(4, 4, shape=shape))
    assert np.array_equal(found.match(0, np.full(3, 4.0), 0).voxel, np.full(3, 4.0))
