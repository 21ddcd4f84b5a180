"""I-JEPA: blocks, targets without gradient, registers (methods 2.12)."""

import pytest
import torch

from medssl.core.ema import cosine_momentum
from medssl.core.errors import ConfigError
from medssl.objectives._parts.joint_embedding import at_blocks, normalise, spread_of_samples
from medssl.objectives.jepa import prediction_error
from tests.objectives.tiny import batch_of, make, run

TRANSFORMERS = ["vit3d-xs", "timm/vit_tiny_patch16_224"]


@pytest.fixture(params=TRANSFORMERS)
def task(request):
    return make("jepa", request.param)


def test_no_target_is_in_the_context(task):
    for first in range(0, 64, 4):
        view = batch_of(task, first=first)["views"][0]
        for mask, targets in zip(view["mask"], view["targets"], strict=True):
            assert mask[targets].all()  # hidden from the context
            assert all(len(set(row)) == len(row) for row in targets.tolist())


def test_every_sample_has_four_targets_of_the_papers_size(task):
    view = batch_of(task)["views"][0]
    tokens = view["mask"].shape[1]
    assert view["targets"].shape == (4, 4, int(0.175 * tokens))
    assert 0.15 * tokens - 1 < view["targets"].shape[2] <= 0.2 * tokens


def test_predicting_the_normalised_target_costs_nothing():
    target = at_blocks(normalise(torch.randn(2, 9, 8)), torch.tensor([[[0, 4]], [[8, 1]]]))
    assert prediction_error(target, target, torch.ones(2, 1, 2)) == 0


def test_targets_have_mean_0_and_variance_1_each():
    tokens = normalise(50 + 9 * torch.randn(2, 9, 256))
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 9), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.var(-1, correction=0), torch.ones(2, 9))


def test_blocks_hold_the_tokens_asked_for_in_that_order():
    tokens = torch.arange(9.0).view(1, 9, 1).expand(-1, -1, 4)
    blocks = torch.tensor([[[7, 0], [3, 3]]])
    assert torch.equal(at_blocks(tokens, blocks)[..., 0], blocks.float())


def test_the_target_path_has_no_gradient(task):
    batch = batch_of(task)
    _, wanted = task._compare(batch)
    assert not wanted.requires_grad
    task.step(batch).loss.backward()
    assert all(p.grad is None for p in task.teacher.parameters())


def test_air_is_no_target(task):
    batch = batch_of(task)
    view = batch["views"][0]
    view["tissue"] = torch.zeros_like(view["tissue"])
    assert task.step(batch).loss == 0


def test_registers_learn_though_they_are_never_targets(task):
    batch = batch_of(task)
    run(task, batch)
    task.step(batch).loss.backward()
    assert task.predictor.register_tokens.grad.abs().min() > 0


@pytest.mark.parametrize("registers", [0, 1, 5])
def test_the_shape_of_predictions_is_that_of_the_targets(registers):
    task = make("jepa", "vit3d-xs", registers=registers)
    batch = batch_of(task)
    targets = batch["views"][0]["targets"]
    seen = []
    task.predictor.register_forward_hook(lambda *a: seen.append(a[2].shape))
    task.step(batch)
    assert seen == [(*targets.shape, task.encoder.token_width)]


def test_the_context_does_not_see_targets(task):
    batch = batch_of(task)
    view = batch["views"][0]
    seen = []
    task.eval().predictor.register_forward_hook(lambda *a: seen.append(a[2]))
    task.step(batch)
    size, grid = task.encoder.token_size, task.encoder.grid(tuple(view["x"].shape[2:]))
    hidden = view["mask"].view(-1, 1, *grid)
    for axis, side in enumerate(size, start=2):
        hidden = hidden.repeat_interleave(side, axis)
    view["x"] = torch.where(hidden, 99.0, view["x"])
    task.step(batch)
    assert torch.equal(seen[0], seen[1])


def test_blocks_are_predicted_alone(task):
    # Another block asked for beside it changes nothing.
    batch = batch_of(task)
    view = batch["views"][0]
    features = task.eval().encoder(view["x"], view["mask"])
    where = (features.tokens_BND, features.token_index_BN)
    grid = task.encoder.grid(tuple(view["x"].shape[2:]))
    all_blocks = task.predictor(*where, view["targets"], grid)
    one_block = task.predictor(*where, view["targets"][:, 2:3], grid)
    torch.testing.assert_close(all_blocks[:, 2:3], one_block, atol=1e-5, rtol=1e-5)


def test_predictions_know_their_place(task):
    batch = batch_of(task)
    view = batch["views"][0]
    features = task.encoder(view["x"], view["mask"])
    grid = task.encoder.grid(tuple(view["x"].shape[2:]))
    y = task.predictor(features.tokens_BND, features.token_index_BN, view["targets"], grid)
    assert (y[:, :, 0] - y[:, :, 1]).abs().max() > 1e-3


def test_a_constant_encoder_shows_as_no_spread(task):
    assert task.step(batch_of(task)).log["target_std"] > 0.1
    norm = getattr(task.teacher.module, "net", task.teacher.module).norm
    torch.nn.init.zeros_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    assert task.step(batch_of(task)).log["target_std"] < 1e-5


def test_features_that_only_know_their_place_show_as_no_spread():
    place = torch.randn(1, 16, 8)
    assert spread_of_samples(place.expand(4, -1, -1)) == 0
    assert spread_of_samples(normalise(torch.randn(64, 16, 512))).item() == pytest.approx(
        1, abs=0.02
    )


def test_the_teacher_is_the_moving_average_of_the_encoder(task):
    old = [p.clone() for p in task.teacher.parameters()]
    for p in task.encoder.parameters():
        torch.nn.init.normal_(p)
    task.after_update(0.25)
    m = cosine_momentum(0.996, 0.25)
    for before, now, student in zip(
        old, task.teacher.parameters(), task.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(now, m * before + (1 - m) * student)


def test_grey_values_and_sides_are_left_alone(task):
    [view] = task.views().views
    assert view.intensity.probability == view.intensity.noise_probability == 0
    assert view.spatial.flip is None
    assert view.spatial.rotate_deg == 0


@pytest.mark.parametrize("encoder", ["resenc-xs", "timm/resnet18"])
def test_encoders_without_tokens_are_refused_with_a_way_out(encoder):
    with pytest.raises(ConfigError) as refusal:
        make("jepa", encoder)
    assert "hidden tokens" in refusal.value.what
    assert "vit3d-s" in refusal.value.fix


def test_error_has_the_gradient_of_finite_differences():
    y = torch.randn(3, 1, 2, 4, dtype=torch.float64, requires_grad=True)
    target, weight = torch.randn(3, 1, 2, 4, dtype=torch.float64) * 3, torch.rand(3, 1, 2).double()
    assert torch.autograd.gradcheck(lambda p: prediction_error(p, target, weight), y)


def test_a_crop_too_small_for_the_targets_is_refused_before_step_1():
    with pytest.raises(ConfigError, match="leave no context"):
        make("jepa", "vit3d-xs", targets=9)


def test_a_context_above_the_whole_crop_is_refused():
    with pytest.raises(ConfigError, match="at most 1"):
        make("jepa", "vit3d-xs", context=(0.85, 1.2))
