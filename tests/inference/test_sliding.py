"""The sliding window adds nothing and loses nothing, at edges too."""

import numpy as np
import pytest
import torch
from torch import nn

from medssl.core.errors import ReadError
from medssl.inference.sliding import predict_scores

WINDOW = {
    "patch_size": (8, 12, 16), "overlap": 0.5, "batch_windows": 3, "device": "cpu", "fill": (0.0,)
}  # fmt: skip


class Constant(nn.Module):
    def forward(self, x):
        logits = torch.tensor([0.0, 1.0, 2.0], device=x.device)
        return logits.view(1, 3, 1, 1, 1).expand(len(x), 3, *x.shape[2:])


class Voxelwise(nn.Module):
    """Two classes with logits (0, x): the score of class 1 is sigmoid(x)."""

    def forward(self, x):
        return torch.cat([torch.zeros_like(x[:, :1]), x[:, :1]], dim=1)


class WindowMean(nn.Module):
    """Says what it sees in its whole window."""

    def forward(self, x):
        mean = x.mean(dim=(2, 3, 4), keepdim=True).expand_as(x)
        return torch.cat([torch.zeros_like(mean), mean], dim=1)


class PlaneMean(nn.Module):
    """As :class:`WindowMean`, of pictures."""

    def forward(self, x):
        mean = x.mean(dim=(2, 3), keepdim=True).expand_as(x)
        return torch.cat([torch.zeros_like(mean), mean], dim=1)


def volume(shape, seed=0):
    return np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(20, 30, 25), (8, 12, 16), (3, 40, 5), (9, 13, 17)])
def test_voxelwise_network_is_reproduced_everywhere(shape):
    x = volume(shape)
    scores = predict_scores(Voxelwise(), x, **WINDOW)
    assert scores.shape == (2, *shape)
    np.testing.assert_allclose(scores[1], 1 / (1 + np.exp(-x[0])), atol=1e-6)


def test_constant_network_gives_a_constant_map():
    scores = predict_scores(Constant(), volume((21, 22, 23)), **WINDOW)
    golden = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    np.testing.assert_allclose(scores, np.broadcast_to(golden[:, None, None, None], scores.shape),
                               atol=1e-6)  # fmt: skip


def test_scores_of_all_classes_sum_to_one():
    scores = predict_scores(WindowMean(), volume((20, 30, 25)), **WINDOW)
    np.testing.assert_allclose(scores.sum(axis=0), 1.0, atol=1e-5)


def test_windows_blend_without_a_seam():
    # A step edge seen through window means: neighbours differ by less than a window's jump.
    x = volume((8, 12, 64))
    x[..., :32], x[..., 32:] = -1.0, 1.0
    row = predict_scores(WindowMean(), x, **WINDOW)[1, 4, 6]
    assert (np.diff(row) > -1e-6).all()
    assert np.diff(row).max() < 0.5 * (row.max() - row.min())


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(5, 9, 7), (1, 20, 30), (3, 40, 5)])
def test_a_flat_window_goes_over_each_slice(shape, axis):
    x = volume(shape)
    flat = {**WINDOW, "patch_size": (8, 12), "axis": axis}
    scores = predict_scores(Voxelwise(), x, **flat)
    assert scores.shape == (2, *shape)
    np.testing.assert_allclose(scores[1], 1 / (1 + np.exp(-x[0])), rtol=1e-4)


def test_slices_do_not_look_at_each_other():
    x = volume((3, 8, 12))
    x[0, 1] = 50.0
    scores = predict_scores(PlaneMean(), x, **{**WINDOW, "patch_size": (8, 12)})[1]
    golden = 1 / (1 + np.exp(-x[0].mean(axis=(1, 2))))
    np.testing.assert_allclose(
        scores, np.broadcast_to(golden[:, None, None], (3, 8, 12)), rtol=1e-4
    )


def test_padding_looks_like_air():
    # A small volume fills an eighth of the window, what crops are padded with fills the rest.
    x = volume((4, 6, 8)) + 1
    inside = predict_scores(WindowMean(), x, **{**WINDOW, "fill": (-0.5,)})[1]
    golden = x.mean() / 8 - 0.5 * 7 / 8
    np.testing.assert_allclose(inside, 1 / (1 + np.exp(-golden)), rtol=1e-5)


def test_half_precision_input_and_batch_size_do_not_matter():
    x = volume((20, 30, 25)).astype(np.float16)
    one = predict_scores(Voxelwise(), x, **{**WINDOW, "batch_windows": 1})
    many = predict_scores(Voxelwise(), x, **{**WINDOW, "batch_windows": 64})
    np.testing.assert_allclose(one, many, atol=1e-6)


class Hungry(nn.Module):
    def forward(self, x):
        return torch.empty(2**52, device=x.device)  # the allocator refuses, nothing is touched


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("shapes do not match")


def test_out_of_memory_is_a_reason_of_the_case():
    with pytest.raises(ReadError) as caught:
        predict_scores(Hungry(), volume((8, 8, 8)), **WINDOW)
    assert caught.value.reason == "out_of_memory"


def test_other_failures_of_the_network_are_not_hidden():
    with pytest.raises(RuntimeError, match="shapes do not match"):
        predict_scores(Broken(), volume((8, 8, 8)), **WINDOW)


@pytest.mark.gpu
def test_device_does_not_change_the_scores():
    x = volume((20, 30, 25))
    scores = [
        predict_scores(Voxelwise().to(device), x, **{**WINDOW, "device": device})
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(*scores, atol=1e-5)


@pytest.mark.gpu
def test_out_of_memory_on_the_device():
    with pytest.raises(ReadError) as caught:
        predict_scores(Hungry(), volume((8, 12, 16)), **{**WINDOW, "device": "cuda"})
    assert caught.value.reason == "out_of_memory"
