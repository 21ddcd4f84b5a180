"""What this machine has: CPUs, memory, shared memory, disk, GPUs. Nothing heavy is imported."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from medssl.archive._pool import usable_cpus

_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - its size is asked for, nothing is written
_GPU_TIMEOUT_S = 10.0


def machine(folder: Path) -> dict[str, Any]:
    """Resources in bytes and counts; ``None`` where the system does not say.

    Args:
        folder: results would go there; its disk counts.
    """
    return {
        "cpus": usable_cpus(),
        "memory_bytes": _memory_bytes(),
        "shared_memory_bytes": _free_bytes(_SHARED_MEMORY),
        "disk_free_bytes": _free_bytes(folder),
        "gpus": _gpus(),
    }


def _memory_bytes() -> int:
    """Physical memory, or less where a container caps it."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _MEMORY_LIMIT.read_text().strip() if _MEMORY_LIMIT.is_file() else ""
    return min(physical, int(limit)) if limit.isdigit() else physical


def _free_bytes(folder: Path) -> int | None:
    existing = next((one for one in (folder, *folder.absolute().parents) if one.exists()), None)
    return None if existing is None else shutil.disk_usage(existing).free


def _gpus() -> list[dict[str, Any]]:
    """Name and memory of each GPU that nvidia-smi lists; none without it."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, timeout=_GPU_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.rpartition(",") for line in done.stdout.splitlines())
    return [
        {"name": name.strip(), "memory_bytes": int(mib) * 2**20}
        for name, _, mib in rows
        if mib.strip().isdigit()
    ]
