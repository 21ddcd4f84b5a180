"""Batch norm over ranks is torch's batch norm on the whole batch."""

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from medssl.core.task import StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.objectives._parts.distributed import gather
from medssl.objectives._parts.norm import BatchNorm, BatchNormAct, across_ranks
from tests.objectives.ddp import assert_two_ranks_equal_one


class Toy(TaskModule):
    """Batch norm between two layers; the loss is a mean over samples, or couples all of them."""

    def __init__(self, coupled):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 5), BatchNorm(5), nn.Tanh(), nn.Linear(5, 4))
        self.coupled = coupled

    def step(self, batch):
        z = self.net(batch["x"])
        if self.coupled:
            z = gather(z)
            return StepOutput((z @ z.T).exp().mean(), {})
        return StepOutput((z - batch["target"]).square().mean(), {})


def mean_task():
    return Toy(coupled=False)


def coupled_task():
    return Toy(coupled=True)


def converted_task():
    """Norms of torch and timm, with a teacher's frozen ones, made to look across ranks."""
    task = Toy(coupled=False)
    task.net = nn.Sequential(
        nn.Linear(3, 8), nn.Unflatten(1, (2, 2, 2)), nn.BatchNorm2d(2), nn.Conv2d(2, 4, 2),
        BatchNormAct2d(4, act_layer=nn.GELU), nn.Flatten(),
    )  # fmt: skip
    return across_ranks(task)


def toy_batch():
    draw = torch.Generator().manual_seed(3)
    return {name: torch.randn(6, n, generator=draw) for name, n in (("x", 3), ("target", 4))}


def test_two_ranks_have_the_statistics_and_gradients_of_one():
    assert_two_ranks_equal_one({
        "mean": (mean_task, toy_batch), "coupled": (coupled_task, toy_batch),
        "converted": (converted_task, toy_batch),
    })  # fmt: skip


@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 4, 5), (2, 3, 2, 3, 4)])
def test_equals_torch_on_one_process(shape):
    ours = BatchNorm(3).double()
    theirs = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](3).double()
    x = torch.randn(shape, dtype=torch.float64) * 3 + 1
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    for _ in range(3):
        left, right = ours(a), theirs(b)
        torch.testing.assert_close(left, right)
    for out in (left, right):
        out.pow(3).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_one_value_per_channel_is_normalised_by_the_running_averages():
    norm = BatchNorm(2)
    x = torch.tensor([[3.0, -1.0]])
    torch.testing.assert_close(norm(x), x / (1 + norm.eps) ** 0.5)
    assert norm.num_batches_tracked == 0


def test_running_averages_move_only_where_gradients_are_enabled():
    norm = BatchNorm(2)
    x = torch.randn(8, 2) + 5
    with torch.no_grad():
        norm(x)
    assert torch.equal(norm.running_mean, torch.zeros(2))
    norm(x)
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean(0))


def test_constant_input_gives_the_bias_and_finite_gradients():
    norm = BatchNorm(2)
    x = torch.full((4, 2), 7.0, requires_grad=True)
    out = norm(x)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(4, 2))
    assert torch.isfinite(x.grad).all()


def test_bfloat16_input_keeps_its_type_and_float32_statistics():
    x = torch.randn(64, 3) + 100
    out = BatchNorm(3)(x.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), BatchNorm(3)(x.bfloat16().float()), atol=0.02, rtol=0)


def test_batch_norms_of_a_network_are_replaced_and_give_the_same():
    net = timm.create_model("test_efficientnet", pretrained=False, num_classes=3)
    x = torch.randn(4, 3, 32, 32)
    ours = across_ranks(copy.deepcopy(net))
    assert {type(m) for m in ours.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)} <= {
        BatchNorm, BatchNormAct,
    }  # fmt: skip
    for mode in (True, False):
        torch.testing.assert_close(ours.train(mode)(x), net.train(mode)(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.state_dict(), net.state_dict(), rtol=1e-4, atol=1e-4)
