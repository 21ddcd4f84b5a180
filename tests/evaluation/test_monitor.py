"""The health monitor leaves a training as it was."""

import torch
from torch import nn

from medssl.core.features import Features
from medssl.core.task import StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.evaluation.health import feature_std, lidar, rankme
from medssl.evaluation.monitor import HealthMonitor, Probe
from medssl.objectives._parts.pair import spread


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return Features(self.norm(x), None, None, [])


class Restless(TaskModule):
    """Draws, moves a batch norm that stays in training mode, and counts."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.teacher = Encoder().requires_grad_(False)
        self.modes = []

    def step(self, batch):
        self.modes.append(self.training)
        self.teacher.train()
        out = self.encoder(batch["x"]).global_BD + torch.randn(6)
        loss = (out - self.teacher(batch["x"]).global_BD).square().mean()
        return StepOutput(loss, {"teacher_entropy": loss.detach() * 0 + 2, "other": loss})


def probe():
    views = [torch.randn(10, 6), torch.randn(10, 6)]
    return Probe(views, {"views": [], "x": torch.randn(4, 6)}, chunk=3)


def test_training_is_bitwise_as_without():
    task, monitor = Restless().train(), HealthMonitor(probe())
    task.step({"x": torch.randn(4, 6)}).loss.backward()
    before = {k: v.clone() for k, v in task.state_dict().items()}
    grads = {n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}
    random = torch.get_rng_state()
    monitor(task)
    assert all(torch.equal(v, before[k]) for k, v in task.state_dict().items())
    assert all(torch.equal(p.grad, grads[n]) for n, p in task.named_parameters() if n in grads)
    assert torch.equal(torch.get_rng_state(), random)
    assert task.training
    assert task.modes == [True, False]


def test_measures_are_those_of_the_encoder_and_repeat():
    task, given = Restless(), probe()
    values = HealthMonitor(given)(task)
    z = torch.stack([task.eval().encoder(v).global_BD for v in given.views], 1).detach()
    assert abs(values["rankme"] - rankme(z.flatten(0, 1))) < 1e-4
    assert abs(values["lidar"] - lidar(z)) < 1e-4
    assert abs(values["feature_std"] - feature_std(z.flatten(0, 1))) < 1e-4
    assert values["teacher_entropy"] == 2
    assert "other" not in values
    assert HealthMonitor(given)(task)["rankme"] == values["rankme"]


def test_gradient_norms_are_those_of_backward_per_block():
    task, given = Restless(), probe()
    torch.manual_seed(3)
    values = HealthMonitor(given)(task)
    task.eval().encoder.norm.train()  # as the loss sees it in training
    task.step(given.batch).loss.backward()
    for block in ("blocks.0", "blocks.1", "norm"):
        params = task.encoder.get_submodule(block).parameters()
        norm = torch.cat([p.grad.flatten() for p in params]).norm().item()
        assert abs(values[f"grad_norm/encoder.{block}"] - norm) < 1e-5
    assert not any(key.startswith("grad_norm/teacher") for key in values)


def test_averaged_weights_have_no_gradients_but_all_else():
    task = Restless().requires_grad_(False)
    values = HealthMonitor(probe())(task)
    assert "rankme" in values
    assert not any(key.startswith("grad_norm") for key in values)


def test_weights_that_rest_in_a_stage_are_not_called_dead():
    class Staged(Restless):
        def resting(self):
            return list(self.encoder.blocks.parameters())

    values = HealthMonitor(probe())(Staged())
    assert [key for key in values if key.startswith("grad_norm/encoder")] == [
        "grad_norm/encoder.norm"
    ]


def test_a_head_with_batch_norm_is_judged_by_the_statistics_of_its_batch():
    # Its running averages say nothing yet: in evaluation mode all samples would look the same.
    class Headed(Restless):
        def step(self, batch):
            z = self.encoder.norm(100 + batch["x"])
            return StepOutput(z.square().mean(), {"embedding_std": spread(z)})

    assert HealthMonitor(probe())(Headed())["embedding_std"] > 0.5
