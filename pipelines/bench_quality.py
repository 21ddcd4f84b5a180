"""What the burned-in text detector and the perceptual hash find, on drawn text and on real data.

python -m pipelines.bench_quality DATA
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from medssl.archive._burned_in import text_rows
from medssl.archive._perceptual import NEAR_BITS, distance_bits, perceptual_hash, projection
from medssl.core.seeding import generator
from medssl.readers._read import read, read_folder
from pipelines._bench import write_table

Picture = npt.NDArray[Any]
Row = tuple[str, str, str]
TEXT = "SMITH JOHN 12.03.1961"
SIZES_PX = (8, 10, 12, 16, 24, 36)
SPECKLES = 10
_FRAMES_PER_CLIP = 2


def main(data: Annotated[Path, typer.Argument(help="Folder of the real data sets.")]) -> None:
    """Measure both and write docs/results/quality.md."""
    rows = [*_drawn_text(), *_real_pictures(data), *_copies(data), *_different_pictures(data)]
    note = (
        f"Text: at least one row of letters found. Near: hashes differ in at most {NEAR_BITS} of "
        "64 bits. Most, but not all, of the endoscopy images carry text: no truth is known."
    )
    title = "Burned-in text and perceptual hash"
    write_table("quality", title, ["what", "finding", "share"], rows, note, by="bench_quality")


def _drawn_text() -> Iterator[Row]:
    plain = [np.full((480, 640), level, np.uint8) for level in (0, 90)]
    for name, grounds in (("plain ground", plain), ("speckle", [*map(_speckle, range(SPECKLES))])):
        pictures = [_written(x_HW, size_px) for x_HW in grounds for size_px in SIZES_PX]
        sizes = f"{SIZES_PX[0]} to {SIZES_PX[-1]} px"
        yield _text_row(f"text of {sizes} drawn on {name}", pictures)
        yield _text_row(f"{name}, nothing drawn", [x_HW[None] for x_HW in grounds])


def _real_pictures(data: Path) -> Iterator[Row]:
    slices = [
        sample.array[:, k]
        for folder in ("ct_organs/example_ct_dicom", "mr_oblique_series/dicom")
        for sample in read_folder(data / folder)
        for k in range(sample.shape[1])
    ]
    yield _text_row("CT and MR slices", slices)
    clips = [one for one in read_folder(data / "lung_ultrasound" / "videos") if one.kind == "clip"]
    frames = [
        one.frames([number])[:, 0]
        for one in clips
        for number in np.linspace(5, one.shape[1] - 5, _FRAMES_PER_CLIP).astype(int).tolist()
    ]
    yield _text_row("frames of lung ultrasound", frames)
    yield _text_row("endoscopy images", list(_polyps(data)))


def _copies(data: Path) -> Iterator[Row]:
    changes: dict[str, Callable[[Image.Image], Image.Image]] = {
        "JPEG quality 30": lambda image: _jpeg(image, 30),
        "JPEG quality 75": lambda image: _jpeg(image, 75),
        "half size": lambda image: image.resize((image.width // 2, image.height // 2)),
        "darker by a fifth": lambda image: image.point([int(0.8 * v) for v in range(256)] * 3),
        "gamma 0.7": lambda image: image.point(
            [int(255 * (v / 255) ** 0.7) for v in range(256)] * 3
        ),
        "edge of 2.5 % cut off": lambda image: image.crop(
            (
                image.width // 40,
                image.height // 40,
                39 * image.width // 40,
                39 * image.height // 40,
            )
        ),
    }
    images = [Image.fromarray(np.moveaxis(x_CHW, 0, 2)) for x_CHW in _polyps(data)]
    for name, change in changes.items():
        near = [distance_bits(_hash(image), _hash(change(image))) <= NEAR_BITS for image in images]
        yield f"endoscopy image and its copy: {name}", "near", _share(near)


def _different_pictures(data: Path) -> Iterator[Row]:
    folder = data / "hippocampus" / "imagesTr"
    volumes = [projection(one.array, "volume") for one in read_folder(folder)]
    yield _pairs_row("pairs of hippocampus crops", volumes)
    yield _pairs_row("pairs of endoscopy images", list(_polyps(data)))
    arrays = np.load(data / "pneumoniamnist" / "data" / "pneumoniamnist.npz")
    yield _pairs_row("pairs of 28 x 28 chest radiographs", arrays["val_images"][:, None])


def _pairs_row(what: str, pictures: Sequence[Picture]) -> Row:
    hashes = [perceptual_hash(x_CHW) or "0" for x_CHW in pictures]
    return (
        what,
        "near",
        _share([distance_bits(a, b) <= NEAR_BITS for a, b in combinations(hashes, 2)]),
    )


def _text_row(what: str, pictures: Sequence[Picture]) -> Row:
    return what, "text", _share([bool(text_rows(x_CHW)) for x_CHW in pictures])


def _share(hits: Sequence[bool]) -> str:
    return f"{sum(hits):,} of {len(hits):,}"


def _polyps(data: Path) -> Iterator[Picture]:
    for file in sorted((data / "polyps" / "images").glob("*.jpg")):
        yield read(file).array


def _hash(image: Image.Image) -> str:
    return perceptual_hash(np.moveaxis(np.asarray(image), 2, 0)) or "0"


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def _written(x_HW: Picture, size_px: int) -> Picture:
    image = Image.fromarray(x_HW)
    font = ImageFont.load_default(size_px)
    ImageDraw.Draw(image).text((20, 30), TEXT, font=font, fill=255)
    return np.asarray(image)[None]


def _speckle(seed: int) -> Picture:
    """Smooth brightness with multiplicative speckle as wide as the beam."""
    rng = generator(seed, "speckle")
    coarse = Image.fromarray(rng.uniform(0, 200, (8, 10)).astype(np.uint8))
    smooth = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC), dtype=float)
    parts = [ndimage.gaussian_filter(rng.normal(size=(480, 640)), (1, 2)) for _ in range(2)]
    rayleigh = np.hypot(*parts)
    speckled = np.clip(smooth * rayleigh / rayleigh.mean() * 0.8, 0, 255)
    return np.asarray(speckled.astype(np.uint8))


if __name__ == "__main__":
    typer.run(main)
