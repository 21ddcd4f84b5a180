"""One style per step: drawn once, the same for every process, kept in whole-data passes."""

import numpy as np
import pytest
import torch

from medssl.archive.store import Store
from medssl.core.errors import ConfigError
from medssl.core.geometry import Geometry
from medssl.core.preprocess import Contract, prepare
from medssl.core.viewspec import View, ViewSpec
from medssl.stages import pretrain
from medssl.stages._sources import StoredRecords
from medssl.stages._style import StyledDataset, views_of
from medssl.stages.pretrain import PretrainConfig
from medssl.training.data import StepSampler, loader
from medssl.views.guard import check_views
from tests.training_archive import write_images

SPEC = ViewSpec(views=(View(crop=(8, 8, 8), count=2),), style=(0.4, 0.6))
BATCH = 4


@pytest.fixture
def store(tmp_path):
    """Three CT volumes without air, so that no voxel is left out of its style."""
    store = Store(tmp_path, Contract())
    for seed in range(3):
        hu = np.random.default_rng(seed).normal(0, 100 * (1 + seed), (1, 12, 12, 12))
        volume = np.clip(hu, -800, 800)
        prepared = prepare(volume, Geometry.of_volume(np.eye(4)), "CT", Contract())
        store.put(f"v{seed}", prepared, str(seed))
    return store


def dataset(store, spec=SPEC):
    records = StoredRecords(store, [store.entry(f"v{seed}") for seed in range(3)])
    return views_of(records, spec, 0, BATCH, None)


def plain(store):
    return dataset(store, SPEC.model_copy(update={"style": None}))


def low_amplitudes(view):
    """Of the lowest frequencies but 0, on a crop without air."""
    x = view["x"]
    return np.abs(np.fft.fftn(x, axes=(1, 2, 3)))[0, :2, :2, :2].ravel()[1:]


def test_samples_of_a_step_look_alike_and_each_view_has_a_style(store):
    styled, bare = dataset(store), plain(store)

    def spread(data, index, step):
        views = [data[step * BATCH + i]["views"][index] for i in range(BATCH)]
        each = np.stack([low_amplitudes(view) for view in views])
        return (each.std(0) / each.mean(0)).mean()

    for step in range(3):
        for index in range(2):
            assert spread(styled, index, step) < 0.5 * spread(bare, index, step)


def test_one_sample_of_each_step_is_the_reference_of_a_view(store):
    styled, bare = dataset(store), plain(store)
    for index in range(2):
        kept = [
            np.allclose(styled[i]["views"][index]["x"], bare[i]["views"][index]["x"], atol=1e-5)
            for i in range(BATCH)
        ]
        assert sum(kept) == 1


def test_styles_do_not_depend_on_order_or_ranks(store):
    forth = [dataset(store)[i]["views"][1]["x"] for i in range(8)]
    data = dataset(store)
    back = {i: data[i]["views"][1]["x"] for i in reversed(range(8))}
    assert all(np.array_equal(forth[i], back[i]) for i in range(8))
    for rank in range(2):  # two micro-batches of two per step, one sample per rank
        batches = loader(dataset(store), StepSampler(0, 2, BATCH, 2, rank, 2), workers=0, pin=False)
        for number, batch in enumerate(batches):
            x = batch["views"][1]["x"][0]
            assert torch.equal(x, torch.from_numpy(forth[2 * number + rank]))


def test_whole_passes_have_one_style_and_repeat_it(store):
    data = dataset(store)
    first = next(data.whole_pass(3))["views"][0]["x"]
    data[5]  # a step in between
    again = next(data.whole_pass(3))["views"][0]["x"]
    assert torch.equal(first, again)
    kept = [
        torch.allclose(one, other, atol=1e-5)
        for one, other in zip(first, next(plain(store).whole_pass(3))["views"][0]["x"], strict=True)
    ]
    assert sum(kept) == 1


def test_only_a_spec_with_a_style_is_styled(store):
    assert isinstance(dataset(store), StyledDataset)
    assert not isinstance(plain(store), StyledDataset)


def test_hu_keep_their_mean(store):
    styled, bare = dataset(store), plain(store)
    assert styled.records.window_hu(styled.records.entries[0]) == (-1024.0, 1024.0)
    for i in range(BATCH):
        kept, was = (data[i]["views"][0]["x"].mean() for data in (styled, bare))
        assert kept == pytest.approx(was, abs=1e-3)


def test_a_style_over_modalities_is_refused():
    with pytest.raises(ConfigError, match="CT and MR"):
        check_views(SPEC, {"CT", "MR"}, 1)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"intensity": {"hue": 0.1, "probability": 1.0}}, "hue"),
        ({"intensity": {"bias_field": 0.2, "probability": 1.0}}, "bias field"),
    ],
)
def test_pretraining_refuses_changes_that_fit_no_record_before_step_one(tmp_path, options, named):
    write_images(tmp_path / "archive")  # NIfTI files of one channel, modality unknown
    config = PretrainConfig(
        data=tmp_path / "archive",
        out=tmp_path / "run",
        objective={"name": "simclr", "views": options},
        crop=(16, 32, 16),
        batch_size=2,
        accelerator="cpu",
        quiet=True,
    )
    with pytest.raises(ConfigError, match=named):
        pretrain.run(config)
    assert not list((tmp_path / "run").rglob("checkpoints/*"))
