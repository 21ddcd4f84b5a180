"""Every DICOM volume of the real data against a conversion by another tool.

python -m pipelines.check_references ../shared/data
"""

from __future__ import annotations

from pathlib import Path

import typer

from medssl.readers._base import Policy
from pipelines._bench import write_table
from pipelines._references import row

TITLE = "DICOM volumes against conversions by other tools"
NOTE = (
    "Every volume, turned to canonical orientation without interpolation, is compared voxel for "
    "voxel with the reference NIfTI of its data set, else with the output of dcm2niix; corners of "
    "the grids are compared in mm. Time points, echoes and b-values count as one volume each; some "
    "sets have two references. *Place by headers*: the voxels are equal, but dcm2niix lays the "
    "grid elsewhere (it takes the first step for all, and gives a tilted scan another pixel "
    "size); then the corners of each slice are compared with those that its own header states. "
    "*Equal after*: the reference holds the scale of a private Philips tag, medssl that of "
    "RescaleSlope. Folders below `failing` were made to be refused; the tilted one is read as the "
    "sheared grid that it is."
)
# Folder of DICOM files -> its reference, relative to the data's folder.
_PROVIDED = {
    "dcmqa_12bit/In": "dcmqa_12bit/Ref/*.nii",
    "dcmqa_enh/In/Philips": "dcmqa_enh/Ref/Philips*.nii",
    "dcmqa_enh/In/Siemens/XA10": "dcmqa_enh/Ref/Siemens*.nii",
    "dcmqa_nih/In/20180918GE/mr_0004": "dcmqa_nih/Ref/DCM2NIIX*_4.nii",
    "dcmqa_nih/In/20180918Si/mr_0003": "dcmqa_nih/Ref/*AP_3.nii",
    "dcmqa_nih/In/20180918Si/mr_0004": "dcmqa_nih/Ref/*PA_4.nii",
    "dcmqa_nih/In/20180918Si/mr_0005": "dcmqa_nih/Ref/*RL_5.nii",
    "dcmqa_nih/In/20180918Si/mr_0006": "dcmqa_nih/Ref/*LR_6.nii",
}
_TILTED = "dicom_conversion/failing/gantrytilting/001"
_WHOLE = ("ct_organs/example_ct_dicom", "mr_oblique_series/dicom", "dicom_codecs")


def rows(data: Path) -> list[list[str]]:
    """One row per set, as the head in :func:`main` says."""
    conversions = data / "dicom_conversion"
    folders = sorted({file.parent for file in conversions.rglob("*.dcm")})
    names = [*_PROVIDED, *(str(one.relative_to(data)) for one in folders), *_WHOLE]
    upright = row(data, _TILTED, "", Policy(tilt="resample"))
    return [
        *(row(data, name, _PROVIDED.get(name, f"{name}_ground_truth*.nii.gz")) for name in names),
        [f"{upright[0]} `--tilt resample`", *upright[1:]],
    ]


def main(data: Path) -> None:
    """Write docs/results/readers.md; fails if a volume differs from its reference."""
    table = rows(data)
    head = ["set", "read as", "volumes against the reference", "farthest corner, mm", "reference"]
    write_table("readers", TITLE, [*head, "refused", "flags"], table, NOTE, by="check_references")
    if any("different" in row[2] for row in table):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
