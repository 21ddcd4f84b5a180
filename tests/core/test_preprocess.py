"""The preprocessing contract: intensities, resampling, and the way back."""

import numpy as np
import pytest
from scipy import ndimage

from medssl.core.errors import ReadError
from medssl.core.geometry import Geometry
from medssl.core.intensity import normalise
from medssl.core.preprocess import (
    Contract,
    prepare,
    prepare_labels,
    resize_linear,
    restore_labels,
)
from tests.core.orientations import CASES, SHAPE_DHW, affine_of, volume

GEOMETRY = Geometry.of_volume(affine_of(CASES[0]))


def ct(values):
    return np.array(values, dtype=np.float32).reshape(1, 1, 1, -1)


def blob(affine, shape, centre_mm, sigma_mm):
    """Gaussian blob sampled at the voxel centres of a grid."""
    voxels = np.stack(np.meshgrid(*map(np.arange, shape[::-1]), indexing="ij"), -1)
    apart = voxels @ affine[:3, :3].T + affine[:3, 3] - centre_mm
    return np.exp(-0.5 * (apart**2).sum(-1) / sigma_mm**2).transpose(2, 1, 0).astype(np.float32)


def centroid_mm(x_DHW, affine):
    d, h, w = ndimage.center_of_mass(x_DHW.astype(np.float64))
    return affine[:3, :3] @ [w, h, d] + affine[:3, 3]


def test_ct_window_maps_its_ends_to_0_and_1_and_clips_beyond():
    raw = ct([-3000, -1024, 0, 1024, 3000])
    out = prepare(raw, Geometry.of_volume(np.eye(4)), "CT", Contract()).array
    np.testing.assert_array_equal(out.ravel(), [0, 0, 0.5, 1, 1])


def test_ct_air_level_is_minus_900_hu():
    prepared = prepare(ct([-1024, -900, 40]), Geometry.of_volume(np.eye(4)), "CT", Contract())
    assert prepared.array.ravel()[1] == pytest.approx(prepared.air[0], abs=1e-3)


def test_mr_has_mean_0_and_deviation_1_whatever_the_scanner_gain():
    rng = np.random.default_rng(0)
    raw = rng.gamma(2.0, 100.0, (1, 20, 20, 20)).astype(np.float32)
    one = prepare(raw, GEOMETRY, "MR", Contract()).array.astype(np.float32)
    other = prepare(raw * 7 + 50, GEOMETRY, "MR", Contract()).array.astype(np.float32)
    assert one.mean() == pytest.approx(0, abs=1e-3)
    assert one.std() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(one, other, atol=2e-3)


def test_one_hot_voxel_does_not_set_the_scale_of_an_mr():
    raw = np.random.default_rng(0).normal(100, 10, (1, 20, 20, 20)).astype(np.float32)
    spiked = raw.copy()
    spiked[0, 0, 0, 0] = 1e6
    parts = [prepare(x, GEOMETRY, "MR", Contract()).array[0, 1:] for x in (raw, spiked)]
    np.testing.assert_allclose(*parts, atol=5e-3)


@pytest.mark.parametrize("case", CASES)
def test_a_blob_keeps_its_place_through_resampling(case):
    affine = affine_of(case, (10.0, -15.0, 5.0))
    shape, centre = (17, 31, 43), affine @ [20.3, 15.6, 8.2, 1]
    x_CDHW = blob(affine, shape, centre[:3], sigma_mm=3.0)[None] * 1000 - 1000
    contract = Contract(spacing_mm=(1.6, 1.0, 1.2))
    prepared = prepare(x_CDHW, Geometry.of_volume(affine), "CT", contract)
    x_DHW = prepared.array[0].astype(np.float32)
    found = centroid_mm(x_DHW - x_DHW.min(), prepared.affine)
    assert np.linalg.norm(found - centre[:3]) < 0.1


@pytest.mark.parametrize("case", CASES)
def test_labels_come_back_on_the_input_grid(case):
    labels = (volume() % 3).astype(np.int16)
    geometry = Geometry.of_volume(affine_of(case, (10.0, -15.0, 5.0)))
    prepared = prepare(volume()[None], geometry, "MR", Contract())
    on_grid = prepare_labels(labels, geometry, Contract())
    scores = np.stack([on_grid == value for value in range(3)]).astype(np.float32)
    np.testing.assert_array_equal(restore_labels(scores, prepared), labels)


def test_a_ball_survives_resampling_there_and_back():
    affine = affine_of(CASES[5])
    shape = (24, 40, 60)
    ball = blob(affine, shape, (affine @ [30, 20, 12, 1])[:3], sigma_mm=12.0) > 0.6
    geometry, contract = Geometry.of_volume(affine), Contract(spacing_mm=(1.5, 1.5, 1.5))
    prepared = prepare(ball[None] * 100.0, geometry, "MR", contract)
    on_grid = prepare_labels(ball.astype(np.uint8), geometry, contract)
    assert on_grid.shape == prepared.array.shape[1:]
    back = restore_labels(np.stack([on_grid == 0, on_grid == 1]).astype(np.float32), prepared) == 1
    dice = 2 * (back & ball).sum() / (back.sum() + ball.sum())
    assert dice > 0.95


def test_a_linear_ramp_stays_linear():
    ramp = np.broadcast_to(np.arange(20.0, dtype=np.float32), (20, 20, 20))
    out = resize_linear(ramp, (20, 20, 40))
    expected = (np.arange(40) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(out[10, 10, 1:-1], expected[1:-1], atol=1e-5)


def test_shrinking_does_not_alias_a_pattern_finer_than_the_new_voxels():
    stripes = np.broadcast_to(np.arange(64) % 2, (8, 8, 64)).astype(np.float32)
    out = resize_linear(stripes, (8, 8, 13))
    assert out.std() < 0.05


def test_spacings_that_agree_to_a_thousandth_are_not_resampled():
    affine = np.diag([1.0004, 1.0, 1.0, 1.0])
    prepared = prepare(
        volume()[None], Geometry.of_volume(affine), "MR", Contract(spacing_mm=(1, 1, 1))
    )
    assert prepared.array.shape[1:] == SHAPE_DHW
    np.testing.assert_allclose(prepared.affine, affine)


NAN = volume()[None].copy()
NAN[0, 1, 1, 1] = np.nan
REFUSED = {
    "nan_voxels": (NAN, GEOMETRY, "MR"),
    "constant": (np.full((1, *SHAPE_DHW), 7.0), GEOMETRY, "MR"),
    "geometry_unknown": (volume()[None], Geometry(kind="volume"), "MR"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_prepared_is_refused_with_its_reason(reason):
    with pytest.raises(ReadError) as caught:
        prepare(*REFUSED[reason], Contract())
    assert caught.value.reason == reason


def test_a_ct_of_pure_air_is_constant_after_the_window():
    air = np.random.default_rng(0).normal(-2000, 10, (1, *SHAPE_DHW))
    with pytest.raises(ReadError, match="one value"):
        prepare(air, GEOMETRY, "CT", Contract())


def test_contract_digest_names_the_content():
    assert Contract().digest == Contract(orientation="RAS").digest
    assert Contract().digest != Contract(spacing_mm=(1, 1, 1)).digest


def one_channel(values, dtype):
    return np.array(values, dtype=dtype), np.dtype(dtype)


@pytest.mark.parametrize("modality", ["US", "ES", "XC", "OP"])
def test_pictures_keep_their_levels(modality):
    x, stored = one_channel([0, 51, 255], np.uint8)
    scaled, _ = normalise(x.astype(np.float32), Contract().rule(modality), stored)
    np.testing.assert_allclose(scaled, [0, 0.2, 1])


def test_a_dark_frame_stays_dark():
    x, stored = one_channel([10, 20], np.uint8)
    scaled, _ = normalise(x.astype(np.float32), Contract().rule("ES"), stored)
    np.testing.assert_allclose(scaled, np.array([10, 20]) / 255, rtol=1e-6)


def test_only_zero_is_outside_the_ultrasound_sector():
    x, stored = one_channel([0, 1, 255], np.uint8)
    scaled, air = normalise(x.astype(np.float32), Contract().rule("US"), stored)
    assert (scaled < air).tolist() == [True, False, False]


@pytest.mark.parametrize("modality", ["CR", "DX", "MG", "XA", "RF", "PT", "NM"])
def test_gain_of_a_detector_does_not_matter(modality):
    x = np.random.default_rng(0).gamma(2.0, 100.0, 4000).astype(np.float32)
    rule, stored = Contract().rule(modality), np.dtype(np.uint16)
    one, other = normalise(x, rule, stored)[0], normalise(4 * x + 30, rule, stored)[0]
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_fractional_values_use_their_own_range():
    x = np.array([-2.0, 0.0, 2.0], np.float32)
    scaled, _ = normalise(x, Contract().rule("US"), x.dtype)
    np.testing.assert_allclose(scaled, [0, 0.5, 1])


def test_a_contract_of_an_older_card_still_loads():
    rule = {"kind": "window", "low": -1024.0, "high": 1024.0, "air": -900.0}
    mr = {"kind": "percentile", "low": 1.0, "high": 99.0, "air": 0.1}
    old = Contract.model_validate({"rules": {"CT": rule, "MR": mr, "unknown": mr}})
    assert old.rule("US") == old.rule("unknown")
