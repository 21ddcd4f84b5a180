"""The decoding process: same voxels, errors come back whole, a crash takes nothing along."""

import os
import re

import numpy as np
import pytest
from PIL import Image

from medssl.core.errors import ReadError
from medssl.core.geometry import Geometry
from medssl.readers._base import Found
from medssl.readers._dispatch import group_headers, read_header
from medssl.readers._load import load_here
from medssl.readers._sandbox import Worker


@pytest.fixture
def found(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    return group_headers([read_header(tmp_path / "noise.png")])[0][0]


@pytest.fixture
def worker():
    process = Worker()
    yield process
    process.close()


def test_same_voxels_as_in_this_process(found, worker):
    there = worker.load(found, None, limit_bytes=2**33, limit_s=30)
    assert np.array_equal(there, load_here(found, None))


def test_the_readers_own_error_comes_back(found, worker, tmp_path):
    (tmp_path / "noise.png").write_bytes((tmp_path / "noise.png").read_bytes()[:200])
    with pytest.raises(ReadError) as caught:
        worker.load(found, None, limit_bytes=2**33, limit_s=30)
    assert caught.value.reason == "truncated"
    assert worker.alive()


def test_memory_above_the_cap_is_refused_and_the_worker_lives(tmp_path, worker):
    Image.new("L", (9000, 9000)).save(tmp_path / "big.png")
    found = group_headers([read_header(tmp_path / "big.png")])[0][0]
    worker.load(found, None, limit_bytes=2**33, limit_s=30)
    with pytest.raises(ReadError) as caught:
        worker.load(found, None, limit_bytes=2**24, limit_s=30)
    assert caught.value.reason in {"decoder_memory", "decoder_crash"}


def test_an_error_that_nobody_foresaw_is_one_items_and_says_where(found, worker, tmp_path):
    secret = tmp_path / "DOE^JOHN.png"
    with pytest.raises(ReadError) as caught:
        worker.ask("no such question", str(secret), library_bytes=0, limit_s=30)
    assert caught.value.reason == "internal_error"
    assert re.fullmatch(r"decoding raised KeyError at _worker\.py:\d+", caught.value.what)
    assert worker.alive()
    worker.load(found, None, limit_bytes=2**33, limit_s=30)


def test_processor_time_above_the_cap_ends_the_worker(tmp_path, worker):
    noise = np.random.default_rng(0).integers(0, 256, (6000, 6000), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "big.png", compress_level=1)
    found = group_headers([read_header(tmp_path / "big.png")])[0][0]
    with pytest.raises(ReadError) as caught:
        worker.load(found, None, limit_bytes=2**33, limit_s=0.02)
    assert caught.value.reason == "decoder_timeout"
    assert not worker.alive()


def test_waiting_is_ended_by_the_clock_on_the_wall(tmp_path, worker):
    os.mkfifo(tmp_path / "never.png")
    found = Found(
        files=(str(tmp_path / "never.png"),),
        format="image",
        shape=(1, 2, 2),
        dtype="uint8",
        geometry=Geometry(kind="image"),
    )
    with pytest.raises(ReadError) as caught:
        worker.load(found, None, limit_bytes=2**33, limit_s=0.1)
    assert caught.value.reason == "decoder_timeout"
