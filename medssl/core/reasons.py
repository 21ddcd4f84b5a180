"""Every reason code of the quarantine ledger: what it means, and what can be done about it.

The sentences are shown by ``medssl quarantine ls``, ``medssl doctor`` and docs/reasons.md. A code
is stable: scripts may depend on it. ``no_decoder:<uid>`` carries the transfer syntax. After a
change ``make docs`` writes the page again.
"""

from __future__ import annotations

from typing import NamedTuple


class Meaning(NamedTuple):
    """What a reason code means, and one thing to do; both are sentences without full stop."""

    what: str
    fix: str


COPY = "copy or export the file again from its source"
EXPORT = "export the series again, whole"
HEADER = "repair the header with the tool that wrote the file; medssl never guesses"
LEAVE = "nothing to do; it is listed so that nothing is lost silently"
REINDEX = "index the archive again"
MEMORY = "use a machine with more memory, or leave the item out"
UNPACK = "if you trust it, unpack it by hand and index the folder"
LABELS = "look at the label file; it must be drawn on this image's grid"

REASONS: dict[str, Meaning] = {
    # the file itself
    "empty_file": Meaning("the file has zero bytes", COPY),
    "truncated": Meaning("the file ends before its header says it should", COPY),
    "extra_bytes": Meaning("the file holds more than its header says", HEADER),
    "corrupt": Meaning("the content is damaged and does not unpack", COPY),
    "corrupt_pixels": Meaning("the pixels are damaged and do not decode", COPY),
    "no_pixels": Meaning("the header describes an image, but the file holds no pixels", COPY),
    "frames_mismatch": Meaning(
        "the pixel data hold another number of frames than the header says", HEADER
    ),
    "bad_pixel_format": Meaning("bits, samples or colour model contradict each other", HEADER),
    "bad_palette": Meaning("the colour table is missing or broken", HEADER),
    "bad_modality_lut": Meaning("the table from stored to real values is broken", HEADER),
    "broken_header": Meaning("the header is damaged", COPY),
    "unreadable": Meaning(
        "the file cannot be opened", "check permissions and the network share, then index again"
    ),
    "unassigned": Meaning("no reader took the file into a record: a fault of medssl", REINDEX),
    "changed": Meaning("the file is no longer what the index saw", REINDEX),
    "not_in_catalog": Meaning("the catalog knows no such record", REINDEX),
    "several_volumes": Meaning("more than one volume where one was asked for", "name one of them"),
    # the content is not what the name says
    "not_dicom": Meaning("named as DICOM, but it is not", LEAVE),
    "not_nifti": Meaning("named as NIfTI, but it is not a valid one", COPY),
    "not_image": Meaning("named as a picture, but it is not PNG, JPEG or TIFF", LEAVE),
    "not_nrrd": Meaning("named as NRRD, but it is not a valid one", COPY),
    "not_mha": Meaning("named as MetaImage, but it is not a valid one", COPY),
    "polyglot": Meaning("an archive and an image at once; only its members are read", LEAVE),
    "missing_file": Meaning("the header names a data file that is not there", COPY),
    "unsafe_path": Meaning("a name inside the file leads out of its folder", LEAVE),
    "nesting_too_deep": Meaning(
        "sequences inside sequences, deeper than any scanner writes", LEAVE
    ),
    # zip and tar archives
    "corrupt_archive": Meaning("the archive is damaged; members that can be read are", COPY),
    "archive_bomb": Meaning("it would unpack to far more than its size justifies", UNPACK),
    "unsupported_archive": Meaning("an archive of a kind that is not read", UNPACK),
    "unsupported_compression": Meaning("packed with a method that is not read", UNPACK),
    "encrypted": Meaning("it is encrypted", UNPACK),
    "nested_archive": Meaning("an archive inside an archive; only one level is read", UNPACK),
    "link_member": Meaning("a link inside an archive; links are never followed", LEAVE),
    "special_member": Meaning("a device, pipe or sparse file inside an archive", LEAVE),
    "duplicate_member": Meaning("a later member of the archive has the same name", LEAVE),
    "ambiguous_name": Meaning("a folder is named like the inside of the archive", "rename one"),
    # size
    "too_large": Meaning("it would take more memory than the cap allows", MEMORY),
    "out_of_memory": Meaning("memory ran out on this item", MEMORY),
    # decoding
    "no_decoder": Meaning(
        "no permissively licensed decoder exists for this transfer syntax or video coding",
        "export the series uncompressed, or install the extra that the message names",
    ),
    "decoder_crash": Meaning("the decoding process died on this item", COPY),
    "internal_error": Meaning(
        "a mistake in medssl, not in the file", "report the message; it names no file and nobody"
    ),
    "decoder_timeout": Meaning("decoding took longer than a healthy file could", COPY),
    "decoder_memory": Meaning("decoding took more memory than the header justifies", COPY),
    # video
    "not_video": Meaning("named as a video, but it is none", LEAVE),
    "bad_container": Meaning("the video container is damaged and does not open", COPY),
    "no_frames": Meaning("the video holds no frame that decoding could start from", COPY),
    "corrupt_frames": Meaning("video frames are damaged, or made from damaged ones", COPY),
    "frame_missing": Meaning("the decoder never gives a frame that the index lists", REINDEX),
    "frame_size_changes": Meaning("the frames of one video differ in size", EXPORT),
    "backend_disagrees": Meaning(
        "the chosen video library gives frames at other times than the index says",
        "index the archive with the video library pyav",
    ),
    "times_unknown": Meaning(
        "the clip does not say when its frames were shown",
        "fps=null keeps every frame, for encoders of single frames",
    ),
    "clip_too_short": Meaning("no shot is as long as a view", "choose another short-clip policy"),
    # geometry
    "bad_geometry": Meaning("orientation, position or spacing is missing or impossible", HEADER),
    "geometry_unknown": Meaning("the file does not say where its voxels lie", HEADER),
    "spacing_unknown": Meaning(
        "the picture does not say how large its pixels are",
        "scale pictures by size_px instead of spacing_mm",
    ),
    "gap": Meaning(
        "slices are missing, and spacing is never averaged over a gap",
        "find the missing slices, or index with --gaps split or resample",
    ),
    "duplicate_position": Meaning(
        "two slices at one place that no tag tells apart", "clean the series, then index again"
    ),
    "duplicate_file": Meaning("a copy of a file that is read already", LEAVE),
    "localizer": Meaning("a survey image to plan a scan by, not a volume", LEAVE),
    "header_contradiction": Meaning("numbers of the header contradict each other", HEADER),
    "too_few_slices": Meaning("fewer than 3 slices are no volume", LEAVE),
    # not supported
    "unsupported_multiframe": Meaning("several frames or pages of a kind that is not read", LEAVE),
    "unsupported_mosaic": Meaning("slices tiled into one mosaic that cannot be unpacked", LEAVE),
    "unsupported_2d": Meaning("a single image of a kind that is not read", LEAVE),
    "unsupported_colour": Meaning("colour pixels where a volume has one channel", LEAVE),
    "unsupported_analyze": Meaning(
        "Analyze 7.5 does not tell left from right", "convert it with a tool that knows its origin"
    ),
    "unsupported_layout": Meaning("voxels spread over files or written as text", EXPORT),
    "unsupported_dtype": Meaning("a number format that is not read", EXPORT),
    "unsupported_dimensions": Meaning("a number of dimensions that is not read", LEAVE),
    "bad_scaling": Meaning("slope or intercept is no number, or the slope is zero", HEADER),
    # voxel values
    "nan_voxels": Meaning("voxels are NaN or infinite", "look at the scan, repair or remove it"),
    "constant": Meaning("all voxels have one value: nothing to learn from", LEAVE),
    # data sets and labels
    "bad_dataset_json": Meaning("dataset.json is not a JSON mapping", "repair dataset.json"),
    "channel_shape_mismatch": Meaning("the channels of one case differ in shape", EXPORT),
    "channel_affine_mismatch": Meaning("the channels of one case lie on different grids", EXPORT),
    "label_shape_mismatch": Meaning("label and image differ in shape", LABELS),
    "label_affine_mismatch": Meaning("label and image lie on different grids", LABELS),
    "unknown_label_values": Meaning(
        "the label holds values that dataset.json does not name", "name them, or correct the label"
    ),
    "empty_label": Meaning("the label map holds only background", LABELS),
    "non_integer_labels": Meaning("label values are no whole numbers", LABELS),
    "colour_label": Meaning(
        "a mask holds colours instead of label numbers",
        "save masks as grey or palette PNG with whole numbers from 0",
    ),
    "soft_label": Meaning(
        "a mask holds levels between its labels (soft edges, or a JPEG of several labels)",
        "export masks as PNG without smoothing",
    ),
    "contradicting_classes": Meaning(
        "images with the same pixels are labelled with different classes",
        "keep the right label and remove the other copies",
    ),
    "not_a_label": Meaning("no DICOM segmentation and no structure set", LEAVE),
    "unsupported_segmentation": Meaning("a type of DICOM segmentation that is not read", LEAVE),
    "seg_not_possible": Meaning(
        "a DICOM SEG cannot refer to this scan (tilted, resampled, tiled, or UIDs missing)",
        "use the NIfTI result; it lies on the scan's own grid",
    ),
    "no_dicom_source": Meaning(
        "a DICOM SEG was asked for, but the scan is no DICOM", "predict with --format nifti"
    ),
    "needs_image_grid": Meaning(
        "contours have no voxels until the grid of their image is known",
        "give image and structure set together, e.g. to medssl finetune",
    ),
    "overlapping_labels": Meaning(
        "a voxel belongs to two segments or structures, a label map holds one label per voxel",
        "choose those that exclude each other in labels.json, see docs/labels.md",
    ),
    "other_frame_of_reference": Meaning(
        "label and image were made in different frames of reference", LABELS
    ),
    "broken_contour": Meaning("a contour point is not three finite numbers", COPY),
    "contour_off_slice": Meaning("a contour lies in no slice of the image", LABELS),
    "contour_volume_error": Meaning(
        "filling a structure gives another volume than its contours enclose",
        "look for contours that cross themselves or one another, or leave the image",
    ),
    "channel_mismatch": Meaning(
        "the number of channels is not what the model or data set says",
        "volumes: give one file per channel, as the model's card lists them; grey and colour "
        "pictures: train with match_channels=true",
    ),
    # a model that does not fit
    "not_a_volume": Meaning("an image or clip where the model takes volumes", LEAVE),
    "not_a_clip": Meaning("an image or volume where the model takes clips", LEAVE),
    "modality_mismatch": Meaning(
        "a scan of another modality than the model was trained on", "use a model of that modality"
    ),
    # copies with fewer traces of the patient
    "not_deidentified": Meaning(
        "an image of a kind that no rule says how to clean; it was not copied",
        "convert it to DICOM or NIfTI, or clean it by hand",
    ),
    "burned_in_text_possible": Meaning(
        "text may be drawn into the pixels, and no picture was found to keep; it was not copied",
        "look at it, and clean it by hand",
    ),
    # our own files
    "store_damaged": Meaning("a file of the store is damaged", "delete it; it will be rebuilt"),
}
_UNKNOWN = Meaning("a reason that this version of medssl does not know", "update medssl")


def meaning(code: str) -> Meaning:
    """Meaning of a reason code; ``no_decoder:<uid>`` too.

    >>> meaning("empty_file").what
    'the file has zero bytes'
    >>> meaning("no_decoder:1.2.840.10008.1.2.4.51").what
    'no permissively licensed decoder exists for this transfer syntax or video coding'
    """
    return REASONS.get(code.partition(":")[0], _UNKNOWN)


def as_markdown() -> str:
    """The table of docs/reasons.md."""
    lines = [
        "# Reason codes",
        "",
        "<!-- written by `make docs` from medssl/core/reasons.py; change that -->",
        "",
        "Every entry of a quarantine ledger has one of these codes. They are stable: a script may",
        "depend on them. `medssl quarantine ls CATALOG` counts them.",
        "",
        "| code | what it means | what to do |",
        "|---|---|---|",
    ]
    for code, (what, fix) in sorted(REASONS.items()):
        shown = f"{code}:<uid>" if code == "no_decoder" else code
        lines.append(f"| `{shown}` | {what} | {fix} |")
    return "\n".join(lines) + "\n"
