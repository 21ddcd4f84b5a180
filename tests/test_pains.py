# ruff: noqa: E501 - one line per pain
"""Where each known pain of other readers, and each attack on a reader, has its test.

The pains are those that users reported of other toolkits; a test that is renamed or removed is
missed here.
"""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage

TESTS = Path(__file__).parent
PAINS = {
    "1 affine invented": "readers/test_dicom_pains.py::test_pain_1_a_multiframe_file_without_geometry_gets_no_affine",
    "2 slice order by InstanceNumber": "readers/test_dicom_pains.py::test_pain_2_instance_numbers_that_lie_do_not_order_slices",
    "3 missing slices": "readers/test_dicom_pains.py::test_pain_3_spacing_is_never_averaged_over_a_missing_slice",
    "4 gantry tilt": "readers/test_dicom_pains.py::test_pain_4_a_tilted_head_ct_is_sheared_not_upright",
    "5 several acquisitions": "readers/test_dicom_pains.py::test_pain_5_echoes_and_phases_of_one_series_are_volumes_named_by_their_tag",
    "6 localizers, mixed matrix": "readers/test_dicom_pains.py::test_pain_6_localizers_and_other_matrices_do_not_disturb_the_volume",
    "7 enhanced spacing": "readers/test_dicom_pains.py::test_pain_7_spacing_of_an_enhanced_file_comes_from_its_frame_positions",
    "8 decoder missing": "stages/test_doctor.py::test_a_missing_decoder_is_named",
    "9 memory of large multi-frame files": "test_pains.py::test_two_frames_of_a_long_cine_take_the_memory_of_two_frames",
    "10 ultrasound": "readers/test_us_sector.py::test_text_and_ecg_outside_are_0_in_every_frame",
    "11 label on another grid": "readers/test_labels.py::test_a_larger_shift_is_refused_with_the_distance",
    "12 sform and qform": "readers/test_nifti.py::test_the_sform_rules_and_a_differing_qform_is_flagged",
    "13 directions not orthonormal": "readers/test_nifti_kinds.py::test_rounding_of_the_directions_is_repaired_to_the_nearest_rotation",
    "14 flipped exports": "test_geometry_path.py::test_all_48_orientations_of_an_oblique_nifti",
    "15 SEG and RTSTRUCT for training": "archive/test_labelled_dicom.py::test_a_table_may_name_seg_and_rtstruct",
    "16 one corrupt file": "stages/test_pretrain.py::test_a_bad_volume_is_quarantined_and_the_rest_is_used",
    "17 silent substitution": "stages/test_data.py::test_damaged_volume_is_replaced_and_counted",
    "18 ranks out of step": "stages/test_pretrain.py::test_two_processes_have_the_loss_curve_of_one",
    "28 is pretraining worth it, test scans in it": "stages/test_compare.py::test_a_pretraining_that_has_seen_test_scans_is_refused_or_marked",
    "29 patient leakage": "stages/test_compare.py::test_patients_are_disjoint_and_choices_nested_under_any_grouping",
    "zip slip": "readers/test_containers.py::test_zip_slip_absolute_paths_and_control_characters_are_refused",
    "symlink": "readers/test_containers.py::test_links_devices_and_pipes_in_a_tar_are_refused",
    "zip bomb": "readers/test_containers.py::test_a_zip_that_claims_10_gb_in_10_kb_is_refused",
    "nii.gz bomb": "readers/test_hostile.py::test_a_nifti_gz_bomb_is_refused_without_memory",
    "deflate bomb": "readers/test_dicom_pixels_refused.py::test_a_deflate_bomb_is_refused_before_it_is_inflated",
    "rows x columns x frames": "readers/test_hostile.py::test_rows_times_columns_that_overflow_or_lie",
    "spacing NaN, Inf, zero": "readers/test_hostile.py::test_spacing_that_is_no_number_or_impossible",
    "more pixels than file": "readers/test_dicom_pixels_refused.py::test_a_cut_uncompressed_file_is_refused",
    "UID as path": "readers/test_hostile.py::test_a_uid_that_is_a_path_leads_nowhere",
    "nesting bomb": "readers/test_hostile.py::test_a_nesting_bomb_ends_in_the_ledger_or_is_skipped_over",
    "zero bytes, wrong ending": "readers/test_hostile.py::test_zero_bytes_and_a_wrong_extension_are_refused_by_name",
    "polyglot preamble": "readers/test_hostile.py::test_a_polyglot_preamble_is_dicom_and_nothing_else",
    "character sets": "readers/test_hostile.py::test_patient_names_in_any_character_set_do_not_matter",
    "full disk": "stages/test_pretrain.py::test_full_disk_exits_6_and_keeps_the_last_checkpoint",
    "kill -9": "archive/test_indexing.py::test_a_killed_indexing_ends_in_the_same_catalog",
    "identifiers in outputs": "test_leaks.py",
    "no connection": "stages/test_main_job.py",
    "two decoders, one frame": "readers/test_video.py",
}  # fmt: skip


@pytest.mark.parametrize("pain", PAINS)
def test_each_has_a_test(pain):
    file, _, name = PAINS[pain].partition("::")
    tree = ast.parse((TESTS / file).read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert name in functions if name else any(f.startswith("test_") for f in functions)


def test_two_frames_of_a_long_cine_take_the_memory_of_two_frames(tmp_path):
    n_frames, side = 400, 512
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    cine = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    cine.SOPClassUID, cine.SOPInstanceUID = UltrasoundMultiFrameImageStorage, meta[0x00020003].value
    cine.Modality, cine.NumberOfFrames, cine.FrameTime = "US", n_frames, 40
    cine.Rows, cine.Columns, cine.SamplesPerPixel = side, side, 1
    cine.PhotometricInterpretation, cine.PixelRepresentation = "MONOCHROME2", 0
    cine.BitsAllocated, cine.BitsStored, cine.HighBit = 8, 8, 7
    noise = np.random.default_rng(0).integers(0, 255, (1, side, side), dtype=np.uint8)
    cine.PixelData = np.repeat(noise, n_frames, axis=0).tobytes()
    cine.save_as(tmp_path / "cine.dcm", enforce_file_format=True)
    code = (
        "import medssl, resource, sys\n"
        "def peak(): return max(resource.getrusage(w).ru_maxrss for w in (0, -1))\n"
        "scan = medssl.read(sys.argv[1], frames=[0, 399])\n"
        "before = peak(); x = scan.array; from medssl.readers import _sandbox\n"
        "if _sandbox._worker: _sandbox._worker.close()\n"
        "print(x.shape[1], peak() - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cine.dcm")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    frames, grown_kb = map(int, done.stdout.split())
    assert frames == 2
    assert grown_kb < 60_000  # the whole cine takes 105 MB, its sixteen sampled frames 4
