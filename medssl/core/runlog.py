"""The folder a stage writes: config.yaml, resolved.yaml, run.json, metrics.jsonl, TensorBoard.

Nothing here holds a path or an identifier: path-valued config fields are left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl import __version__
from medssl.core.errors import ResourceError, UsageError

if TYPE_CHECKING:
    from medssl.core.config import Config

# errno of a full disk, an exceeded quota, a file larger than allowed.
DISK_FULL_ERRNOS = {28, 122, 27}
# All that a run leaves whose options were refused.
_BEFORE_STEP_1 = {"config.yaml", "resolved.yaml"}


class Run:
    """One run folder; the object that every stage returns.

    Attributes:
        out: the folder.
        result: what the stage found (counts, metrics), also in ``run.json``.
        exit_code: 0, or 4 when items were quarantined.
        ledger: the file that names them.
    """

    def __init__(self, stage: str, out: Path) -> None:
        self.stage = stage
        self.out = out
        self.result: dict[str, Any] = {}
        self.exit_code = 0
        self.ledger = out / "quarantine.jsonl"
        self._started_s = time.time()
        self._cpu_s = time.process_time()
        self._tensorboard: Any = None

    @classmethod
    def open(
        cls, stage: str, out: str | Path, *, resume: bool = False, overwrite: bool = False
    ) -> Run:
        """Create the folder.

        Raises:
            UsageError: if it holds something and neither flag is given.
        """
        folder = Path(out)
        if folder.exists() and not folder.is_dir():
            raise UsageError("the output is a file, not a folder", where=str(folder))
        if folder.is_dir() and any(folder.iterdir()) and not resume:
            if not overwrite:
                fix = "choose another --out; or --resume, --overwrite where the stage has them"
                raise UsageError("the output folder is not empty", where=str(folder), fix=fix)
            _refuse_foreign(folder)
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return cls(stage, folder)

    def save_config(self, config: Config, resolved: Mapping[str, Any]) -> None:
        """Write the given values and the derived ones; path-valued fields are left out."""
        from medssl.core.config import dump_yaml  # worker processes do without pydantic

        hidden = {k for k, v in config if any(isinstance(one, Path) for one in _each(v))}
        given = config.model_dump(mode="json", exclude_unset=True, exclude=hidden)
        full = config.model_dump(mode="json", exclude=hidden)
        write_text(self.out / "config.yaml", dump_yaml(given))
        write_text(self.out / "resolved.yaml", dump_yaml({**full, **resolved}))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line to ``metrics.jsonl`` and to the TensorBoard event file."""
        line = json.dumps({"step": step, "time_s": round(time.time(), 3), **values})
        with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self._tensorboard is None:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(self.out / "tensorboard"))
        for key, value in values.items():
            self._tensorboard.add_scalar(key, value, step)

    def finish(self, **result: Any) -> Run:
        """Write ``run.json`` and close the logs."""
        self.result.update(result)
        if self._tensorboard is not None:
            self._tensorboard.close()
        report = {
            "stage": self.stage,
            "medssl": __version__,
            "python": platform.python_version(),
            "libraries": _versions("torch", "numpy", "monai", "pydicom", "nibabel"),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started_s)),
            "wall_s": round(time.time() - self._started_s, 2),
            "cpu_s": round(time.process_time() - self._cpu_s, 2),
            "exit_code": self.exit_code,
            **self.result,
        }
        write_text(self.out / "run.json", json.dumps(report, indent=1) + "\n")
        return self


def write_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file so that a crash leaves the old content or the new, nothing between.

    Raises:
        ResourceError: if the disk is full; the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(error) from error


def write_text(path: Path, text: str, *, mode: int = 0o644) -> None:
    """UTF-8 :func:`write_bytes`."""
    write_bytes(path, text.encode(), mode=mode)


def remove_refused(folder: Path) -> None:
    """Remove the folder of a run that was refused before it did anything; others stay."""
    if folder.is_dir() and {file.name for file in folder.iterdir()} <= _BEFORE_STEP_1:
        shutil.rmtree(folder)


def sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def disk_error(error: OSError) -> Exception:
    """A full disk as :class:`ResourceError`; any other error unchanged."""
    if error.errno not in DISK_FULL_ERRNOS:
        return error
    fix = "free disk space and run again with --resume"
    return ResourceError("the disk is full", where=str(error.filename or ""), fix=fix)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _each(value: object) -> Iterable[object]:
    return value if isinstance(value, list | tuple) else (value,)


def _refuse_foreign(folder: Path) -> None:
    # --overwrite deletes; only a folder that a run wrote may go.
    if not any((folder / name).exists() for name in ("run.json", "config.yaml", "metrics.jsonl")):
        fix = "delete it yourself or choose another --out"
        raise UsageError("the output folder was not written by medssl", where=str(folder), fix=fix)


def _versions(*names: str) -> dict[str, str]:
    loaded = {name: sys.modules.get(name) for name in names}
    return {k: str(getattr(m, "__version__", "?")) for k, m in loaded.items() if m}
