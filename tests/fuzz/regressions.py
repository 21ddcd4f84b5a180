"""Bugs that fuzzing found: (what went wrong, reader, seed file, edits, reason or "read")."""

REGRESSIONS = [
    (
        "unknown datatype code was a KeyError of nibabel",
        "nifti",
        "plain",
        [("set", "x.nii", 70, "03")],
        "unsupported_dtype",
    ),
    (
        "fourth byte of the magic was not looked at",
        "nifti",
        "pair",
        [("set", "x.hdr", 347, "ff")],
        "not_nifti",
    ),
    (
        "TIFF without dimensions was a TypeError of Pillow",
        "image",
        "tiff",
        [("delete", "x.tif", 117, 133)],
        "corrupt",
    ),
    (
        "missing BitsStored of a compressed slice was a KeyError",
        "dicom",
        "jpeg_ls",
        [("set", "1.dcm", 620, "4453"), ("cut", "0.dcm", 787)],
        "bad_pixel_format",
    ),
    (
        "odd length of a number in the meta header escaped pydicom",
        "dicom",
        "deflated",
        [("set", "4.dcm", 138, "0700")],
        "broken_header",
    ),
    (
        "ultrasound whose header breaks off was ignored without an entry",
        "ultrasound",
        "region",
        [("delete", "x.dcm", 216, 218)],
        "broken_header",
    ),
    (
        "segmentation whose SOP class was garbled became an image",
        "labels",
        "fractional",
        [("tag", "seg.dcm", "SOPClassUID", "65535")],
        "header_contradiction",
    ),
    (
        "ultrasound whose modality was garbled kept its banner",
        "ultrasound",
        "region",
        [("tag", "x.dcm", "Modality", "65535")],
        "header_contradiction",
    ),
    (
        "two numbers of frames were read as one frame",
        "dicom",
        "jpeg_ls",
        [("tag", "1.dcm", "NumberOfFrames", "1\\2")],
        "bad_pixel_format",
    ),
    (
        "number with the length of a text escaped pydicom",
        "ultrasound",
        "region",
        [("set", "x.dcm", 670, "554c")],
        "broken_header",
    ),
]
