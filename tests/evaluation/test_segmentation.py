"""Dice, HD95 and volume error against closed forms, MONAI and SimpleITK."""

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance
from scipy import ndimage

from medssl.evaluation.segmentation import (
    PictureScore,
    diagonal_mm,
    hd95_mm,
    score,
    score_labels,
    score_pictures,
)


def grid(d_mm=1.0, h_mm=1.0, w_mm=1.0):
    return np.diag([w_mm, h_mm, d_mm, 1.0])


def cube(start=(4, 4, 4), side=5, shape=(20, 20, 20)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(s, s + side) for s in start)] = True
    return mask


def blob(seed, shape=(24, 20, 28)):
    noise = np.random.default_rng(seed).normal(size=shape)
    return ndimage.gaussian_filter(noise, 3) > 0.02


def test_perfect_match():
    assert score(cube(), cube(), grid()) == (1.0, 0.0, 0.0)


def test_disjoint_cubes_have_dice_zero():
    assert score(cube(), cube(start=(12, 12, 12)), grid()).dice == 0.0


def test_half_overlap_dice():
    # 5 x 5 x 5 shifted by one voxel: 100 of 125 voxels shared.
    assert score(cube(), cube(start=(5, 4, 4)), grid()).dice == pytest.approx(200 / 250)


@pytest.mark.parametrize(("axis", "spacing_mm"), [(0, 3.0), (1, 0.7), (2, 0.5)])
def test_hd95_of_shifted_cube_is_the_shift_in_mm(axis, spacing_mm):
    start = [4, 4, 4]
    start[axis] += 2
    moved = hd95_mm(cube(), cube(start=tuple(start)), grid(3.0, 0.7, 0.5))
    assert moved == pytest.approx(2 * spacing_mm)


def test_hd95_ignores_rotation_of_the_grid():
    angle = 0.4
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = [10, -40, 7]
    a, b = blob(0), blob(1)
    assert hd95_mm(a, b, turn @ grid(3, 1, 0.5)) == pytest.approx(hd95_mm(a, b, grid(3, 1, 0.5)))


def test_shear_is_measured_in_true_millimetres():
    # Gantry tilt: one voxel along D moves 1 mm in z and 1 mm in y.
    tilted = grid()
    tilted[1, 2] = 1.0
    one, other = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    one[2, 4, 4], other[3, 4, 4] = True, True
    assert hd95_mm(one, other, tilted) == pytest.approx(np.sqrt(2))


@pytest.mark.parametrize("seed", range(4))
def test_hd95_agrees_with_monai(seed):
    a, b = blob(seed), blob(seed + 10)
    pair = (torch.from_numpy(m)[None, None] for m in (a, b))
    golden = compute_hausdorff_distance(
        *pair, include_background=True, percentile=95, spacing=[3.0, 0.7, 0.5]
    )
    assert hd95_mm(a, b, grid(3.0, 0.7, 0.5)) == pytest.approx(float(golden), rel=1e-5)


def test_dice_and_volume_agree_with_simpleitk():
    sitk = pytest.importorskip("SimpleITK")
    a, b = blob(5), blob(6)
    images = [sitk.GetImageFromArray(m.astype(np.uint8)) for m in (a, b)]
    for image in images:
        image.SetSpacing((0.5, 0.7, 3.0))
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*images)
    volumes = []
    for image in images:
        shape = sitk.LabelShapeStatisticsImageFilter()
        shape.Execute(image)
        volumes.append(shape.GetPhysicalSize(1))
    ours = score(a, b, grid(3.0, 0.7, 0.5))
    assert ours.dice == pytest.approx(overlap.GetDiceCoefficient())
    assert ours.volume_error_mm3 == pytest.approx(volumes[0] - volumes[1])


def test_both_empty_is_perfect():
    empty = np.zeros((5, 5, 5), bool)
    assert score(empty, empty, grid()) == (1.0, 0.0, 0.0)


def test_one_empty_costs_the_image_diagonal():
    empty = np.zeros((20, 20, 20), bool)
    missed = score(empty, cube(), grid(3, 4, 12))
    assert missed == (0.0, pytest.approx(13 * 20), -125 * 144)
    assert score(cube(), empty, grid(3, 4, 12)).hd95_mm == missed.hd95_mm


def test_label_at_the_image_border_has_a_surface():
    full = np.ones((4, 4, 4), bool)
    assert score(full, full, grid()).hd95_mm == 0.0


def test_a_volume_error_keeps_its_sign():
    assert score(cube(side=3), cube(), grid(2, 1, 1)).volume_error_mm3 == (27 - 125) * 2


def test_labels_are_scored_separately():
    ref = cube().astype(np.uint8) + 2 * cube(start=(12, 12, 12)).astype(np.uint8)
    pred = np.where(ref == 2, 3, ref)
    scores = score_labels(pred, ref, grid())
    assert {k: s.dice for k, s in scores.items()} == {1: 1.0, 2: 0.0, 3: 0.0}


def test_diagonal_of_a_unit_voxel():
    assert diagonal_mm(grid(2, 3, 6), (1, 1, 1)) == pytest.approx(7)


def disk(centre, radius, shape=(40, 50)):
    return ((np.indices(shape) - np.array(centre)[:, None, None]) ** 2).sum(0) < radius**2


@pytest.mark.parametrize("centre", [(20, 25), (3, 4), (39, 49)])
def test_hd95_of_pictures_is_monais(centre):
    pred, ref = disk(centre, 9), disk((20, 25), 7)
    one_hot = [torch.from_numpy(m)[None, None].float() for m in (pred, ref)]
    golden = compute_hausdorff_distance(*one_hot, include_background=True, percentile=95).item()
    assert score_pictures(pred.astype(int), ref.astype(int))[1].hd95_px == pytest.approx(golden)


def test_a_shifted_outline_is_its_shift_away():
    pred, ref = np.zeros((2, 30, 30), int)
    pred[5:15, 8:20], ref[5:15, 5:17] = 1, 1
    score = score_pictures(pred, ref)[1]
    assert (score.hd95_px, score.area_error_px) == (3.0, 0)
    assert score.dice == pytest.approx(2 * 90 / 240)


def test_a_missed_label_costs_the_diagonal_of_the_picture():
    ref = np.zeros((30, 40), int)
    ref[4, 5] = 3
    assert score_pictures(np.zeros((30, 40), int), ref) == {3: PictureScore(0.0, 50.0, -1)}
    assert score_pictures(0 * ref, 0 * ref) == {}
