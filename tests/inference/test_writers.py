"""Label maps on disk: the input's grid, no identifiers, whole files only."""

import errno
import os

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medssl.core.errors import ResourceError
from medssl.inference.writers import (
    append_table,
    areas,
    volumes_mm3,
    write_label_names,
    write_mask,
    write_segmentation,
    write_table,
)

OBLIQUE = np.array([
    [0.61, -0.42, 0.9, -83.2], [0.55, 0.71, -0.3, 12.7], [-0.2, 0.4, 2.1, 5.1], [0, 0, 0, 1.0]
])  # fmt: skip
ROTATED = np.array([
    [0, -0.5, 0, 11.3], [0.8, 0, 0, -7.1], [0, 0, 3.0, 2.2], [0, 0, 0, 1.0]
])  # fmt: skip


def labels(shape=(6, 5, 4)):
    return np.random.default_rng(0).integers(0, 3, size=shape).astype(np.uint8)


def nifti(path, cls=nib.Nifti1Image, shape=(4, 5, 6), sform=(OBLIQUE, 2), qform=(ROTATED, 1)):
    image = cls(np.zeros(shape, np.int16), None)
    image.set_sform(*sform)
    image.set_qform(*qform)
    image.header["descrip"] = b"DOE^JOHN"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JOHN"))
    nib.save(image, path)
    return path


@pytest.mark.parametrize("cls", [nib.Nifti1Image, nib.Nifti2Image])
def test_grid_of_a_nifti_input_is_kept_bit_for_bit(tmp_path, cls):
    source = nifti(tmp_path / "in.nii.gz", cls)
    write_segmentation(tmp_path / "out.nii.gz", labels(), np.eye(4), like=source)
    a, b = nib.load(source), nib.load(tmp_path / "out.nii.gz")
    assert a.affine.tobytes() == b.affine.tobytes()
    assert a.shape == b.shape
    for code in ("sform", "qform"):
        old, new = (getattr(i.header, f"get_{code}")(coded=True) for i in (a, b))
        assert old[1] == new[1]
        assert old[0].tobytes() == new[0].tobytes()
    assert a.header.get_zooms() == b.header.get_zooms()


def test_only_a_qform_stays_only_a_qform(tmp_path):
    source = nifti(tmp_path / "in.nii", sform=(None, 0))
    write_segmentation(tmp_path / "out.nii.gz", labels(), np.eye(4), like=source)
    header = nib.load(tmp_path / "out.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (0, 1)


def test_big_endian_input(tmp_path):
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), OBLIQUE, header=None)
    swapped = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), OBLIQUE,
                              image.header.as_byteswapped(">"))  # fmt: skip
    nib.save(swapped, tmp_path / "in.nii")
    write_segmentation(tmp_path / "out.nii.gz", labels(), np.eye(4), like=tmp_path / "in.nii")
    before, after = nib.load(tmp_path / "in.nii"), nib.load(tmp_path / "out.nii.gz")
    assert before.header.endianness == ">"
    assert np.array_equal(after.affine, before.affine)


def test_one_time_point_of_a_4d_input(tmp_path):
    source = nifti(tmp_path / "in.nii.gz", shape=(4, 5, 6, 2))
    write_segmentation(tmp_path / "out.nii.gz", labels(), np.eye(4), like=source)
    assert nib.load(tmp_path / "out.nii.gz").shape == (4, 5, 6)


def test_voxels_come_back_as_uint8(tmp_path):
    write_segmentation(tmp_path / "out.nii.gz", labels(), ROTATED)
    image = nib.load(tmp_path / "out.nii.gz")
    assert image.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(image.dataobj), labels().transpose(2, 1, 0))


@pytest.mark.parametrize("affine", [ROTATED, OBLIQUE, np.diag([-1.0, -1.0, 5.0, 1.0])])
def test_simpleitk_sees_the_same_place(tmp_path, affine):
    sitk = pytest.importorskip("SimpleITK")
    rigid = affine.copy()
    rigid[:3, :3] = np.linalg.qr(affine[:3, :3])[0] * [0.5, 0.8, 3.0]
    write_segmentation(tmp_path / "out.nii.gz", labels(), rigid)
    seen = sitk.ReadImage(str(tmp_path / "out.nii.gz"))
    for index in ((0, 0, 0), (3, 4, 5), (3, 0, 5)):
        lps = np.array(seen.TransformIndexToPhysicalPoint(index))
        world = rigid[:3, :3] @ index + rigid[:3, 3]
        np.testing.assert_allclose(lps * [-1, -1, 1], world, atol=1e-3)


def test_sheared_grid_has_no_qform(tmp_path):
    write_segmentation(tmp_path / "out.nii.gz", labels(), OBLIQUE)
    image = nib.load(tmp_path / "out.nii.gz")
    assert int(image.header["qform_code"]) == 0
    np.testing.assert_allclose(image.affine, OBLIQUE, rtol=1e-6)


def test_rounded_direction_cosines_keep_a_qform(tmp_path):
    rounded = ROTATED.copy()
    rounded[2, 0] = 1e-5  # six decimals of a DICOM header: not quite a right angle
    write_segmentation(tmp_path / "out.nii.gz", labels(), rounded)
    assert int(nib.load(tmp_path / "out.nii.gz").header["qform_code"]) == 1


def test_header_text_of_the_input_is_not_copied(tmp_path):
    source = nifti(tmp_path / "in.nii")
    write_segmentation(tmp_path / "out.nii.gz", labels(), np.eye(4), like=source)
    assert b"DOE" in source.read_bytes()
    assert b"DOE" not in nib.load(tmp_path / "out.nii.gz").to_bytes()


def test_same_labels_same_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_segmentation(tmp_path / name, labels(), ROTATED)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_volume_of_a_counted_label():
    x = np.zeros((4, 4, 4), np.uint8)
    x[0, :2] = 1
    names = {0: "background", 1: "liver", 2: "tumour"}
    volumes = volumes_mm3(x, np.diag([0.5, -2.0, 3.0, 1.0]), names)
    assert volumes == pytest.approx({1: 8 * 3.0, 2: 0.0})


def test_sheared_voxels_have_the_determinant_as_volume():
    x = np.ones((1, 1, 1), np.uint8)
    golden = abs(np.linalg.det(OBLIQUE[:3, :3]))
    assert volumes_mm3(x, OBLIQUE, {1: "a"})[1] == pytest.approx(golden)


def test_tables_and_names(tmp_path):
    write_label_names(tmp_path / "labels.json", {1: "liver", 0: "background"})
    write_table(tmp_path / "volumes.csv", [["a", "b"], [1, "x, y"]])
    append_table(tmp_path / "volumes.csv", [[2, "z"]])
    assert '"0": "background",\n "1": "liver"' in (tmp_path / "labels.json").read_text()
    assert (tmp_path / "volumes.csv").read_text() == 'a,b\n1,"x, y"\n2,z\n'


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "out.nii.gz"
    write_segmentation(target, labels(), ROTATED)
    before = target.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError):
        write_segmentation(target, labels() * 0, ROTATED)
    assert target.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out.nii.gz"]


def test_areas_have_mm2_where_pixels_have_a_size():
    labels = np.zeros((10, 12), np.uint8)
    labels[2:5, 3:9] = 4
    names = {0: "background", 4: "polyp", 7: "absent"}
    assert areas(labels, (0.2, 0.5), names) == {4: (18, pytest.approx(1.8)), 7: (0, 0.0)}
    assert areas(labels, None, names) == {4: (18, None), 7: (0, None)}


def test_a_mask_comes_back_bit_for_bit(tmp_path):
    labels = np.random.default_rng(0).integers(0, 256, (31, 47)).astype(np.uint8)
    write_mask(tmp_path / "m.png", labels)
    back = Image.open(tmp_path / "m.png")
    assert back.mode == "L"  # no palette that other readers would show as colours
    np.testing.assert_array_equal(np.asarray(back), labels)
