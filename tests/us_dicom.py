"""An ultrasound cine with a name printed over its picture, as DICOM."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy import ndimage

from tests.readers.ultrasound_phantom import fan

ULTRASOUND = "1.2.840.10008.5.1.4.1.1.3.1"
SHAPE = (480, 640)
BANNER = "DOE^JOHN 1961"


def true_fan():
    return fan(SHAPE, apex=(60.0, 320.0), r0=50.0, r1=390.0, half_angle_deg=38.0)


def drawn(text=BANNER, at=(12, 8), size_px=28):
    """Grey levels of a line of text."""
    image = Image.new("L", SHAPE[::-1])
    ImageDraw.Draw(image).text(at, text, font=ImageFont.load_default(size_px), fill=255)
    return np.array(image)


def banner_cine(n_frames=6, moving=True, text=None):
    """(T, H, W, 3) uint8: a fan of speckle with a name above it."""
    rng = np.random.default_rng(3)
    out = np.zeros((n_frames, *SHAPE, 3), np.uint8)
    for frame in out:
        # As wide as a beam: what differs from pixel to pixel is no speckle.
        waves = (ndimage.gaussian_filter(rng.normal(size=SHAPE), (1.5, 3)) for _ in range(2))
        speckle = np.clip(500 * np.hypot(*waves), 0, 255).astype(np.uint8)
        frame[:] = np.where(true_fan() & moving, speckle, 0)[..., None]
        frame[:] = np.maximum(frame, (drawn() if text is None else text)[..., None])
    return out


def save_us(path, frames_THWC, sop_class=ULTRASOUND, patient="DOE^JOHN", **more):
    """One multi-frame object, uncompressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = sop_class, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.PatientID, ds.PatientName, ds.Modality = "4711-0815", patient, "US"
    channels = frames_THWC.shape[-1]
    ds.NumberOfFrames, ds.Rows, ds.Columns, ds.SamplesPerPixel = *frames_THWC.shape[:3], channels
    ds.FrameTime = 40.0
    ds.PhotometricInterpretation = "RGB" if channels == 3 else "MONOCHROME2"
    if channels == 3:
        ds.PlanarConfiguration = 0
    bits = 8 * frames_THWC.itemsize
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits, bits - 1, 0
    ds.PixelData = frames_THWC.tobytes()
    for name, value in more.items():
        setattr(ds, name, value)
    ds.save_as(path, enforce_file_format=True)
    return path
