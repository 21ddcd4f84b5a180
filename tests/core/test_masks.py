"""Token masks: exact counts, no token twice, replay, shapes that hide what they promise."""

import numpy as np
import pytest
from scipy import ndimage, stats

from medssl.core.errors import ConfigError
from medssl.core.masks import (
    block_mask,
    cell_mask,
    column_mask,
    draw_mask,
    hidden_count,
    jepa_blocks,
    random_mask,
    tube_blocks,
)
from medssl.core.seeding import generator
from medssl.core.viewspec import MaskSpec, TargetSpec

GRIDS = [(14, 14), (6, 6, 6), (2, 7, 7), (1, 8, 8), (3, 5)]
KINDS = ["random", "block", "column", "tube", "blocks"]


def spec(kind, ratio=0.6, **more):
    return MaskSpec(token_size=(1,), kind=kind, ratio=(ratio, ratio), cell=1, **more)


@pytest.mark.parametrize(
    ("tokens", "ratio", "hidden"),
    [(196, 0.75, 147), (196, 0.9, 176), (100, 0.29, 29), (8, 0.01, 1), (8, 0.999, 7), (2, 0.5, 1)],
)
def test_count_is_the_floor_with_one_hidden_and_one_visible(tokens, ratio, hidden):
    assert hidden_count(tokens, ratio) == hidden


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", KINDS)
def test_masks_have_exact_counts_replay_and_differ_between_samples(kind, grid):
    masks = [draw_mask(generator(0, n), spec(kind), grid) for n in range(20)]
    tokens = np.prod(grid)
    wanted = hidden_count(tokens, 0.6)
    if kind in ("column", "tube"):
        wanted = grid[0] * hidden_count(tokens // grid[0], 0.6)
    assert {int(mask.sum()) for mask in masks} == {wanted}
    assert all(mask.shape == (tokens,) and mask.dtype == bool for mask in masks)
    assert np.array_equal(masks[3], draw_mask(generator(0, 3), spec(kind), grid))
    assert len({mask.tobytes() for mask in masks}) > 1


def test_random_masks_hide_each_token_equally_often():
    counts = sum(random_mask(generator(0, n), (4, 4), 0.5).astype(int) for n in range(4000))
    # Drawn without replacement they vary less than independent ones: errs on the safe side.
    assert stats.chisquare(counts).pvalue > 1e-3


def test_blocks_are_fewer_and_larger_than_random_tokens():
    def pieces(draw):
        masks = [draw(generator(0, n), (14, 14), 0.4).reshape(14, 14) for n in range(50)]
        return np.mean([ndimage.label(mask)[1] for mask in masks])

    assert pieces(block_mask) < 0.3 * pieces(random_mask)


@pytest.mark.parametrize("ratio", [0.001, 0.5, 0.999])
@pytest.mark.parametrize("grid", [(1, 2), (2, 2), (1, 1, 3), (14, 14)])
def test_blocks_end_on_every_grid(grid, ratio):
    mask = block_mask(generator(0), grid, ratio)
    assert mask.sum() == hidden_count(np.prod(grid), ratio)


def test_columns_and_tubes_are_the_same_along_the_first_axis():
    mask = column_mask(generator(0), (8, 14, 14), 0.9).reshape(8, 14, 14)
    assert (mask == mask[0]).all()
    assert mask.sum() == 1408


def test_cells_hide_whole_voxels_of_the_coarser_levels():
    mask = cell_mask(generator(0), (8, 8, 1), 0.6, 4).reshape(8, 8, 1)
    for level in (2, 4):
        coarse = mask.reshape(8 // level, level, 8 // level, level).mean((1, 3))
        assert set(np.unique(coarse)) == {0.0, 1.0}
    assert mask.sum() == hidden_count(4, 0.6) * 16


def test_cells_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="cells of 4"):
        cell_mask(generator(0), (6, 8), 0.5, 4)


def test_ratio_is_drawn_and_a_miss_hides_nothing():
    wide = MaskSpec(token_size=(1,), ratio=(0.1, 0.5), probability=0.5)
    counts = np.array([draw_mask(generator(0, n), wide, (14, 14)).sum() for n in range(2000)])
    assert abs((counts > 0).mean() - 0.5) < 5 * np.sqrt(0.25 / 2000)
    hidden = counts[counts > 0] / 196
    assert 0.09 < hidden.min() < 0.12 < 0.28 < hidden.mean() < 0.32 < 0.48 < hidden.max() <= 0.5


@pytest.mark.parametrize("grid", [(14, 14), (6, 6, 6), (4, 8, 8), (2, 4), (1, 6, 6)])
def test_jepa_context_and_targets_never_meet(grid):
    tokens = np.prod(grid)
    options = TargetSpec(token_size=(1,))
    size = max(int(0.175 * tokens), 1)
    for n in range(200):
        blocks = jepa_blocks(generator(0, n), grid, options)
        assert not set(blocks.context) & set(blocks.targets.ravel())
        assert blocks.targets.shape == (4, size)
        assert blocks.context.shape == (tokens - 4 * size,)
        assert len(set(blocks.context)) == len(blocks.context)
        assert all(len(set(row)) == size for row in blocks.targets)
        assert min(blocks.context.min(), blocks.targets.min()) >= 0
        assert max(blocks.context.max(), blocks.targets.max()) < tokens


def test_jepa_targets_are_compact_blocks():
    for n in range(50):
        for row in jepa_blocks(generator(0, n), (14, 14), TargetSpec(token_size=(1,))).targets:
            h, w = np.ptp(np.unravel_index(row, (14, 14)), axis=1) + 1
            assert h * w - min(h, w) * 2 < 34 <= h * w
            assert max(h / w, w / h) <= 2  # 1.5 before rounding to tokens


def test_jepa_context_prefers_no_corner():
    # Cutting a sorted list to its first tokens would leave the end of the picture out.
    seen = np.zeros(196)
    for n in range(600):
        seen[jepa_blocks(generator(0, n), (14, 14), TargetSpec(token_size=(1,))).context] += 1
    halves = seen.reshape(14, 14).sum(1)
    assert abs(halves[:7].sum() / halves.sum() - 0.5) < 0.02


def test_jepa_on_a_grid_without_room_is_refused():
    with pytest.raises(ConfigError, match="leave no context"):
        jepa_blocks(generator(0), (2, 2), TargetSpec(token_size=(1,)))


def full_time(**options):
    return TargetSpec(token_size=(1, 1, 1), full_time=True, elongation=1.5, **options)


@pytest.mark.parametrize(("count", "share"), [(8, 0.15), (2, 0.7)])
@pytest.mark.parametrize("grid", [(8, 14, 14), (4, 7, 7), (1, 6, 9), (8, 2, 1)])
def test_targets_through_all_time_and_context_share_the_clip_out(grid, count, share):
    options = full_time(count=count, share=share, visible=0.1)
    tokens = np.prod(grid[1:])
    visible = max(int(0.1 * tokens), 1)
    for n in range(30):
        context, targets = jepa_blocks(generator(0, n), grid, options)
        assert (context.shape, targets.shape) == (
            (grid[0] * visible,),
            (1, np.prod(grid) - grid[0] * visible),
        )
        assert np.array_equal(np.sort(np.append(context, targets)), np.arange(np.prod(grid)))
        shown = np.zeros(np.prod(grid), dtype=bool)
        shown[context] = True
        assert (shown.reshape(grid) == shown.reshape(grid)[0]).all()


def test_nine_tenths_of_a_clip_are_hidden_through_all_time():
    context, _ = tube_blocks(generator(0), (8, 14, 14), full_time(count=2, share=0.7))
    assert len(context) == 8 * 19  # int(0.1 * 196)


def test_a_block_through_all_time_is_hidden_where_it_lies():
    # As many are visible as one block of half the tokens leaves: its edge need not move.
    for n in range(30):
        block = full_time(count=1, share=0.5, visible=0.5)
        targets = tube_blocks(generator(0, n), (2, 14, 14), block).targets[0]
        h, w = np.ptp(np.unravel_index(targets[:98], (14, 14)), axis=1) + 1
        assert 98 <= h * w < 98 + max(h, w)


def test_blocks_that_cover_all_leave_the_context_somewhere():
    everything = full_time(count=40, share=0.5)
    seen = [tube_blocks(generator(0, n), (1, 3, 3), everything) for n in range(90)]
    assert {int(blocks.context[0]) for blocks in seen} == set(range(9))


def test_a_single_token_per_time_step_is_refused():
    with pytest.raises(ConfigError, match="nothing to hide"):
        tube_blocks(generator(0), (8, 1, 1), full_time())
