"""The decoding process: same voxels, errors come back whole, a crash or a bomb takes nothing along."""

import numpy as np
import pytest
from PIL import Image

from medssl.core.errors import ReadError
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


def test_time_above_the_cap_kills_the_worker(found, worker):
    with pytest.raises(ReadError) as caught:
        worker.load(found, None, limit_bytes=2**33, limit_s=0.0)
    assert caught.value.reason == "decoder_timeout"
    assert not worker.alive()
