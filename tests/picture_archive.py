"""Small pictures of bright blobs with their masks, for tests that train image encoders."""

import numpy as np
from PIL import Image

PICTURE_WORDS = {"batch_size": 2, "log_every": 1, "accelerator": "cpu", "quiet": True}


def blob(seed, shape=(40, 56), colour=True):
    """A bright disk on noise, uint8 (H, W, 3) or (H, W), and its mask (H, W) of 0 and 255."""
    rng = np.random.default_rng(seed)
    centre = np.array(shape)[:, None, None] / 2 + rng.normal(0, 3, (2, 1, 1))
    inside = ((np.indices(shape) - centre) ** 2).sum(0) < (min(shape) / 4) ** 2
    noise = rng.integers(0, 60, shape)
    grey = (noise + 150 * inside).astype(np.uint8)
    picture = np.stack([grey, grey // 2, noise.astype(np.uint8)], -1) if colour else grey
    return picture, (255 * inside).astype(np.uint8)


def write_picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def write_pictures(folder, count=6, ending="png", **options):
    """Unlabelled pictures."""
    for seed in range(count):
        write_picture(folder / f"p{seed:02d}.{ending}", blob(seed, **options)[0])
    return folder


def write_labelled_pictures(folder, count=6, *, first=0, **options):
    """Pictures in ``images`` and masks of the same names in ``masks``."""
    for seed in range(first, first + count):
        picture, mask = blob(seed, **options)
        write_picture(folder / "images" / f"p{seed:02d}.png", picture)
        write_picture(folder / "masks" / f"p{seed:02d}.png", mask)
    return folder
