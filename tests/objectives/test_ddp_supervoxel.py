"""Two ranks of different numbers of supervoxels give what one process gives."""

from functools import partial

import pytest

from tests.objectives.ddp import assert_two_ranks_equal_one
from tests.objectives.tiny import batch_of, make


def task(name, **options):
    """Cases travel to other processes by name."""
    return make(name, "vit3d-xs", **options)


def batch(name, **options):
    return batch_of(task(name, **options), samples=4)


@pytest.mark.slow
def test_two_ranks_equal_one():
    cases = {
        "volume": ("supervoxel", {}),
        "batch": ("supervoxel", {"negatives": "batch", "parts": 8}),
        "voco": ("voco", {}),
    }
    assert_two_ranks_equal_one(
        {key: (partial(task, n, **o), partial(batch, n, **o)) for key, (n, o) in cases.items()}
    )
