"""Real DICOM series against conversions by other tools."""

import pytest

from pipelines.check_references import rows

REFUSED = {
    "slicecount/001": "too_few_slices",
    "sliceincrement/002": "gap",
    "sliceorientation/001": "too_few_slices",
}
VOLUMES = {
    "dcmqa_12bit/In": 3,
    "dcmqa_enh/In/Philips": 2,
    "dcmqa_enh/In/Siemens/XA10": 4,
    "dcmqa_nih/In/20180918GE/mr_0004": 10,
    "dcmqa_nih/In/20180918Si/mr_0003": 2,
}


@pytest.mark.real
@pytest.mark.debian("dcm2niix")
def test_every_volume_equals_its_reference_and_sets_made_to_fail_are_refused(medssl_data):
    table = {row[0].strip("`"): row for row in rows(medssl_data)}
    assert [row for row in table.values() if "different" in row[2]] == []
    for name, reason in REFUSED.items():
        row = table[f"dicom_conversion/failing/{name}"]
        assert (row[1], row[5].split(":")[0]) == ("nothing", reason)
    assert "gantry_tilt_deg=14.0" in table["dicom_conversion/failing/gantrytilting/001"][6]
    for name, n in VOLUMES.items():
        assert table[name][1] == f"volume: {n}"
