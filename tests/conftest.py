"""Fixtures of all tests."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support import Offline

ROOT = Path(__file__).resolve().parents[1]


def pytest_runtest_setup(item):
    """Skip by name what this machine cannot run."""
    for mark in item.iter_markers("debian"):
        if not shutil.which(mark.args[0]):
            pytest.skip(f"{mark.args[0]} is not installed")
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def medssl_data():
    """Folder of the real data sets."""
    folder = Path(os.environ.get("MEDSSL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data: set MEDSSL_DATA")
    return folder


@pytest.fixture
def offline(tmp_path):
    """Runs Python in fresh processes that may not reach the network; see `Offline`."""
    return Offline(python=sys.executable, log=tmp_path / "connections.txt")
