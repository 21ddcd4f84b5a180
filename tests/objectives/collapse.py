"""Planted collapses: objectives with the part left out that keeps their embeddings apart."""

from medssl.core.viewspec import Setting
from medssl.objectives import byol


class ByolWithoutStops(byol.Objective):
    """BYOL without teacher, stop-gradient and predictor: a point answers every question."""

    def compare(self, batch):
        a, b = (self.head(self.encoder(view["x"]).global_BD) for view in batch["views"])
        cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-8)
        return {"regression": (2 - 2 * cosine).mean()}, a


def collapsing_byol(encoder, crop, norm="layer"):
    """The planted collapse.

    No batch norm in the head: it would rebuild the spread that the encoder loses.
    """
    config = byol.Config(hidden=64, out=32, norm=norm)
    return ByolWithoutStops(encoder, config, Setting(crop=crop, records=8))


def sound_byol(encoder, crop):
    """BYOL as it should be, of the same size."""
    config = byol.Config(hidden=64, out=32)
    return byol.Objective(encoder, config, Setting(crop=crop, records=8))
