"""What a masked objective makes of records that it sees in part, for a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import default_collate

from medssl.archive.catalog import Catalog, is_catalog
from medssl.archive.store import Store
from medssl.core.config import load_config, validate
from medssl.core.errors import NothingUsableError, ReadError, UsageError
from medssl.core.registry import OBJECTIVES
from medssl.core.sample import Record
from medssl.core.seeding import generator
from medssl.core.viewspec import Setting
from medssl.encoders._base import Encoder
from medssl.encoders._tokens import blocks_to_voxels
from medssl.encoders.card import Card, build_from_card
from medssl.pages.page import Picture
from medssl.pages.picture import data_uri
from medssl.stages import index
from medssl.stages._data import ViewDataset
from medssl.stages._doctor_samples import choose, look_at
from medssl.stages._init import load_init, load_objective
from medssl.stages._records import Preparation, select, stored
from medssl.stages._sources import StoredRecords
from medssl.stages.pretrain import PretrainConfig

# Grey of what was hidden, 0..1.
_HIDDEN = 0.35
SIDE_PX = 480


def drawings(run: Path, card: Card, data: Path, most: int, private: Path) -> list[Picture]:
    """Crops whole, as the encoder sees them, and as they are drawn.

    Args:
        run: of pretrain.
        card: of its model.
        data: catalog or folder; nothing is written there.
        most: number of records.
        private: folder for a store and a catalog that are thrown away.

    Raises:
        MedsslError: nothing can be drawn; ``what`` says why.
    """
    module, _ = OBJECTIVES.module(card.objective or "")
    if not hasattr(module.Objective, "rebuild"):
        raise UsageError(f"{card.objective} draws no pixels")
    if not (run / "checkpoints").is_dir():
        raise UsageError("the run's checkpoints, which hold the decoder, are gone")
    given = {"data": data, "out": private / "run"}
    config = load_config(PretrainConfig, "pretrain", run / "config.yaml", given)
    assert isinstance(config, PretrainConfig)
    encoder = build_from_card(card)
    kept = _kept(config, card, encoder, most, private)
    options = validate(module.Config, config.objective.options, where="objective")
    setting = Setting(crop=card.patch_size, records=len(kept), kind=encoder.kind, clip=config.clip)
    load_init(encoder, None, run)
    task = module.Objective(encoder, options, setting)
    load_objective(task, card.objective or "", run)
    views = ViewDataset(kept, task.views(), config.seed)
    return [_drawn(task.eval(), views, number) for number in range(len(kept))]


def _kept(
    config: PretrainConfig, card: Card, encoder: Encoder, most: int, private: Path
) -> StoredRecords:
    """A few records that may be shown, in a store of their own."""
    catalog = _catalog(config.data, private)
    usable, _ = select(
        catalog.records(where=config.where), config, channels=card.in_channels, kind=encoder.kind,
        splits=("train", "val", "test"),
    )  # fmt: skip
    store = Store(private / "store", card.contract)
    kept: list[Record] = []
    for record in choose(usable, 3 * most):
        if record.kind != "volume" and look_at(catalog, record).hidden:
            continue
        try:
            Preparation(catalog.folder, store)(record)
        except ReadError:
            continue
        kept.append(record)
        if len(kept) == most:
            break
    if not kept:
        raise NothingUsableError("no record could be shown")
    return stored(kept, store)


def _catalog(data: Path, private: Path) -> Catalog:
    if is_catalog(data):
        return Catalog.open(data)
    made = private / "catalog"
    index.run(index.IndexConfig(archive=data, out=made, quiet=True))
    return Catalog.open(made)


@torch.no_grad()
def _drawn(task: Any, views: ViewDataset, number: int) -> Picture:
    [view] = default_collate([views.sample(number, generator(0, "report", number))])["views"]
    x, size = view["x"], task.encoder.token_size
    drawn = task.rebuild(view)
    hidden = blocks_to_voxels(view["mask"], task.encoder.grid(tuple(x.shape[2:])), size)
    whole, seen, rebuilt = _levels([x, x, drawn], hidden)
    side_by_side = np.concatenate([whole, seen, rebuilt], axis=2)
    share = float(view["mask"].float().mean())
    caption = f"whole, seen ({1 - share:.0%}), drawn"
    return Picture(
        title=f"crop {number + 1}", caption=caption, data_uri=data_uri(side_by_side, SIDE_PX)
    )


def _levels(parts: Sequence[Tensor], hidden: Tensor) -> list[npt.NDArray[np.float64]]:
    """Middle slices (C, H, W) in the first one's levels; in the second, what is hidden is grey."""
    low, high = np.percentile(parts[0].numpy(), (1, 99))
    out = []
    for number, part in enumerate(parts):
        levels = ((part - float(low)) / max(float(high - low), 1e-6)).clip(0, 1)
        if number == 1:
            levels = levels.masked_fill(hidden, _HIDDEN)
        flat = levels[0] if levels.ndim == 4 else levels[0, :, levels.shape[2] // 2]
        out.append(flat[: 3 if len(flat) == 3 else 1].double().numpy())
    return out
