"""Training state that survives a crash: temporary file, fsync, hash in the name, rename.

A checkpoint is ``step_<step>-<sha256 of the file, 32 hex digits>.pt``. A file whose content does
not match its name is never read.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import torch

from medssl.core.errors import UsageError
from medssl.core.runlog import file_digest, write_bytes

_NAME = re.compile(r"step_(\d{8})-([0-9a-f]{32})\.pt")
KEPT = 2


def save_checkpoint(folder: Path, state: dict[str, Any], step: int) -> Path:
    """Write the state of ``step`` and delete all but the last two checkpoints.

    Raises:
        ResourceError: if the disk is full; older checkpoints stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    path = folder / f"step_{step:08d}-{hashlib.sha256(data).hexdigest()[:32]}.pt"
    write_bytes(path, data)
    for old in checkpoints(folder)[KEPT:]:
        old.unlink()
    for leftover in folder.glob(".step_*.tmp"):  # of a run that was killed while writing
        leftover.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoint files, newest first."""
    return sorted((p for p in folder.glob("step_*.pt") if _NAME.fullmatch(p.name)), reverse=True)


def load_newest(folder: Path) -> tuple[dict[str, Any], str] | None:
    """The newest checkpoint whose content matches its name, and its hash; ``None`` without one."""
    for path in checkpoints(folder):
        match = _NAME.fullmatch(path.name)
        if match is None or file_digest(path)[:32] != match.group(2):
            continue
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state, match.group(2)
    return None


def load_latest(folder: Path, config_hash: str) -> dict[str, Any] | None:
    """The state of :func:`load_newest`, to resume its run.

    Raises:
        UsageError: if it was written under another configuration.
    """
    found = load_newest(folder)
    if found is None:
        return None
    state, _ = found
    if state["config_hash"] != config_hash:
        fix = "resume with the options the run was started with, or start a new --out"
        raise UsageError("the run was started with another configuration", fix=fix)
    return state
