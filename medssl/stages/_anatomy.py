"""Dense embeddings of all records of a run, by the network of a run of ``objective=anatomy``.

They lie beside the stored records, named by the network's weights and the record: other runs on
the same store find them again, and an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.fabric import Fabric
from torch import nn

from medssl.archive.store import Entry
from medssl.core.config import validate
from medssl.core.errors import ConfigError, ReadError, UsageError
from medssl.core.runlog import write_bytes
from medssl.encoders.card import Card, build_from_card, load_card, part_of
from medssl.objectives._parts.dense import DenseEmbedding, EmbeddingConfig
from medssl.stages._embed import Network, Steps, axis_of, embed, in_depth
from medssl.stages._sources import StoredRecords
from medssl.views.embedding import Embedding, Grid, coarse_norm
from medssl.views.planes import axes_of

Array = npt.NDArray[Any]

# Embeddings whose files are open at a time.
_OPEN = 64
_PARTS = ("fine", "coarse", "norm")


def load_network(run: Path) -> Network:
    """The network of a run of ``objective=anatomy``.

    Raises:
        UsageError: the run holds no dense embedding, or another one than its card says.
    """
    card, weights = load_card(run)
    if "embedding" not in card.parts:
        fix = "give a run of pretrain objective=anatomy"
        raise UsageError("this run holds no dense embedding", where=str(run), fix=fix)
    encoder = build_from_card(card)
    config = validate(EmbeddingConfig, card.embedding, where="card.json")
    embedding = DenseEmbedding(encoder, config, card.patch_size)
    parts: dict[str, nn.Module] = {"encoder": encoder, "embedding": embedding}
    for name, module in parts.items():
        try:
            module.load_state_dict(part_of(weights, name), strict=True)
        except RuntimeError:
            what = f"the {name} does not reload from its card"
            raise UsageError(what, where=str(run)) from None
        module.eval().requires_grad_(False)
    crop = card.patch_size
    with torch.inference_mode():
        maps = embedding(encoder(torch.zeros(1, card.in_channels, *crop)))
    fine, coarse = (
        tuple(side // cells for side, cells in zip(crop, found.shape[2:], strict=True))
        for found in maps
    )
    return Network(card, encoder, embedding, (fine, coarse))


def embeddings_of(run: Path, records: StoredRecords, fabric: Fabric) -> StoredEmbeddings:
    """Embeddings of all records; those that are not there yet are made, by rank 0.

    A record that cannot be read gets none; whoever asks for it is told so.

    Raises:
        ConfigError: the network expects records that are prepared in another way.
    """
    network = load_network(run)
    card, store = network.card, records.store
    if card.contract.digest != store.contract.digest:
        what = "the embedding was trained on records that are prepared in another way"
        raise ConfigError(what, fix="give both runs one spacing_mm, size_px and match_channels")
    folder = store.folder / "embeddings" / card.weights_sha256[:32]
    if fabric.is_global_zero:
        for entry in records.entries:
            if all(_path(folder, entry, part).is_file() for part in _PARTS):
                continue
            try:
                x = store.read(entry.key, (0, 0, 0), entry.shape[1:])
            except ReadError:
                continue
            _save(folder, entry, network, embed(network, entry, x, fabric.device))
    fabric.barrier()
    return StoredEmbeddings(records, folder, network.steps, card)


@dataclass(eq=False)
class StoredEmbeddings:
    """See :class:`medssl.views.embedding.Embeddings`; arrays are memory maps of float16."""

    records: StoredRecords
    folder: Path
    steps: Steps
    card: Card
    _known: OrderedDict[int, Embedding] = field(default_factory=OrderedDict)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": OrderedDict()}  # open files do not cross processes

    def embedding(self, record: int) -> Embedding:
        """Of the record with this number.

        Raises:
            ReadError: ``store_damaged``: there is none, as the record could not be read.
        """
        if record not in self._known:
            self._known[record] = self._load(self.records.entries[record])
            if len(self._known) > _OPEN:
                self._known.popitem(last=False)
        return self._known[record]

    def _load(self, entry: Entry) -> Embedding:
        paths = [_path(self.folder, entry, part) for part in _PARTS]
        try:
            fine, coarse, norm = (np.load(path, mmap_mode="r") for path in paths)
        except (OSError, ValueError):
            fix = "delete it; it will be made again"
            what = "the embedding of a record cannot be read"
            raise ReadError("store_damaged", what, where=str(paths[0]), fix=fix) from None
        fine_grid, coarse_grid = _grids(self.card, self.steps, entry)
        return Embedding(fine, fine_grid, coarse, coarse_grid, norm, entry.shape[1:])


def _save(folder: Path, entry: Entry, network: Network, vectors: tuple[Array, Array]) -> None:
    """Write both arrays in half precision, and what matches need of the coarse ones."""
    fine, coarse = (np.ascontiguousarray(x, dtype=np.float16) for x in vectors)
    grids = _grids(network.card, network.steps, entry)
    arrays = {"fine": fine, "coarse": coarse, "norm": coarse_norm(fine, grids[0], coarse, grids[1])}
    for part, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array.astype(np.float16))
        path = _path(folder, entry, part)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, buffer.getvalue())


def _path(folder: Path, entry: Entry, part: str) -> Path:
    return folder / entry.key[:2] / f"{entry.key}.{part}.npy"


def _grids(card: Card, steps: Steps, entry: Entry) -> tuple[Grid, Grid]:
    """Fine and coarse cells of a record, its own axes in order."""
    back = np.argsort(axes_of(axis_of(card, entry)))
    fine, coarse = (Grid.of_step(np.array(in_depth(step))[back]) for step in steps)
    return fine, coarse
