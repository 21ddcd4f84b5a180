"""An objective of your own, in one file: clean a noisy volume.

Put the class (with ``Config``) into ``medssl/objectives/denoise.py`` and a YAML into
``configs/pretrain/denoise.yaml``, and ``medssl pretrain --objective denoise`` trains it.
Here it takes some steps on blobs, without the command line.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from medssl.core.config import Config as BaseConfig
from medssl.core.seeding import generator, seed_everything
from medssl.core.task import Batch, StepOutput
from medssl.core.taskmodule import TaskModule
from medssl.core.viewspec import Setting, View, ViewSpec
from medssl.encoders._base import Encoder, build_encoder


class Config(BaseConfig):
    """Options of ``denoise``."""

    sigma: float = 0.5
    """Standard deviation of the noise, in units of the normalised volume."""


class Objective(TaskModule):
    """Predict the volume from a noisy copy; loss: mean squared error."""

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__()
        encoder.check_size(setting.crop)
        self.encoder, self.config, self.crop = encoder, config, setting.crop
        self.decoder = encoder.make_decoder(encoder.in_channels)

    def views(self) -> ViewSpec:
        """One plain crop per sample, with tissue in it."""
        return ViewSpec(views=(View(crop=self.crop),), min_tissue=0.2)

    def step(self, batch: Batch) -> StepOutput:
        """Loss of the only view's ``x`` (B, C, D, H, W)."""
        [view] = batch["views"]
        x = view["x"]
        noisy = x + self.config.sigma * torch.randn_like(x)
        cleaned = self.decoder(noisy, self.encoder(noisy))
        return StepOutput(F.mse_loss(cleaned.float(), x.float()), {})


def blobs(step: int, crop: tuple[int, int, int]) -> Tensor:
    """A batch of four smooth random volumes (B, C, D, H, W), mean 0 and deviation 1."""
    rng = generator(0, "blobs", step)
    x = np.stack([ndimage.gaussian_filter(rng.normal(size=crop), 3) for _ in range(4)])
    return torch.from_numpy(x / x.std()).float()[:, None]


seed_everything(0)
crop = (32, 32, 32)
encoder = build_encoder("resenc-xs", {}, in_channels=1)
task = Objective(encoder, Config(), Setting(crop=crop, records=1))
optimizer = torch.optim.AdamW(task.param_groups()[0].params.values(), lr=2e-3)
for step in range(40):
    loss = task.step({"views": [{"x": blobs(step, crop)}]}).loss
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    if step % 10 == 9:
        print(f"step {step + 1}: mean squared error {loss.item():.3f} (the noise itself: 0.25)")
