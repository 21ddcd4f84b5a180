"""Contrast of views: find the other view of the same sample among all views of the batch.

Two views of one place pass the encoder and a small head. Each view has to pick its partner out of
all other views of the batch; what tells samples apart is learnt, what augmentation changes is
not. Other views of the *same record* are no negatives: they show the same anatomy. With a
``partner`` the two views are of two records, such as two echo views of a heart at one time.

Algorithm:
    a, b = head(encoder(view 1)), head(encoder(view 2)), all ranks gathered
    z = rows of a and b, length 1
    loss = mean over rows i of cross entropy(z_i . z_k / t over k != i, partner of i)

Loss:
    l(i, j) = -log( exp(s_ij / t) / sum_{k != i} exp(s_ik / t) ), s = cosine similarity

When to use:
    Archives of many different records and batches of 32 or more: with few negatives there is
    little to learn from (a batch of one has none, and a loss of 0). For batches of 8 volumes use
    byol, vicreg or mae. ``partner.kind=study`` for clips of studies with several views: what both
    views show at the same time is learnt, what only one of them shows is not (``docs/pairs.md``).

Source:
    Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations".
    Departures: views of the same record are left out of the negatives; gentle medical views; AdamW
    in place of LARS, which only pays for batches of thousands. Synchronous views as positives: Jain
    et al. 2022, "ColloSSL"; here of one partner, and no moment of the same patient is a negative.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from medssl.core.task import Batch
from medssl.core.viewspec import PartnerSpec, Setting
from medssl.encoders._base import Encoder
from medssl.objectives._parts.contrast import nt_xent
from medssl.objectives._parts.distributed import gather
from medssl.objectives._parts.heads import Norm, Projector
from medssl.objectives._parts.pair import Pair, PairConfig, view_vectors


class Config(PairConfig):
    """Options of ``simclr``."""

    temperature: float = Field(default=0.2, gt=0)
    """t: low values weigh the hardest negatives. 0.1 for batches of thousands, 0.5 for tens."""
    out: int = Field(default=128, ge=2)
    """Width of the embedding."""
    norm: Norm = "batch"
    """Norm in the head: ``batch`` (over all devices); ``layer`` for batches below 8."""
    partner: PartnerSpec | None = None
    """Whose view is the second one; default: the sample itself."""


class Objective(Pair):
    """``simclr`` wired to an encoder."""

    def __init__(self, encoder: Encoder, config: Config, setting: Setting) -> None:
        super().__init__(encoder, config, setting)
        self.config = config
        if config.partner:
            [view] = self._spec.views
            alone = (view.model_copy(update={"count": 1}),)
            self._spec = self._spec.model_copy(update={"views": alone, "partner": config.partner})
        self.head = Projector(encoder.width, config.hidden, config.out, norm=config.norm)

    def compare(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The contrast over the global batch, and its embeddings."""
        vectors = torch.cat(view_vectors(self.encoder, batch["views"]))
        a_BD, b_BD = (gather(z_BD) for z_BD in self.head(vectors).chunk(2))
        pairs = a_BD, b_BD, gather(batch["record"])
        if self.config.partner:  # any record of the patient may show what the partner shows
            kept_B = gather(batch["partner"]["kept"].bool())
            pairs = a_BD[kept_B], b_BD[kept_B], gather(batch["patient"])[kept_B]
        loss = nt_xent(*pairs[:2], temperature=self.config.temperature, record_B=pairs[2])
        return {"contrast": loss}, a_BD
