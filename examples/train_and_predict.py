"""Pretrain, fine-tune and predict from Python, on a synthetic archive; far too short to be good."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib

import medssl

with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)
    medssl.phantom(out=folder / "phantom", patients=4)
    scans, labelled = folder / "phantom" / "archive" / "mr", folder / "phantom" / "labelled"

    small: dict[str, Any] = {"steps": 3, "batch_size": 2, "quiet": True}
    pretrained = medssl.pretrain(
        data=scans, out=folder / "pretrained", objective="mae", encoder="resenc-xs", **small
    )
    print("pretrained on", pretrained.result["records"], "volumes")

    finetuned = medssl.finetune(
        task="segmentation",
        data=labelled,
        init=pretrained.out,
        out=folder / "finetuned",
        labelled=2,
        **small,
    )
    predicted = medssl.predict(
        labelled / "imagesTs", out=folder / "predicted", checkpoint=finetuned.out
    )
    for file in sorted(predicted.out.glob("*_seg.nii.gz")):
        scan = nib.load(labelled / "imagesTs" / file.name.replace("_seg", ""))
        result = nib.load(file)
        print(file.name, result.shape, "on the scan's grid:", (result.affine == scan.affine).all())
