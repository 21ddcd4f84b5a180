"""Frozen features: the mean over windows of a record, from a network that stays as it is."""

import numpy as np
import pytest
import torch

from medssl.archive.store import Store
from medssl.core.config import Component
from medssl.core.geometry import Geometry
from medssl.core.preprocess import Contract, prepare
from medssl.encoders._base import build_encoder
from medssl.stages._features import TOKENS, Frozen, pixels, spread
from tests.training_archive import volume

CROP = (16, 32, 16)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """``wide``: two equal crops side by side; ``one``: one of them; ``picture``: a picture."""
    store = Store(tmp_path_factory.mktemp("store"), Contract())
    one = volume(0, CROP)[0][None]
    for name, array in {"one": one, "wide": np.concatenate([one, one], 3)}.items():
        prepared = prepare(array, Geometry.of_volume(np.eye(4)), "MR", Contract())
        store.put(name, prepared, name)
    picture = np.random.default_rng(0).integers(0, 255, (1, 40, 40)).astype(np.uint8)
    store.put("picture", prepare(picture, Geometry(kind="image"), "XC", Contract()), "picture")
    return store


def frozen(name="resenc-xs", crop=CROP):
    part = Component(name=name)
    torch.manual_seed(0)
    return Frozen(part, build_encoder(name, {}, 1), crop)


def test_a_record_of_two_equal_windows_has_the_vector_of_one(store):
    network = frozen()
    one, wide = (network.vector(store, store.entry(name)) for name in ("one", "wide"))
    assert wide == pytest.approx(one, abs=2e-3)  # half floats
    assert np.abs(one).max() > 0.1


def test_the_network_is_bitwise_unchanged_and_never_in_training_mode(store):
    network = frozen("timm/resnet10t", (32, 32))  # batch norms
    before = {k: v.clone() for k, v in network.encoder.state_dict().items()}
    network.vector(store, store.entry("wide"))
    network.tokens(store, store.entry("wide"))
    assert all(torch.equal(v, before[k]) for k, v in network.encoder.state_dict().items())
    assert not any(module.training for module in network.encoder.modules())
    assert not any(p.requires_grad for p in network.encoder.parameters())


def test_an_image_encoder_sees_slices_and_pictures(store):
    network = frozen("timm/resnet10t", (32, 32))
    for name in ("one", "picture"):
        assert network.vector(store, store.entry(name)).shape == (network.encoder.width,)
        found = network.tokens(store, store.entry(name))
        assert found.shape == (TOKENS, network.encoder.token_width)


def test_random_weights_are_others_of_the_same_architecture(store):
    trained = frozen()
    other, again = trained.untrained(1), trained.untrained(1)
    a, b, c = (one.vector(store, store.entry("one")) for one in (trained, other, again))
    assert a.shape == b.shape
    assert not np.allclose(a, b)
    assert np.array_equal(b, c)


def test_label_maps_ride_along_and_padding_is_marked(tmp_path):
    store = Store(tmp_path, Contract())
    image, labels = volume(0, (12, 32, 16))
    prepared = prepare(image[None], Geometry.of_volume(np.eye(4)), "MR", Contract())
    store.put("v", prepared, "v", labels)
    [window] = frozen().windows(store, store.entry("v"), labels=True)
    found = window[0, 1].numpy()
    assert (found == -1).sum() == 4 * 32 * 16
    assert np.array_equal(found[2:14], labels)


def test_raw_pixels_of_a_flat_record_are_flat(store, tmp_path):
    flat = Store(tmp_path, Contract())
    x = np.tile(np.linspace(0, 1, 40), (1, 40, 1))
    flat.put("p", prepare(x, Geometry(kind="image"), "XC", Contract()), "p")
    rows = pixels(flat, flat.entry("p")).reshape(16, 16)
    assert np.ptp(rows, axis=0).max() < 1e-6
    assert (np.diff(rows[0]) > 0).all()
    assert pixels(store, store.entry("one")).shape == (8**3,)


def test_few_rows_are_repeated_equally_and_many_thinned_evenly():
    assert spread(np.arange(3)[:, None], 6).ravel().tolist() == [0, 0, 1, 1, 2, 2]
    assert np.diff(spread(np.arange(1000)[:, None], 10).ravel()).tolist() == [100] * 9
