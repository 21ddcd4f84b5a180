"""``medssl embed``: one vector per record, and pictures of what lies near what.

``e.parquet`` holds a row per record: ``record_id``, ``embedding`` (float32 list, the mean over
windows of the training crop), ``patient`` (a number; patients who share a picture are one) and the
free labels of the catalog, null = unknown. Beside it: ``e.json`` (how well neighbours tell the free
labels, for this checkpoint, random weights and raw pixels, and the shortcut warning), ``e_map.png``
(two principal components, coloured by label), ``e_neighbours.png`` (records and their nearest ones
of other patients) and ``e_dense.png`` (dense features, three principal components as red, green and
blue). A folder is indexed first, into ``e_catalog``.

No file holds a path or a name; pictures that may show one are hidden as ``doctor`` hides them.

N records, D width.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import rich
from rich.progress import Progress

from medssl.archive.catalog import Catalog, is_catalog
from medssl.archive.store import Entry, Store
from medssl.core.config import Config
from medssl.core.errors import NothingUsableError, ReadError, UsageError
from medssl.core.runlog import Run, write_bytes, write_text
from medssl.core.sample import Record
from medssl.encoders.card import Card
from medssl.evaluation.shortcut import read_outs, shortcut
from medssl.pages.sheet import scatter_png, sheet_png
from medssl.stages import index
from medssl.stages._embed_pictures import dense_rows, neighbour_rows, principal
from medssl.stages._features import Frozen, evenly, finite, pixels
from medssl.stages._health import SHORTCUT_FIX
from medssl.stages._predict_setup import device_of
from medssl.stages._records import fill_store, free_labels, select, store_key, stored
from medssl.stages._sources import StoredRecords
from medssl.stages.pretrain import PretrainConfig

# Records on which labels are read out, evenly spaced: the baselines see as many.
_MOST_READ = 1_000
# What is written beside the table, as the end of its name.
_FACTS, _MAP, _NEIGHBOURS, _DENSE = ".json", "_map.png", "_neighbours.png", "_dense.png"


class EmbedConfig(Config):
    """Options of ``medssl embed``."""

    data: Path
    """Catalog, or folder of scans."""
    checkpoint: Path
    """Run of ``pretrain`` or ``finetune``."""
    out: Path
    """The Parquet file to write."""
    where: str | None = None
    """Records to embed, e.g. ``modality == 'MR'``."""
    failure_budget: float = 0.01
    """Largest share of records that may fail before the run stops."""
    store: Path | None = None
    """Folder of preprocessed records; default: in the catalog."""
    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes a GPU where there is one."""
    overwrite: bool = False
    quiet: bool = False


def run(config: EmbedConfig) -> Run:
    """Embed every record that the encoder takes, of whatever split; ``Run.result`` is ``e.json``.

    Raises:
        UsageError: an output in use, or no model in the checkpoint.
        NothingUsableError: no record that the encoder takes.
        MedsslError: vectors that are not finite.
    """
    _check_out(config)
    frozen, card = Frozen.of_run(config.checkpoint, device_of(config.device))
    catalog = _catalog(config)
    records, kept, excluded = _kept(config, catalog, card, frozen)
    z_ND, kept = _vectors(catalog, frozen, records, kept)
    record_of = {store_key(kept.store, record): record for record in records}
    found = [record_of[entry.key] for entry in kept.entries]
    labels = free_labels(records, kept)
    write_bytes(config.out, _table(found, kept, labels, z_ND))
    points_N2, shares = principal(z_ND, 2)
    finished = Run("embed", config.out)
    finished.result = {
        "records": len(found),
        "patients": len(np.unique(kept.patients)),
        "width": z_ND.shape[1],
        "excluded": excluded,
        "weights_sha256": card.weights_sha256,
        "principal_shares": shares,
        **_read_out(frozen, kept, z_ND, labels),
    }
    write_text(_beside(config, _FACTS), json.dumps(finished.result, indent=1) + "\n")
    told = {name: v for name, v in labels.items() if len({one for one in v if one}) > 1}
    pictures = {
        _MAP: scatter_png(points_N2, told or {"all records": [""] * len(found)}),
        _NEIGHBOURS: sheet_png(neighbour_rows(catalog, found, kept, z_ND)),
        _DENSE: sheet_png(dense_rows(catalog, found, kept, frozen)),
    }
    for ending, data in pictures.items():
        write_bytes(_beside(config, ending), data)
    if finished.result["shortcut"]:
        rich.get_console().print(f"{finished.result['shortcut']}; {SHORTCUT_FIX}")
    finished.ledger = catalog.ledger.path
    finished.exit_code = 4 if catalog.summary["quarantined"] else 0
    return finished


def _table(
    found: Sequence[Record],
    kept: StoredRecords,
    labels: Mapping[str, Sequence[str]],
    z_ND: npt.NDArray[np.float32],
) -> bytes:
    """The Parquet file; unknown labels are null."""
    columns = {
        name: pl.Series([value or None for value in values], dtype=pl.String)
        for name, values in labels.items()
    }
    table = pl.DataFrame(
        {
            "record_id": [record.record_id for record in found],
            "patient": pl.Series(kept.patients.astype(np.int32)),
            **columns,
            "embedding": pl.Series(z_ND).arr.to_list(),
        }
    )
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def _check_out(config: EmbedConfig) -> None:
    if config.out.suffix != ".parquet":
        fix = f"-o {config.out.name}.parquet"
        raise UsageError("the output is no .parquet file", where=str(config.out), fix=fix)
    endings = (_FACTS, _MAP, _NEIGHBOURS, _DENSE)
    for path in (config.out, *(_beside(config, one) for one in endings)):
        if path.is_dir() or (path.exists() and not config.overwrite):
            fix = "choose another file, or give --overwrite"
            raise UsageError("the output exists", where=str(path), fix=fix)
    config.out.parent.mkdir(parents=True, exist_ok=True)


def _beside(config: EmbedConfig, ending: str) -> Path:
    return config.out.with_name(config.out.stem + ending)


def _catalog(config: EmbedConfig) -> Catalog:
    if is_catalog(config.data):
        return Catalog.open(config.data)
    made = _beside(config, "_catalog")
    index.run(index.IndexConfig(archive=config.data, out=made, quiet=config.quiet))
    return Catalog.open(made)


def _kept(
    config: EmbedConfig, catalog: Catalog, card: Card, frozen: Frozen
) -> tuple[list[Record], StoredRecords, dict[str, int]]:
    """Records that the encoder takes, stored as it was trained on them."""
    contract = card.contract
    as_trained = PretrainConfig(
        data=config.data,
        out=config.out,
        spacing_mm=contract.spacing_mm,
        size_px=contract.size_px,
        fps=contract.fps,
        match_channels=contract.picture_channels is not None,
    )
    records, excluded = select(
        catalog.records(where=config.where),
        as_trained,
        channels=card.in_channels,
        kind=frozen.encoder.kind,
        splits=("train", "val", "test"),
    )
    store = Store(config.store or catalog.folder / "store", contract)
    fill_store(catalog, records, store, config.failure_budget)
    return records, stored(records, store), dict(excluded)


def _vectors(
    catalog: Catalog, frozen: Frozen, records: list[Record], kept: StoredRecords
) -> tuple[npt.NDArray[np.float32], StoredRecords]:
    """Vectors, and the records that have one; what cannot be embedded goes to the ledger.

    Raises:
        NothingUsableError: no record can be read.
        MedsslError: a vector that is not finite.
    """
    ids = {store_key(kept.store, record): record.record_id for record in records}
    vectors: list[npt.NDArray[np.float32]] = []
    seen: list[int] = []
    with Progress(transient=True, disable=not rich.get_console().is_terminal) as progress:
        for number, entry in enumerate(progress.track(kept.entries, description="embed")):
            try:
                vectors.append(frozen.vector(kept.store, entry))
                seen.append(number)
            except ReadError as error:
                catalog.ledger.add(ids[entry.key], "embed", error.reason, error.what)
    catalog.ledger.save()
    if not vectors:
        raise NothingUsableError("no record could be embedded", fix="see quarantine.jsonl")
    entries: Sequence[Entry] = [kept.entries[k] for k in seen]
    owners = [int(k) for k in kept.patients[seen]]
    return finite(np.stack(vectors)), StoredRecords(kept.store, entries, owners)


def _read_out(
    frozen: Frozen,
    kept: StoredRecords,
    z_ND: npt.NDArray[np.float32],
    labels: dict[str, list[str]],
) -> dict[str, Any]:
    """How well neighbours tell the free labels, beside the two baselines; and the warning."""
    chosen = evenly(len(z_ND), _MOST_READ)
    told = {name: [values[k] for k in chosen] for name, values in labels.items()}
    entries = [kept.entries[k] for k in chosen]
    random = frozen.untrained(0)
    vectors = {
        "this checkpoint": z_ND[chosen],
        "random weights": np.stack([random.vector(kept.store, one) for one in entries]),
        "raw pixels": np.stack([pixels(kept.store, one) for one in entries]),
    }
    found = {n: read_outs(x_ND, told, kept.patients[chosen]) for n, x_ND in vectors.items()}
    rows = [
        {"features": name, "labels": {k: one._asdict() for k, one in labels_of.items()}}
        for name, labels_of in found.items()
    ]
    warning = shortcut(found["this checkpoint"])
    return {"read_outs": rows, "read_out_of": len(chosen), "shortcut": warning}
