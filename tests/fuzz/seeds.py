"""Small valid files per reader, made in code and always the same: what the mutations start from."""

import bz2
import gzip
import io
import tarfile
import tempfile
import zipfile
import zlib
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
)

RNG = np.random.default_rng(2024)
VOXELS_WHD = RNG.integers(-900, 1500, (7, 6, 5)).astype(np.int16)
AFFINE = np.array([[0.9, 0, 0, -31], [0, 1.1, 0, 12], [0, 0, 2.5, 40], [0, 0, 0, 1.0]])
ROOT_UID = "1.2.826.0.1.3680043.8.498.1"


def nifti():
    """Plain, packed, version 2, pair, scaled, time series, channels."""
    one = nib.Nifti1Image(VOXELS_WHD, AFFINE)
    one.header.set_qform(AFFINE, 1)
    one.header.set_sform(AFFINE, 1)
    scaled = nib.Nifti1Image(VOXELS_WHD, AFFINE)
    scaled.header.set_slope_inter(0.5, -10)
    series = nib.Nifti1Image(np.stack([VOXELS_WHD, VOXELS_WHD + 1], -1), AFFINE)
    series.header.set_xyzt_units("mm", "sec")
    series.header["pixdim"][4] = 2.0
    pair = nib.Nifti1Pair(VOXELS_WHD, AFFINE)
    with tempfile.TemporaryDirectory() as folder:
        nib.save(pair, Path(folder, "x.img"))
        files = {name: Path(folder, name).read_bytes() for name in ("x.hdr", "x.img")}
    return {
        "plain": {"x.nii": one.to_bytes()},
        "packed": {"x.nii.gz": gzip.compress(one.to_bytes(), mtime=0)},
        "version2": {"x.nii": nib.Nifti2Image(VOXELS_WHD, AFFINE).to_bytes()},
        "pair": files,
        "scaled": {"x.nii.gz": gzip.compress(scaled.to_bytes(), mtime=0)},
        "series": {"x.nii": series.to_bytes()},
    }


def nrrd():
    """Raw, packed, detached, colour."""
    sizes = " ".join(map(str, VOXELS_WHD.shape))
    body = VOXELS_WHD.tobytes(order="F")

    def head(encoding, more="", dims=3, size=sizes, vectors="(1,0,0) (0,1.5,0) (0,0,3)"):
        return (
            f"NRRD0005\n# made by tests\ntype: short\ndimension: {dims}\n"
            f"space: left-posterior-superior\nsizes: {size}\nspace directions: {vectors}\n"
            f"endian: little\nencoding: {encoding}\nspace origin: (-10,20.5,7)\n{more}\n"
        ).encode()

    colour = np.stack([VOXELS_WHD] * 3).tobytes(order="F")
    vectors = "none (1,0,0) (0,1.5,0) (0,0,3)"
    kinds = "kinds: vector domain domain domain\n"
    return {
        "raw": {"x.nrrd": head("raw") + body},
        "gzip": {"x.nrrd": head("gzip") + gzip.compress(body, mtime=0)},
        "bzip2": {"x.nrrd": head("bzip2") + bz2.compress(body)},
        "detached": {"x.nhdr": head("raw", "data file: x.raw\n"), "x.raw": body},
        "colour": {"x.nrrd": head("raw", kinds, 4, f"3 {sizes}", vectors) + colour},
    }


def mha():
    """Raw, packed, detached."""
    sizes = " ".join(map(str, VOXELS_WHD.shape))
    body = VOXELS_WHD.tobytes(order="F")

    def head(data, packed=False):
        size = f"CompressedDataSize = {len(zlib.compress(body))}\n" if packed else ""
        return (
            "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
            f"CompressedData = {packed}\n{size}TransformMatrix = 1 0 0 0 1 0 0 0 1\n"
            "Offset = -10 20.5 7\nCenterOfRotation = 0 0 0\nAnatomicalOrientation = RAI\n"
            f"ElementSpacing = 1 1.5 3\nDimSize = {sizes}\nElementType = MET_SHORT\n"
            f"ElementDataFile = {data}\n"
        ).encode()

    return {
        "raw": {"x.mha": head("LOCAL") + body},
        "packed": {"x.mha": head("LOCAL", packed=True) + zlib.compress(body)},
        "detached": {"x.mhd": head("x.raw"), "x.raw": body},
    }


def image():
    """PNG, JPEG and TIFF."""
    grey = Image.fromarray(RNG.integers(0, 255, (24, 32)).astype(np.uint8))
    colour = Image.fromarray(RNG.integers(0, 255, (24, 32, 3)).astype(np.uint8))

    def saved(picture, kind, **how):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **how)
        return buffer.getvalue()

    return {
        "png": {"x.png": saved(grey, "PNG")},
        "png_colour": {"x.png": saved(colour, "PNG")},
        "jpeg": {"x.jpg": saved(colour, "JPEG", quality=90)},
        "tiff": {"x.tif": saved(grey, "TIFF")},
        "tiff_lzw": {"x.tif": saved(colour, "TIFF", compression="tiff_lzw")},
    }


def _dataset(sop_class, number, series, modality):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = f"{ROOT_UID}.{series}.{number}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    one.SOPClassUID, one.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    one.StudyDate, one.StudyTime, one.AccessionNumber = "20240102", "101010", ""
    one.Modality, one.Manufacturer = modality, "SIEMENS"
    one.PatientName, one.PatientID = "DOE^JOHN", "P1"
    one.PatientBirthDate, one.PatientSex, one.StudyID = "", "", ""
    one.StudyInstanceUID, one.SeriesInstanceUID = f"{ROOT_UID}.0", f"{ROOT_UID}.{series}"
    one.FrameOfReferenceUID = f"{ROOT_UID}.9"
    one.SeriesNumber, one.InstanceNumber = series, number + 1
    return one


def _pixels(one, array, photometric="MONOCHROME2"):
    one.SamplesPerPixel = 3 if photometric == "RGB" else 1
    one.PhotometricInterpretation = photometric
    if photometric == "RGB":
        one.PlanarConfiguration = 0
    shape = array.shape[:-1] if photometric == "RGB" else array.shape
    if len(shape) == 3:
        one.NumberOfFrames = shape[0]
    one.Rows, one.Columns = shape[-2:]
    one.BitsAllocated = one.BitsStored = array.itemsize * 8
    one.HighBit = one.BitsStored - 1
    one.PixelRepresentation = int(array.dtype.kind == "i")
    one.PixelData = array.tobytes()
    one["PixelData"].VR = "OW" if array.itemsize == 2 else "OB"


def _bytes(one):
    buffer = io.BytesIO()
    one.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def ct(number, series=1):
    """Slice of a CT series of five."""
    one = _dataset(CTImageStorage, number, series, "CT")
    one.ImagePositionPatient = [-10, -20, 2.5 * number]
    one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    one.PixelSpacing, one.SliceThickness = [0.8, 0.7], 2.5
    one.RescaleIntercept, one.RescaleSlope = -1024, 1
    rng = np.random.default_rng(number)
    _pixels(one, rng.integers(0, 3000, (10, 12)).astype(np.int16))
    return one


def _recoded(one, syntax):
    if syntax in {RLELossless, JPEGLSLossless}:
        one.compress(syntax, generate_instance_uid=False)
        return one
    one.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        one.PixelData = np.frombuffer(one.PixelData, "<i2").astype(">i2").tobytes()
    buffer = io.BytesIO()
    implicit = syntax == ImplicitVRLittleEndian
    little = syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(
        buffer, one, implicit_vr=implicit, little_endian=little, enforce_file_format=True
    )
    return buffer.getvalue()


def enhanced():
    """Enhanced MR with four frames."""
    one = _dataset(EnhancedMRImageStorage, 0, 3, "MR")
    one.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    rng = np.random.default_rng(9)
    _pixels(one, rng.integers(0, 900, (4, 8, 9)).astype(np.uint16))
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [1.2, 1.3], 4
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelMeasuresSequence = [measures]
    one.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number in range(4):
        frame, place, content = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, 4.0 * number]
        content.InStackPositionNumber, content.StackID = number + 1, "1"
        content.DimensionIndexValues = [1, number + 1]
        frame.PlanePositionSequence, frame.FrameContentSequence = [place], [content]
        frames.append(frame)
    one.PerFrameFunctionalGroupsSequence = frames
    return one


def dicom():
    """CT series in five transfer syntaxes, an enhanced MR."""
    kinds = {
        "explicit": ExplicitVRLittleEndian,
        "implicit": ImplicitVRLittleEndian,
        "big_endian": ExplicitVRBigEndian,
        "deflated": DeflatedExplicitVRLittleEndian,
        "rle": RLELossless,
        "jpeg_ls": JPEGLSLossless,
    }
    seeds = {}
    for name, syntax in kinds.items():
        coded = [_recoded(ct(number), syntax) for number in range(5)]
        files = [one if isinstance(one, bytes) else _bytes(one) for one in coded]
        seeds[name] = {f"{number}.dcm": content for number, content in enumerate(files)}
    return {**seeds, "enhanced": {"x.dcm": _bytes(enhanced())}}


def ultrasound():
    """A colour cine with a region, and one without."""
    one = _dataset(UltrasoundMultiFrameImageStorage, 0, 5, "US")
    rng = np.random.default_rng(3)
    cine = np.zeros((4, 32, 40, 3), np.uint8)
    cine[:, 6:28, 5:35] = rng.integers(20, 255, (4, 22, 30, 1))
    _pixels(one, cine, "RGB")
    one.FrameTime, one.FrameIncrementPointer = 33.3, 0x00181063
    bare = _bytes(one)
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 5, 6
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 34, 27
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = 0.05
    one.SequenceOfUltrasoundRegions = [region]
    return {"bare": {"x.dcm": bare}, "region": {"x.dcm": _bytes(one)}}


def video():
    """Short videos in four containers."""
    from pipelines._video_files import encoded

    return {
        "mp4": {"x.mp4": encoded(10, "mp4", gop=5)},
        "avi": {"x.avi": encoded(6, "avi", codec="mjpeg", pix_fmt="yuvj420p")},
        "mkv": {"x.mkv": encoded(8, "matroska", gop=4, b_frames=2)},
        "mpg": {"x.mpg": encoded(8, "mpeg", codec="mpeg2video")},
        "gif": {"x.gif": encoded(5, "gif", codec="gif", pix_fmt="rgb8")},
    }


def labels():
    """SEG and RTSTRUCT with the series they were drawn on."""
    from tests.readers.label_files import circle, write_rtstruct, write_seg

    sources = [ct(number) for number in range(5)]
    series = {f"{number}.dcm": _bytes(one) for number, one in enumerate(sources)}
    mask = np.zeros((5, 10, 12), np.uint8)
    mask[1:4, 3:7, 4:9] = 1
    # RAS: x and y turn their signs; steps along columns, rows and slices.
    affine = np.array([[-0.7, 0, 0, 10], [0, -0.8, 0, 20], [0, 0, 2.5, 0], [0, 0, 0, 1.0]])
    contours = [circle((5, 6), 2.5, place, affine, 24) for place in (1, 2, 3)]
    with tempfile.TemporaryDirectory() as folder:
        seg = write_seg(Path(folder, "seg.dcm"), sources, mask).read_bytes()
        fractional = Path(folder, "f.dcm")
        write_seg(fractional, sources, mask.astype(float)[..., None] * 0.5, kind="FRACTIONAL")
        drawn = write_rtstruct(Path(folder, "rt.dcm"), {"organ": contours}, sources[0])
        return {
            "seg": {**series, "seg.dcm": seg},
            "fractional": {**series, "seg.dcm": fractional.read_bytes()},
            "rtstruct": {**series, "rt.dcm": drawn.read_bytes()},
        }


def archives():
    """Zip and tar archives of the above."""
    members = {**nifti()["plain"], **dicom()["explicit"]}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(f"a/{name}"), content, zipfile.ZIP_DEFLATED)
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"a/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return {
        "zip": {"x.zip": packed.getvalue()},
        "tar": {"x.tar": plain.getvalue()},
        "tgz": {"x.tgz": gzip.compress(plain.getvalue(), mtime=0)},
    }


MAKERS = {
    f.__name__: f for f in (nifti, nrrd, mha, image, dicom, ultrasound, video, labels, archives)
}


@cache
def seeds_of(reader):
    """{name: {file name: content}} of one reader."""
    return MAKERS[reader]()
