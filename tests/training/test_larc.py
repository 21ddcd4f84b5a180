"""LARC by its formula, and wired: rates and decay; test_loop.py has its resume."""

import pytest
import torch

from medssl.core.config import load_config, validate
from medssl.core.registry import OBJECTIVES
from medssl.core.viewspec import Setting
from medssl.encoders._base import build_encoder
from medssl.stages.pretrain import PretrainConfig
from medssl.training.larc import Larc
from medssl.training.optim import OptimConfig, build_optimizer, rate_at
from tests.training.test_loop import batches, fit, make_loop

W, G = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])


def stepped(w, *gradients, lr=0.1, decay=0.0, **how):
    param = torch.nn.Parameter(w.clone().double())
    optimizer = Larc([{"params": [param], "weight_decay": decay}], lr=lr, **how)
    for g in gradients:
        param.grad = g.clone().double()
        optimizer.step()
    return param.detach()


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e6])
def test_the_step_is_a_share_of_the_weights_however_large_the_gradient(size):
    moved = W.double() - stepped(W, size * G, trust=0.01)
    assert moved.tolist() == pytest.approx([0.0, 0.1 * 0.01 * 5], rel=1e-4)


def test_decay_is_part_of_what_is_scaled():
    """g + d w = (0.3, 2.4), |w| = 5, |g| + d |w| = 2.5: 0.1 x 0.01 x 2 x that."""
    moved = W.double() - stepped(W, G, trust=0.01, decay=0.1)
    assert moved.tolist() == pytest.approx([0.1 * 0.02 * 0.3, 0.1 * 0.02 * 2.4])


def test_momentum_adds_up_the_scaled_gradients():
    """Second step: 0.9 of the first and its own, of a vector 0.005 shorter along the axis."""
    w = torch.tensor([0.0, 5.0])
    first = 5 * 0.01
    second = 0.9 * first + (5 - 0.1 * first) * 0.01
    assert stepped(w, G, G, trust=0.01)[1] == pytest.approx(5 - 0.1 * (first + second))


def test_what_is_zero_leaves_zero_by_the_plain_step():
    assert stepped(torch.zeros(2), G, decay=0.1).tolist() == pytest.approx([0.0, -0.2])
    assert stepped(W, torch.zeros(2), decay=0.1).tolist() == W.tolist()


def test_a_share_of_1_over_the_rate_is_plain_descent_of_unit_vectors():
    """Same as torch's own where length and slope are equal."""
    param = torch.nn.Parameter(W.clone().double())
    param.grad = 5 * torch.tensor([0.0, 1.0]).double()
    torch.optim.SGD([param], lr=0.1).step()
    ours = stepped(W, 5 * torch.tensor([0.0, 1.0]), trust=1.0)
    assert torch.allclose(ours, param.detach())


def test_vectors_are_decayed_where_asked_for():
    loop = make_loop(optimizer="larc")
    loop.bare.register_parameter("bias", torch.nn.Parameter(torch.zeros(2)))
    for asked, decays in ((True, [1e-6, 1e-6]), (False, [1e-6, 0.0])):
        optim = OptimConfig(optimizer="larc", weight_decay=1e-6, decay_vectors=asked)
        built = build_optimizer(loop.bare.param_groups(), optim)
        assert [group["weight_decay"] for group in built.param_groups] == decays


def test_the_peak_asked_for_is_the_peak_of_the_optimiser(tmp_path):
    loop, seen = make_loop(optimizer="larc"), []
    fit(loop, batches(8), tmp_path, lambda *_: seen.append(loop.optimizer.param_groups[0]["lr"]))
    assert max(seen) == 0.1


@pytest.mark.parametrize("name", ["moco", "simclr", "swav", "dino"])
def test_recipes_of_selfsupsurg_peak_at_a_tenth_and_build(name):
    """Not at 4.8, which their files say and their training never saw."""
    recipe = f"selfsupsurg_{name}"
    config = load_config(PretrainConfig, "pretrain", recipe, {"data": "d", "out": "o"})
    rates = [rate_at(config, step, config.steps) for step in range(0, config.steps, 500)]
    assert rates[0] == max(rates) == 0.1
    module, _ = OBJECTIVES.module(config.objective.name)
    options = validate(module.Config, config.objective.options, where=recipe)
    encoder = build_encoder("timm/resnet10t", {}, config.channels)
    spec = module.Objective(encoder, options, Setting(crop=config.crop, records=40)).views()
    assert [view.count for view in spec.views] == [2]
    assert spec.views[0].intensity.hue == 0
