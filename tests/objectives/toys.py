"""A tiny encoder and a tiny data set with groups, for checks of what training does."""

import torch
from torch import nn

from medssl.core.features import Features
from medssl.encoders._base import Encoder

CROP = (8, 8)
GROUPS = 4


class TinyEncoder(Encoder):
    """Tokens of 4 x 4 pixels through a small network; their mean through another."""

    token_size = size_multiple = (4, 4)
    width = token_width = 32
    in_channels = 1
    returns_tokens = True

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 32, 4, 4)
        self.net = nn.Sequential(nn.GELU(), nn.Linear(32, 32), nn.LayerNorm(32))

    def forward(self, x, mask=None, fill_D=None):
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        if mask is not None:
            tokens = torch.where(mask[..., None], fill_D, tokens)
        tokens = self.net(tokens + tokens.mean(1, keepdim=True))
        return Features(tokens.mean(1), tokens, None, [])

    def make_decoder(self, out_channels, name="auto"):
        raise AssertionError


def pictures(samples, seed):
    """Noisy pictures (B, 1, 8, 8) of one of four patterns, with their group."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(GROUPS, 1, *CROP, generator=torch.Generator().manual_seed(1234))
    group = torch.arange(samples) % GROUPS
    return patterns[group], group, generator


def toy_batch(task, samples=16, seed=0):
    """The batch that the task's views ask for; views differ by noise and gain."""
    clean, _, generator = pictures(samples, seed)
    views = []
    for view in task.views().views:
        for _ in range(view.count):
            gain = 0.7 + 0.6 * torch.rand(samples, 1, 1, 1, generator=generator)
            x = gain * clean + 0.5 * torch.randn(clean.shape, generator=generator)
            made = {"x": x[..., : view.crop[0], : view.crop[1]]}
            if view.mask:
                made["mask"] = torch.rand(samples, 4, generator=generator) < 0.3
            views.append(made)
    return {"views": views, "record": torch.arange(samples) + samples * seed}


def train(task, steps=200, samples=16, lr=1e-3):
    """Logs of each step, as the loop makes them."""
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr)
    logs = []
    for step in range(steps):
        output = task.step(toy_batch(task, samples, step))
        output.loss.backward()
        task.before_update(step / steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        task.after_update((step + 1) / steps)
        logs.append({k: float(v) for k, v in output.log.items()} | {"loss": float(output.loss)})
    return logs


def fit(task, first, last, steps=8, optimizer=None, samples=8):
    """Steps ``first`` to ``last`` of a run of ``steps``; returns the optimiser."""
    weights = [p for p in task.parameters() if p.requires_grad]
    optimizer = optimizer or torch.optim.AdamW(weights, 1e-3)
    for step in range(first, last):
        if task.prepare_at(step):
            task.prepare(lambda: iter([toy_batch(task, samples, 0)]))
        batch = toy_batch(task, samples, step) | {"record": torch.arange(samples)}
        task.step(batch).loss.backward()
        task.before_update(step / steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        task.after_update((step + 1) / steps)
    return optimizer


def resumed(make, at=4, steps=8, spoil=None):
    """State of a run that was saved at a step and taken up by a fresh task; see :func:`straight`.

    ``spoil``: name of a saved tensor that is changed in between.
    """
    task = make()
    optimizer = fit(task, 0, at, steps)
    state = {k: v.clone() for k, v in task.state_dict().items()}
    if spoil:
        tensor = state[spoil]
        tensor += 1 if tensor.is_floating_point() else 1 - 2 * tensor.clamp(0, 1)
    other = make()
    other.load_state_dict(state, strict=True)
    taken_up = torch.optim.AdamW([p for p in other.parameters() if p.requires_grad], 1e-3)
    taken_up.load_state_dict(optimizer.state_dict())
    fit(other, at, steps, steps, taken_up)
    return other.state_dict()


def straight(make, steps=8):
    """State of the run without a break."""
    task = make()
    fit(task, 0, steps, steps)
    return task.state_dict()


def differing(a, b):
    """Names of tensors that are not bitwise equal."""
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]
