"""A small folder of MR volumes and a labelled data set, for tests that train."""

import json

import nibabel as nib
import numpy as np

SHAPE = (18, 34, 20)  # D, H, W
TRAIN_WORDS = ("crop=[16,32,16]", "batch_size=2", "log_every=1", "accelerator=cpu")


def volume(seed, shape=SHAPE):
    """A bright ellipsoid (label 1) with a core (label 2) in dark noise; (D, H, W)."""
    rng = np.random.default_rng(seed)
    centre = np.array(shape)[:, None, None, None] / 2 + rng.normal(0, 1, (3, 1, 1, 1))
    axes = np.array(shape)[:, None, None, None] * rng.uniform(0.25, 0.35, (3, 1, 1, 1))
    far = np.sqrt((((np.indices(shape) - centre) / axes) ** 2).sum(0))
    labels = (far < 1).astype(np.uint8) + (far < 0.5)
    return 100.0 + 80 * labels + rng.normal(0, 8, shape), labels.astype(np.uint8)


def save(path, x_DHW, dtype=np.float32, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.0, 1.0, 1.5, 1.0]) if affine is None else affine
    image = nib.Nifti1Image(x_DHW.transpose(2, 1, 0).astype(dtype), affine)
    image.set_sform(affine, 1)
    nib.save(image, path)
    return path


def write_images(folder, count=4):
    """Unlabelled volumes."""
    for seed in range(count):
        save(folder / f"scan_{seed:03d}.nii.gz", volume(seed)[0])
    return folder


def write_labelled(folder, count=4):
    """The same kind of volumes in Decathlon layout."""
    names = [f"case_{seed:03d}" for seed in range(count)]
    for seed, name in enumerate(names):
        image, labels = volume(seed)
        save(folder / "imagesTr" / f"{name}.nii.gz", image)
        save(folder / "labelsTr" / f"{name}.nii.gz", labels, np.uint8)
    content = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "shell", "2": "core"},
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in names
        ],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder
