"""The phantom is physics: HU, Rayleigh background, one anatomy on every grid."""

import numpy as np
import pytest
from scipy import stats

from medssl.archive._phantom_body import ct_scan, draw_patient, label_map, mr_scan
from medssl.archive.labelled import load_labelled, read_case
from medssl.archive.phantom import SHAPE_WHD, grid, write_archive
from medssl.core.geometry import to_voxel_order
from medssl.core.seeding import generator
from medssl.readers._read import read


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("phantom"), patients=1, seed=3)


def test_air_lung_and_bone_have_their_hounsfield_numbers():
    rng = generator(0, "t")
    patient = draw_patient(rng)
    hu = ct_scan(patient, grid(rng, max_tilt_deg=0), SHAPE_WHD, rng)
    assert np.median(hu[:, :3]) == pytest.approx(-1000, abs=5)
    share_of_lung = ((hu > -900) & (hu < -740)).mean()
    assert 0.02 < share_of_lung < 0.2 and hu.max() > 300


def test_mr_background_is_rayleigh_distributed():
    rng = generator(0, "t")
    mr = mr_scan(draw_patient(rng), grid(rng, max_tilt_deg=0), SHAPE_WHD, rng)
    corner = mr[:, :4, :4].ravel()
    sigma = np.sqrt((corner**2).mean() / 2)
    assert corner.mean() == pytest.approx(stats.rayleigh.mean(scale=sigma), rel=0.03)
    assert corner.std() == pytest.approx(stats.rayleigh.std(scale=sigma), rel=0.05)


def test_an_organ_keeps_its_place_and_volume_on_another_grid():
    rng = generator(0, "t")
    patient, straight, oblique = (
        draw_patient(rng),
        grid(rng, max_tilt_deg=0),
        grid(rng, max_tilt_deg=12),
    )
    centroids, volumes = [], []
    for affine in (straight, oblique):
        liver = to_voxel_order(label_map(patient, affine, SHAPE_WHD) == 1)
        centroids.append(affine @ [*np.argwhere(liver).mean(0), 1])
        volumes.append(liver.sum())
    assert np.linalg.norm(centroids[0] - centroids[1]) < 1.0
    assert volumes[0] == pytest.approx(volumes[1], rel=0.02)


def test_the_liver_is_on_the_right_and_the_spleen_on_the_left():
    rng = generator(0, "t")
    affine = grid(rng, max_tilt_deg=0)
    labels = to_voxel_order(label_map(draw_patient(rng), affine, SHAPE_WHD))
    x_mm = {v: (affine @ [*np.argwhere(labels == v).mean(0), 1])[0] for v in (1, 3)}
    assert x_mm[1] > 0 > x_mm[3]


def test_labels_cannot_be_found_by_a_threshold(phantom):
    labelled = load_labelled(phantom.labelled)
    image, _, drawn = read_case(labelled.cases[0], labelled)
    labels = drawn.labels_DHW
    low, high = np.percentile(image[0][labels == 1], [5, 95])
    inside = (image[0] > low) & (image[0] < high)
    dice = 2 * (inside & (labels == 1)).sum() / (inside.sum() + (labels == 1).sum())
    assert dice < 0.5


def test_same_seed_same_bytes(phantom, tmp_path):
    again = write_archive(tmp_path, patients=1, seed=3)
    for first in sorted(phantom.labelled.rglob("*.nii.gz")):
        assert (
            first.read_bytes()
            == (again.labelled / first.relative_to(phantom.labelled)).read_bytes()
        )
    other = write_archive(tmp_path / "other", patients=1, seed=4)
    assert (other.archive / "mr/PH0000.nii.gz").read_bytes() != (
        again.archive / "mr/PH0000.nii.gz"
    ).read_bytes()


def test_the_written_ct_is_the_scan(phantom):
    rng = generator(3, "patient", 0)
    patient, affine = draw_patient(rng), grid(rng, max_tilt_deg=0)
    sample = read(phantom.archive / "ct/PH0000")
    np.testing.assert_array_equal(sample.array[0], ct_scan(patient, affine, SHAPE_WHD, rng))
    np.testing.assert_allclose(sample.geometry.affine, affine, atol=1e-4)
