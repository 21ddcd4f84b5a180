"""Equal pixels have equal hashes, however they are stored; lossy ones only within one machine."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform
from PIL import Image, ImageDraw, ImageFont

from medssl.archive import _digest, quality
from medssl.archive._digest import pixel_hash
from medssl.archive.quality import examine, pixel_flags
from medssl.core.errors import ReadError
from medssl.core.geometry import Geometry
from medssl.readers._base import Found
from medssl.readers._dispatch import group_headers, read_header
from tests.readers.ultrasound_phantom import cine
from tests.scans import SHAPE_DHW, blob_hu, oblique, save_nifti


def only(path):
    (found,), _ = group_headers([read_header(path)])
    return found


def saved(path, x_HW, **options):
    Image.fromarray(x_HW).save(path, **options)
    return only(path)


@pytest.fixture
def x_HW():
    return np.random.default_rng(0).integers(0, 255, (96, 128), dtype=np.uint8)


def test_one_picture_in_two_lossless_files_has_one_hash(tmp_path, x_HW):
    png, tiff = saved(tmp_path / "a.png", x_HW), saved(tmp_path / "b.tif", x_HW)
    assert examine(png, "image", "XC") == examine(tiff, "image", "XC")


def test_one_changed_pixel_changes_the_pixel_hash_alone(tmp_path, x_HW):
    changed = x_HW.copy()
    changed[5, 7] ^= 1
    one = examine(saved(tmp_path / "a.png", x_HW), "image", "XC")
    two = examine(saved(tmp_path / "b.png", changed), "image", "XC")
    assert one.pixel_hash != two.pixel_hash
    assert one.perceptual_hash == two.perceptual_hash


def test_lossy_pixels_are_never_compared_across_decoders(monkeypatch):
    here, plain = pixel_hash(np.eye(2), lossy=True), pixel_hash(np.eye(2))
    monkeypatch.setattr(_digest, "decoders", lambda: "another decoder 9.9")
    assert pixel_hash(np.eye(2), lossy=True) != here
    assert pixel_hash(np.eye(2)) == plain


@pytest.mark.parametrize("codes", ["LPS", "PIR", "ASL", "IRP"])
def test_a_volume_has_one_hash_in_whatever_order_its_axes_are_stored(tmp_path, codes):
    x = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    stored = nib.Nifti1Image(x, np.diag([1.0, 2.0, 3.0, 1.0]))
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    nib.save(stored, tmp_path / "a.nii")
    nib.save(stored.as_reoriented(turn), tmp_path / "b.nii")
    nib.save(nib.Nifti1Image(x, np.diag([-1.0, 2.0, 3.0, 1.0])), tmp_path / "mirrored.nii")
    one, two, mirrored = (
        examine(only(tmp_path / name), "image", "MR").pixel_hash
        for name in ("a.nii", "b.nii", "mirrored.nii")
    )
    assert one == two != mirrored


def test_the_hash_does_not_depend_on_how_a_clip_is_cut(monkeypatch):
    x_CTHW = np.random.default_rng(0).integers(0, 255, (1, 9, 8, 8)).astype(np.uint8)
    clip = Found(
        files=("x",),
        format="video",
        shape=x_CTHW.shape,
        dtype="uint8",
        geometry=Geometry(kind="clip"),
    )

    def fake(found):
        class Frames:
            def frames(self, numbers):
                return x_CTHW[:, list(numbers)]

        return Frames()

    monkeypatch.setattr(quality, "sample", fake)
    whole = examine(clip, "image", "XC")
    monkeypatch.setattr(quality, "_CHUNK_BYTES", 2 * 64)
    assert examine(clip, "image", "XC") == whole


def test_volumes_have_hashes_and_no_flags(tmp_path):
    affine = oblique()
    volume = only(save_nifti(tmp_path / "a.nii.gz", blob_hu(affine), affine))
    facts = examine(volume, "image", "XC")
    assert volume.shape == (1, *SHAPE_DHW)
    assert len(facts.pixel_hash) == 64 and len(facts.perceptual_hash) == 16
    assert facts.flags == ()


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "nan_voxels"), (7.0, "constant")])
def test_pictures_nothing_can_be_learnt_from_are_refused(tmp_path, value, reason):
    x_DHW = np.full(SHAPE_DHW, 7.0, np.float32)
    x_DHW[0, 0, 0] = value
    volume = only(save_nifti(tmp_path / "a.nii", x_DHW, oblique()))
    with pytest.raises(ReadError) as error:
        examine(volume, "image", "XC")
    assert error.value.reason == reason


def test_a_constant_label_is_fine_and_has_no_perceptual_hash(tmp_path):
    volume = only(save_nifti(tmp_path / "a.nii", np.zeros(SHAPE_DHW, np.uint8), oblique()))
    assert examine(volume, "label", "CT").perceptual_hash is None


def test_text_and_sector_become_flags():
    image = Image.new("L", (320, 240))
    ImageDraw.Draw(image).pieslice((60, 20, 260, 220), 45, 135, fill=120)
    plain_CHW = np.asarray(image)[None]
    ImageDraw.Draw(image).text((5, 5), "DOE JOHN 1961", font=ImageFont.load_default(14), fill=255)
    assert pixel_flags(np.asarray(image)[None], "image", "XC") == ("burned_in_text",)
    (sector,) = pixel_flags(plain_CHW, "image", "US")
    # A quarter of a disc of radius 100 px.
    assert float(sector.partition("=")[2]) == pytest.approx(
        np.pi * 100**2 / 4 / 320 / 240, abs=0.02
    )


def test_ultrasound_without_sector_and_with_colour():
    black = np.zeros((3, 240, 320), np.uint8)
    assert pixel_flags(black, "image", "US") == ("sector_unknown",)
    frames, _ = cine(4, colour_box=(slice(100, 140), slice(140, 180)))
    assert "colour_doppler" in pixel_flags(np.moveaxis(frames, -1, 0), "clip", "US")


def test_a_clip_that_stands_still_is_flagged_whatever_the_pieces(monkeypatch):
    rng = np.random.default_rng(0)
    x_CTHW = rng.integers(0, 255, (3, 30, 48, 64)).astype(np.uint8)
    x_CTHW[:, 10:25] = x_CTHW[:, 10:11]
    clip = Found(
        files=("x",),
        format="video",
        shape=x_CTHW.shape,
        dtype="uint8",
        geometry=Geometry(kind="clip"),
    )

    class Frames:
        def frames(self, numbers):
            return x_CTHW[:, list(numbers)]

    monkeypatch.setattr(quality, "sample", lambda _: Frames())
    monkeypatch.setattr(quality, "_CHUNK_BYTES", 4 * x_CTHW[:, 0].nbytes)
    assert "still=0.47" in examine(clip, "image", "unknown").flags  # 14 of 30 repeat
