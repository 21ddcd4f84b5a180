"""The map of a file that embed wrote: its two main directions, coloured by each free label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from medssl.core.errors import UsageError
from medssl.pages.chart import COLOURS, Series
from medssl.pages.page import Picture
from medssl.pages.picture import png_uri
from medssl.stages._embed_pictures import principal
from medssl.stages._report_facts import read_json

_ID, _VECTOR = "record_id", "embedding"
# More points than a page shows; more values of a label than there are colours.
_MOST_POINTS = 1_500
OTHER, UNKNOWN = "other", "unknown"
_SHEETS = (
    ("neighbours", "nearest neighbours", "first a record, then those of other patients"),
    ("dense", "dense features", "their three main directions as red, green and blue"),
)


@dataclass(frozen=True, kw_only=True)
class Map:
    """Points by each label that tells records apart.

    Attributes:
        shares: of the spread along the two directions, 0..1.
        labels: name of the label, and one series per value.
        shortcut: what embed warns of; empty = nothing.
        read_outs: how well neighbours tell each label, by features and label: excess over chance.
        sheets: pictures that embed made.
    """

    records: int
    shares: tuple[float, float]
    labels: list[tuple[str, list[Series]]]
    shortcut: str = ""
    read_outs: dict[str, dict[str, float]] = field(default_factory=dict)
    sheets: list[Picture] = field(default_factory=list)


def map_of(path: Path) -> Map:
    """Read the file and project it.

    Raises:
        UsageError: no file of embed.
    """
    fix = "give the Parquet file that medssl embed wrote"
    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UsageError("no readable Parquet file", where=str(path), fix=fix) from error
    if not {_ID, _VECTOR} <= set(table.columns) or table.height < 2:
        raise UsageError("no table of embeddings", where=str(path), fix=fix)
    if table.height > _MOST_POINTS:
        table = table.gather_every(-(-table.height // _MOST_POINTS))
    x_ND = np.array(table[_VECTOR].to_list(), dtype=np.float64)
    place_N2, (first, second) = principal(x_ND, 2)
    texts = [c for c, kind in table.schema.items() if kind == pl.String and c != _ID]
    labels = [(name, _series(place_N2, table[name].fill_null(UNKNOWN).to_list())) for name in texts]
    return Map(
        records=table.height,
        shares=(first, second),
        labels=[(name, series) for name, series in labels if len(series) > 1],
        **_beside(path),
    )


def _beside(path: Path) -> dict[str, Any]:
    """What embed wrote beside the table: the read-outs, the shortcut warning, its sheets."""
    facts = path.with_suffix(".json")
    found = read_json(facts) if facts.is_file() else {}
    read_outs = {
        row["features"]: {name: one["excess"] for name, one in row["labels"].items()}
        for row in found.get("read_outs", [])
    }
    sheets = [
        Picture(title=title, caption=caption, data_uri=png_uri(file.read_bytes()))
        for ending, title, caption in _SHEETS
        if (file := path.with_name(f"{path.stem}_{ending}.png")).is_file()
    ]
    return {"shortcut": found.get("shortcut", ""), "read_outs": read_outs, "sheets": sheets}


def _series(place_N2: np.ndarray, values: Sequence[str]) -> list[Series]:
    """One per value, the most frequent first; rare ones together."""
    common = [value for value, _ in Counter(values).most_common()]
    if len(common) == len(values):  # a name of each record, no label
        return []
    if len(common) > COLOURS:
        common = common[: COLOURS - 1]
    named = np.array([value if value in common else OTHER for value in values])
    found = [*common, *([OTHER] if OTHER in named and OTHER not in common else [])]
    return [
        Series(name=value, x=place_N2[named == value, 0].tolist(),
               y=place_N2[named == value, 1].tolist())
        for value in found
    ]  # fmt: skip
