"""An objective of your own, in one file: clean a noisy volume.

With ``Config`` and ``Objective`` in ``medssl/objectives/denoise.py`` and a YAML in
``configs/pretrain/denoise.yaml``, ``medssl pretrain --objective denoise`` trains it; the docstring
of that file becomes its docs page. Here it takes some steps on blobs.
"""

from __future__ import annotations

import torch
from scipy import ndimage
from torch import Tensor, nn

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
    """Predict the volume from a noisy copy. A teacher or a queue would move in ``after_update``."""

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__()
        self.encoder, self.config, self.crop = encoder, config, setting.crop
        self.decoder = encoder.make_decoder(encoder.in_channels)

    def views(self) -> ViewSpec:
        """One crop per sample, at least a fifth of it tissue."""
        return ViewSpec(views=(View(crop=self.crop),), min_tissue=0.2)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Each part of the loss by name."""
        x = batch["views"][0]["x"]  # (B, C, D, H, W)
        noisy = x + self.config.sigma * torch.randn_like(x)
        cleaned = self.decoder(noisy, self.encoder(noisy))
        return {"error": nn.functional.mse_loss(cleaned.float(), x.float())}

    def step(self, batch: Batch) -> StepOutput:
        """Mean squared error; nothing that lasts changes here."""
        error = self.terms(batch)["error"]
        return StepOutput(error, {"error": error.detach()})


def blobs(step: int, crop: tuple[int, int, int]) -> Tensor:
    """Four smooth random volumes (B, C, D, H, W), deviation 1."""
    noise = generator(0, "blobs", step).normal(size=(4, 1, *crop))
    x = ndimage.gaussian_filter(noise, (0, 0, 3, 3, 3))
    return torch.from_numpy(x / x.std()).float()


seed_everything(0)
crop = (32, 32, 32)
task = Objective(build_encoder("resenc-xs", {}, 1), Config(), Setting(crop=crop, records=4))
optimizer = torch.optim.AdamW(task.param_groups()[0].params.values(), lr=2e-3)
for step in range(40):
    loss = task.step({"views": [{"x": blobs(step, crop)}]}).loss
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
print(f"mean squared error after 40 steps: {loss.item():.3f} (the noise itself: 0.25)")
