"""Before anything is predicted: device, folders, and what an earlier run left."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
import yaml

from medssl.core.errors import UsageError
from medssl.core.runlog import write_bytes
from medssl.readers._video_live import STDIN

if TYPE_CHECKING:
    from medssl.stages.predict import PredictConfig


# A resumed run must not mix results that these would make different.
_FIXED = ("model", "overlap", "hashed_names", "format", "refer_below")


def as_tuple(value: Any) -> Any:
    """One path as a tuple of paths."""
    return (value,) if isinstance(value, str | Path) else value


def device_of(asked: str) -> str:
    """The device to use.

    Raises:
        UsageError: it is not here.
    """
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=asked)
    except (RuntimeError, AssertionError):
        raise UsageError(f"device '{asked}' is not here", fix="device=cpu, or auto") from None
    return asked


def refuse_overlap(config: PredictConfig) -> None:
    """Results may not land among the scans, nor may --overwrite delete scans or the model."""
    out = config.out.resolve()
    source = config.input or config.online
    scans = None if source in (None, STDIN) else Path(source).resolve()
    if scans and (out.is_relative_to(scans) or scans.is_relative_to(out)):
        fix = "choose an --out beside the input"
        raise UsageError("the output and the input overlap", where=str(config.out), fix=fix)
    models = [path.resolve() for path in config.checkpoint]
    if any(out.is_relative_to(model) or model.is_relative_to(out) for model in models):
        fix = "choose an --out beside the checkpoint"
        raise UsageError("the output and the checkpoint overlap", where=str(config.out), fix=fix)


def write_paths(path: Path, rows: list[tuple[str, str, str]]) -> None:
    """Record id, file and first result of each, readable by the owner only."""
    # Binary, as in the catalog: file names need not be valid text.
    schema: dict[str, Any] = {"record_id": pl.String, "path": pl.Binary, "result": pl.Binary}
    encoded = [(record_id, os.fsencode(file), os.fsencode(name)) for record_id, file, name in rows]
    table = io.BytesIO()
    pl.DataFrame(encoded, schema=schema, orient="row").write_parquet(table)
    write_bytes(path, table.getvalue(), mode=0o600)


def check_unchanged(out: Path, wanted: Mapping[str, object]) -> None:
    """Refuse to go on with results that other options made."""
    path = out / "resolved.yaml"
    if not path.exists():
        return
    earlier = yaml.safe_load(path.read_text(encoding="utf-8"))
    changed = [key for key in _FIXED if earlier.get(key) != wanted[key]]
    if changed:
        what = f"the results in the output folder come from another {changed[0]}"
        raise UsageError(what, where=str(out), fix="choose another --out, or give --overwrite")
