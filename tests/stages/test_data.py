"""From the store to views: what happens to a damaged volume."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medssl.archive.store import Store
from medssl.core.errors import BudgetExceededError
from medssl.core.geometry import Geometry
from medssl.core.preprocess import Contract, prepare
from medssl.core.viewspec import MaskSpec, View, ViewSpec
from medssl.stages._data import ViewDataset
from medssl.stages._sources import StoredRecords
from medssl.training.data import StepSampler, loader
from tests.training_archive import volume

MASK = MaskSpec(token_size=(4, 4, 4), ratio=(0.5, 0.5))
SPEC = ViewSpec(views=(View(crop=(8, 8, 8), mask=MASK),))


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path, Contract())
    for seed in range(3):
        geometry = Geometry.of_volume(np.eye(4))
        store.put(f"v{seed}", prepare(volume(seed)[0][None], geometry, "MR", Contract()), str(seed))
    return store


def dataset(store):
    records = StoredRecords(store, [store.entry(f"v{seed}") for seed in range(3)])
    return ViewDataset(records, SPEC, seed=0)


def spoil(store, *keys):
    """Cut the files in the middle, after their headers were read."""
    for key in keys:
        file = next(store.folder.rglob(f"{key}.b2nd"))
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return Store(store.folder.parent, store.contract)


def test_damaged_volume_is_replaced_and_counted(store):
    views = dataset(store)
    whole = [views[position] for position in range(3)]
    views.records = replace(views.records, store=spoil(store, "v1"))
    again = [views[position] for position in range(3)]
    assert [view["replaced"] for view in whole] == [0.0, 0.0, 0.0]
    assert sorted(view["replaced"] for view in again) == [0.0, 0.0, 1.0]
    for before, after in zip(whole, again, strict=True):
        assert after["replaced"] or np.array_equal(before["views"][0]["x"], after["views"][0]["x"])


def test_nothing_readable_stops_the_run(store):
    views = dataset(store)
    views.records = replace(views.records, store=spoil(store, "v0", "v1", "v2"))
    with pytest.raises(BudgetExceededError):
        views[0]


def test_views_do_not_depend_on_the_number_of_workers(store):
    batches = [
        list(loader(dataset(store), StepSampler(0, 3, 2, 1, 0, 1), workers=workers, pin=False))
        for workers in (0, 2)
    ]
    for alone, shared in zip(*batches, strict=True):
        one, other = alone["views"][0], shared["views"][0]
        assert all(torch.equal(one[key], other[key]) for key in ("x", "mask", "tissue"))
