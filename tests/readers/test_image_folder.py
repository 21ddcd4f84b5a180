"""Numbered pictures as clips: only when asked for, never over a gap, never of two sizes."""

import numpy as np
import pytest
from PIL import Image

from medssl.readers import image
from medssl.readers._base import Policy
from medssl.readers._dispatch import group_headers, sample


def save(folder, numbers, name="frame_{:04d}.png", size=(8, 6)):
    for number in numbers:
        Image.fromarray(np.full(size, number % 251, np.uint8)).save(folder / name.format(number))


def records(folder, folders="clips"):
    headers = [image.header(path) for path in sorted(folder.iterdir())]
    found, refused = group_headers(headers, Policy(folders=folders))
    assert refused == []
    assert sorted(f for one in found for f in one.files) == sorted(map(str, folder.iterdir()))
    return found


def test_by_default_pictures_stay_single(tmp_path):
    save(tmp_path, range(20))
    assert {one.geometry.kind for one in records(tmp_path, "images")} == {"image"}


def test_a_run_is_one_clip_in_the_order_of_its_numbers(tmp_path):
    save(tmp_path, range(5, 125), name="f{}.png")  # f99 sorts behind f100
    (clip,) = records(tmp_path)
    assert (clip.geometry.kind, clip.shape) == ("clip", (1, 120, 8, 6))
    assert clip.geometry.frame_times_s is None
    assert clip.flags == ("image_folder", "frame_times_unknown")
    assert sample(clip).array[0, :, 0, 0].tolist() == list(range(5, 125))
    assert sample(clip).frames([7, 0])[0, :, 0, 0].tolist() == [12, 5]


def test_a_step_of_five_is_a_run(tmp_path):
    save(tmp_path, range(0, 100, 5))
    (clip,) = records(tmp_path)
    assert clip.shape[1] == 20


def test_a_gap_divides_and_is_flagged(tmp_path):
    save(tmp_path, [*range(20), *range(30, 50)])
    found = records(tmp_path)
    assert [one.shape[1] for one in found] == [20, 20]
    assert all("frames_missing" in one.flags for one in found)


@pytest.mark.parametrize("n", [1, 15])
def test_few_pictures_are_no_clip(tmp_path, n):
    save(tmp_path, range(n))
    assert [one.geometry.kind for one in records(tmp_path)] == ["image"] * n


def test_sizes_names_and_doubled_numbers_are_not_mixed(tmp_path):
    save(tmp_path, range(16))
    save(tmp_path, range(16, 32), size=(9, 6))
    save(tmp_path, range(16), name="other_{}.png")
    save(tmp_path, range(16), name="twice_{}.png")
    save(tmp_path, [3], name="twice_{:05d}.png")
    kinds = sorted((one.geometry.kind, len(one.files)) for one in records(tmp_path))
    assert kinds == [("clip", 16)] * 3 + [("image", 1)] * 17


def test_two_folders_are_two_clips(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        save(tmp_path / name, range(16))
    headers = [image.header(path) for path in tmp_path.rglob("*.png")]
    found, _ = group_headers(headers, Policy(folders="clips"))
    assert [len(one.files) for one in found] == [16, 16]
