"""Copies among real pictures are found by their pixels; patients who share one share a split."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from medssl.archive.catalog import Catalog
from medssl.archive.split import Fractions, leaks
from medssl.stages.index import IndexConfig, run

SPLIT = Fractions(train=0.6, val=0.2, test=0.2)


def index(archive, out):
    run(IndexConfig(archive=archive, out=out, pixels=True, workers=0, split=SPLIT, quiet=True))
    return Catalog.open(out)


def groups_by_hash(records):
    hashes = Counter(record.pixel_hash for record in records)
    return [n for n in hashes.values() if n > 1]


@pytest.mark.real
@pytest.mark.slow
def test_the_known_duplicates_of_pneumoniamnist_are_found(medssl_data, tmp_path):
    """MANIFEST.md: 17 duplicates within train, 3 within test, 8 images shared by train and val."""
    arrays = np.load(medssl_data / "pneumoniamnist" / "data" / "pneumoniamnist.npz")
    pictures = {name: arrays[f"{name}_images"] for name in ("train", "val", "test")}
    for name, images in pictures.items():
        (tmp_path / "a" / name).mkdir(parents=True)
        for number, x_HW in enumerate(images):
            Image.fromarray(x_HW).save(tmp_path / "a" / name / f"{number:05d}.png")
    catalog = index(tmp_path / "a", tmp_path / "c")
    records = catalog.records()
    part = {r.record_id: catalog.files(r.record_id)[0].parent.name for r in records}
    assert Counter(part.values()) == {"train": 3882, "val": 524, "test": 624}
    hashes = {
        name: {r.pixel_hash for r in records if part[r.record_id] == name} for name in pictures
    }
    assert len(pictures["train"]) - len(hashes["train"]) == 17
    assert len(pictures["test"]) - len(hashes["test"]) == 3
    assert len(hashes["train"] & hashes["val"]) == 8
    first = {r.record_id: r for r in records}
    copies = [r for r in records if r.duplicate_of]
    assert copies and all(first[r.duplicate_of].pixel_hash == r.pixel_hash for r in copies)
    assert leaks(records) == set()


@pytest.mark.real
def test_recompressed_endoscopy_images_are_near_duplicates_of_their_originals(
    medssl_data, tmp_path
):
    files = sorted(medssl_data.glob("polyps/images/*.jpg"))[:12]
    (tmp_path / "a").mkdir()
    for number, file in enumerate(files):
        image = Image.open(file).convert("RGB")
        image.save(tmp_path / "a" / f"{number:03d}.png")
        image.save(tmp_path / "a" / f"{number:03d}x.jpg", quality=60)
    catalog = index(tmp_path / "a", tmp_path / "c")
    records = {catalog.files(r.record_id)[0].stem: r for r in catalog.records()}
    near = {r.record_id: r.near_duplicate_of for r in records.values()}
    for number in range(12):
        original, copy = records[f"{number:03d}"], records[f"{number:03d}x"]
        assert "lossy" in copy.flags and "lossy" not in original.flags
        assert not copy.duplicate_of
        assert copy.near_duplicate_of in {original.record_id, near[original.record_id]} - {""}
    assert sum(bool(near[records[f"{n:03d}"].record_id]) for n in range(12)) <= 1


def test_a_near_duplicate_is_marked_and_joins_no_split(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "a").mkdir()
    for number in range(30):
        coarse = Image.fromarray(rng.integers(0, 255, (9, 9), dtype=np.uint8))
        image = coarse.resize((96, 96), Image.Resampling.BICUBIC)
        image.save(tmp_path / "a" / f"{number:03d}.png")
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        (tmp_path / "a" / f"{number:03d}copy.jpg").write_bytes(buffer.getvalue())
    records = index(tmp_path / "a", tmp_path / "c").records()
    marked = [r for r in records if r.near_duplicate_of]
    assert len(marked) == 30
    assert groups_by_hash(records) == []
    split = {r.record_id: r.split for r in records}
    assert any(r.split != split[r.near_duplicate_of] for r in marked)
    assert leaks(records) == set()
