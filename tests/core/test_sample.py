"""A sample loads once, and refuses before it allocates."""

import numpy as np
import pytest

from medssl.core.errors import ResourceError
from medssl.core.geometry import Geometry
from medssl.core.sample import Sample

GEOMETRY = Geometry.of_volume(np.eye(4))


def test_the_array_is_loaded_on_first_access_only():
    calls = []
    sample = Sample(lambda: calls.append(1) or np.ones((1, 2, 3, 4)), GEOMETRY, (1, 2, 3, 4))
    assert calls == []
    assert sample.array is sample.array
    assert calls == [1]


def test_an_array_above_the_cap_is_refused_before_it_is_loaded():
    sample = Sample(lambda: pytest.fail("was loaded"), GEOMETRY, (1, 60_000, 60_000, 60_000))
    with pytest.raises(ResourceError, match="GiB"):
        _ = sample.array
