"""Style standardisation: the closed forms of methods.md 2.16, even and odd sizes, 2D and 3D."""

import numpy as np
import pytest

from medssl.views.style import low_frequencies, restyle, standardise_style

SHAPES = [(1, 8, 8), (2, 9, 9), (1, 8, 9), (1, 6, 7, 8), (3, 5, 8, 9), (1, 1, 6)]


def pair(shape):
    return np.random.default_rng(0).normal(loc=1.0, size=(2, *shape))


def styled(shape, share=0.5, copy_mean=True):
    x, reference = pair(shape)
    return x, reference, standardise_style(x, reference, share, copy_mean=copy_mean)


def spectrum(x):
    return np.fft.fftn(x, axes=tuple(range(1, x.ndim)))


def whole_window(shape, share):
    """The window over the whole spectrum, written down apart from the code."""
    axes = np.meshgrid(*(np.abs(np.fft.fftfreq(n)) for n in shape[1:]), indexing="ij")
    return np.all([axis < share / 2 for axis in axes], axis=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("copy_mean", [True, False])
def test_an_empty_window_is_the_identity(shape, copy_mean):
    x, _, out = styled(shape, share=0.0, copy_mean=copy_mean)
    np.testing.assert_allclose(out, x, atol=1e-15 * 10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_a_reference_in_its_own_style_is_itself(shape, share):
    x, _ = pair(shape)
    np.testing.assert_allclose(standardise_style(x, x, share, copy_mean=True), x, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_phases_stay_and_amplitudes_of_the_window_are_the_references(shape):
    x, reference, out = styled(shape, copy_mean=False)
    window = whole_window(shape, 0.5)
    window[(0,) * window.ndim] = False  # frequency 0
    np.testing.assert_allclose(
        np.abs(spectrum(out))[:, window], np.abs(spectrum(reference))[:, window], rtol=1e-9
    )
    turned = spectrum(out) / spectrum(x)  # real and positive where the phase is the same
    assert np.abs(turned.imag).max() < 1e-9
    assert turned.real.min() > 0
    np.testing.assert_allclose(spectrum(out)[:, ~window], spectrum(x)[:, ~window], atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_the_window_is_symmetric_so_that_a_full_inverse_is_real(shape, share):
    x, reference = pair(shape)
    window = whole_window(shape, share)
    mixed = spectrum(x)
    mixed[:, window] *= (np.abs(spectrum(reference)) / np.abs(spectrum(x)))[:, window]
    inverse = np.fft.ifftn(mixed, axes=tuple(range(1, x.ndim)))
    assert np.abs(inverse.imag).max() < 1e-15 * np.abs(x).max() * 10
    mean = spectrum(x).flat[0].real
    if mean * spectrum(reference).flat[0].real > 0 and shape[0] == 1:
        np.testing.assert_allclose(
            standardise_style(x, reference, share, copy_mean=True), inverse.real, atol=1e-12
        )
    half = low_frequencies(shape[1:], share)
    assert np.array_equal(half, window[..., : half.shape[-1]])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_mean_is_the_references_only_where_it_may_be(shape):
    axes = tuple(range(1, len(shape)))
    x, reference, out = styled(shape)
    np.testing.assert_allclose(out.mean(axes), reference.mean(axes), atol=1e-12)
    below = standardise_style(x, -reference, 0.5, copy_mean=True)  # a mean has a sign
    np.testing.assert_allclose(below.mean(axes), -reference.mean(axes), atol=1e-12)
    x, _, kept = styled(shape, copy_mean=False)  # HU
    np.testing.assert_allclose(kept.mean(axes), x.mean(axes), atol=1e-12)


def test_all_samples_of_a_batch_share_the_amplitudes_of_the_window():
    batch = np.random.default_rng(1).normal(size=(5, 1, 12, 12))
    window = whole_window((1, 12, 12), 0.5)
    amplitudes = [
        np.abs(spectrum(standardise_style(x, batch[3], 0.5, copy_mean=True)))[:, window]
        for x in batch
    ]
    np.testing.assert_allclose(amplitudes - amplitudes[0], 0, atol=1e-9)


def test_constant_crops_have_no_phase_and_get_no_pattern():
    reference = np.random.default_rng(0).normal(size=(1, 8, 8))
    for value in (0.0, 2.0):
        flat = np.full((1, 8, 8), value)
        out = standardise_style(flat, reference, 0.5, copy_mean=True)
        np.testing.assert_allclose(out, reference.mean(), atol=1e-12)
        np.testing.assert_allclose(
            standardise_style(flat, reference, 0.5, copy_mean=False), flat, atol=1e-12
        )
        out = standardise_style(reference, flat, 0.5, copy_mean=False)
        assert np.isfinite(out).all()


def test_another_look_of_the_same_picture_is_undone():
    # A site that multiplies the low frequencies by 1.5 is told apart before, not after.
    reference = np.random.default_rng(0).normal(size=(1, 16, 16))
    window = whole_window((1, 16, 16), 0.5)
    other = spectrum(reference)
    other[:, window] *= 1.5
    x = np.fft.ifftn(other, axes=(1, 2)).real
    np.testing.assert_allclose(
        standardise_style(x, reference, 0.5, copy_mean=True), reference, atol=1e-12
    )


def test_air_keeps_its_values_and_the_range_is_that_of_both():
    rng = np.random.default_rng(0)
    x, other = rng.uniform(0.2, 0.9, (2, 1, 16, 16)).astype(np.float32)
    x[:, :4] = 0.0
    view = {"x": x, "tissue": x > 0, "place": np.eye(3, 4)}
    out = restyle(view, {"x": other}, 0.8, copy_mean=True)
    assert (out["x"][:, :4] == 0).all()
    assert out["x"].min() >= 0.0
    assert out["x"].max() <= max(x.max(), other.max())
    assert out["x"].dtype == np.float32
    assert out["place"] is view["place"]
    assert not np.array_equal(out["x"], x)
