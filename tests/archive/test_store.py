"""The store gives back what was put in, a crop at a time, or says that it cannot."""

import numpy as np
import pytest

from medssl.archive.store import Store, foreground_points, tissue_box
from medssl.core.errors import ReadError
from medssl.core.geometry import Geometry
from medssl.core.preprocess import Contract, prepare

AFFINE = np.diag([0.5, 1.0, 2.0, 1.0])


@pytest.fixture
def stored(tmp_path):
    rng = np.random.default_rng(0)
    volume = rng.normal(100, 20, (1, 70, 40, 90)).astype(np.float32)
    prepared = prepare(volume, Geometry.of_volume(AFFINE), "MR", Contract())
    labels = rng.integers(0, 3, volume.shape[1:]).astype(np.uint8)
    store = Store(tmp_path, Contract())
    store.put("k1", prepared, "hash", labels)
    return store, prepared, labels


def test_any_box_equals_the_prepared_volume(stored):
    store, prepared, labels = stored
    rng = np.random.default_rng(1)
    for _ in range(20):
        start = rng.integers(0, [69, 39, 89])
        stop = rng.integers(start + 1, [70, 40, 90], endpoint=True)
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        voxels = store.read("k1", tuple(start), tuple(stop))
        assert np.array_equal(voxels, prepared.array[(slice(None), *box)])
        assert np.array_equal(store.read_labels("k1", tuple(start), tuple(stop)), labels[box])


def test_entry_keeps_geometry_and_air(stored):
    store, prepared, _ = stored
    entry = store.entry("k1")
    assert np.array_equal(entry.affine, prepared.affine)
    assert entry.spacing_mm == (2.0, 1.0, 0.5)
    assert entry.air == prepared.air
    assert entry.fill == (float(prepared.array.min()),)


def test_another_contract_is_another_place(stored, tmp_path):
    store, _, _ = stored
    other = Store(tmp_path, Contract(spacing_mm=(1.0, 1.0, 1.0)))
    assert "k1" in store
    assert "k1" not in other


def test_truncated_file_is_reported_as_damaged(stored, tmp_path):
    _, _, _ = stored
    file = next(p for p in tmp_path.rglob("k1.b2nd"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ReadError) as caught:
        Store(tmp_path, Contract()).entry("k1")
    assert caught.value.reason == "store_damaged"


def test_missing_volume_is_reported_as_damaged(tmp_path):
    with pytest.raises(ReadError, match="cannot be read"):
        Store(tmp_path, Contract()).entry("nothing")


def test_no_temporary_file_stays(stored, tmp_path):
    assert sorted(p.name for p in tmp_path.rglob("*.b2nd")) == ["k1.b2nd", "k1.label.b2nd"]


def test_tissue_box_holds_the_tissue_and_no_stray_voxel():
    volume = np.zeros((2, 20, 30, 40))
    volume[0, 4:9, 5:25, 10:31] = volume[1, 6:10, 5:25, 10:31] = 1.0
    box = [[4, 5, 10], [10, 25, 31]]
    assert tissue_box(volume, (0.5, 0.5)).tolist() == box
    volume[0, 19, 0, 39] = volume[1, 0, 29, 0] = 1.0  # noise far away
    assert tissue_box(volume, (0.5, 0.5)).tolist() == box


def test_a_thin_end_of_the_body_is_kept_and_a_record_without_tissue_is_a_box():
    volume = np.zeros((1, 20, 30, 40))
    assert tissue_box(volume, (0.5,)).tolist() == [[0, 0, 0], [20, 30, 40]]
    volume[0, 5:15, 10:20, 10:20] = 1.0
    volume[0, 4, 10:13, 10:13] = 1.0  # 9 of 1009 voxels
    assert tissue_box(volume, (0.5,)).tolist() == [[4, 10, 10], [15, 20, 20]]


def test_an_entry_knows_its_tissue(tmp_path):
    rng = np.random.default_rng(0)
    volume = np.full((1, 20, 24, 28), -1000.0)
    volume[0, 3:15, 4:20, 5:25] = rng.normal(50, 20, (12, 16, 20))
    prepared = prepare(volume, Geometry.of_volume(np.eye(4)), "CT", Contract())
    store = Store(tmp_path, Contract())
    store.put("k", prepared, "hash")
    assert store.entry("k").tissue.tolist() == [[3, 4, 5], [15, 20, 25]]


def test_a_store_of_another_format_is_rebuilt(stored, tmp_path):
    store, _, _ = stored
    store.folder.rename(tmp_path / Contract().digest)  # its name before there was a format
    assert "k1" not in Store(tmp_path, Contract())


def test_foreground_points_lie_in_the_foreground_and_cover_rare_classes():
    labels = np.zeros((20, 20, 20), dtype=np.uint8)
    labels[:10] = 1
    labels[19, 19, 19] = 2
    points = foreground_points(labels)
    values = labels[tuple(points.T)]
    assert set(values) == {1, 2}
    assert (values == 2).mean() == 0.5
