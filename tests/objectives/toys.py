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
